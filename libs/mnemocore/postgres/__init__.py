"""PostgreSQL: the embedded server, the pool, migrations and notifications.

One SQL dialect serves both ways to run: the server that `embedded` starts beside the process, and any PostgreSQL 15 or
newer that an operator names by URL.
"""

from mnemocore.postgres.database import Database
from mnemocore.postgres.embedded import EmbeddedPostgres
from mnemocore.postgres.migrations import migrate
from mnemocore.postgres.notifications import Listener
from mnemocore.postgres.reserve import DiskReserve

__all__ = ["Database", "DiskReserve", "EmbeddedPostgres", "Listener", "migrate"]
