"""The wire of memory-core: requests in, domain calls, responses out."""
