"""PostgreSQL as the store of memory-core."""
