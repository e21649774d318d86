"""memory-core: the system of record for spaces, memories and their history."""
