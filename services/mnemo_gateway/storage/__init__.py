"""PostgreSQL as the store of API keys."""
