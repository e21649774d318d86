"""PostgreSQL as the store of jobs."""
