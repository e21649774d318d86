"""PostgreSQL as the event log."""
