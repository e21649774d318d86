"""PostgreSQL: the data directory, the embedded server, the pool, migrations and notifications.

One SQL dialect serves both ways to run: the server that `embedded` starts beside the process, and any PostgreSQL 15 or
newer that an operator names by URL.
"""
