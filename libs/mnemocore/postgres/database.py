"""A pool of connections that keeps deadlines and speaks the project's errors."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import asyncpg

from mnemocore import calls
from mnemocore.errors import DeadlineExceededError, InvalidSettingError, MnemoError, StoreUnavailableError
from mnemocore.outages import Outages
from mnemocore.postgres.failures import RETRY_AFTER, translated, unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from asyncpg import Connection, Record

T = TypeVar("T")
Isolation = Literal["read_committed", "repeatable_read", "serializable"]

_OLDEST_VERSION: Final = 15
_CONNECT_LIMIT: Final = 5.0
_ACQUIRE_LIMIT: Final = 5.0
_WORK_LIMIT: Final = 30.0
"""Seconds for a query or transaction outside of a call that has a deadline."""
_RELEASE_LIMIT: Final = 1.0
_CLOSE_LIMIT: Final = 5.0
_READY_LIMIT: Final = 1.0
_ATTEMPTS: Final = 5
_SESSION: Final = {"timezone": "UTC", "jit": "off", "default_transaction_isolation": "read committed"}
"""What queries rely on, whatever the database says to others."""
_log = logging.getLogger("mnemocore.postgres")
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_FIRST: Final = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
_LAST: Final = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND


class Database:
    """A PostgreSQL database.

    Every query and transaction ends by the deadline of the running call (`mnemocore.calls.deadline`), or after 30 s
    where there is none. One that is cancelled or too late costs its connection, so that nothing of it takes effect
    later.

    Methods raise StoreUnavailableError when the database does not answer, StoreFullError when its disk is full, and
    DeadlineExceededError; a broken constraint is raised as the driver's own error, for the storage room that knows it.
    Columns of type json and jsonb are text. Times are timezone-aware, UTC, the first and the last moment too.
    """

    def __init__(self, pool: asyncpg.Pool, url: str, application_name: str) -> None:
        self._pool = pool
        self._url = url
        self._application_name = application_name
        self._outages = Outages("PostgreSQL", _log)

    @classmethod
    async def open(
        cls, url: str, *, min_size: int = 1, max_size: int = 10, application_name: str, require_fsync: bool = True
    ) -> Database:
        """Connect to `url` with `min_size` to `max_size` connections.

        With `require_fsync` a database that may lose acknowledged writes (fsync or synchronous_commit off) is refused.
        Raises InvalidSettingError if the URL, its credential or the database is not usable.
        """
        with translated():
            try:
                pool = await asyncpg.create_pool(
                    url,
                    min_size=min_size,
                    max_size=max_size,
                    timeout=_CONNECT_LIMIT,
                    server_settings={"application_name": application_name} | _SESSION,
                    init=_speak_utc,
                    reset=_keep_session,
                )
            except (asyncpg.exceptions.ClientConfigurationError, ValueError) as error:
                raise _refused(
                    "is not a PostgreSQL URL; allowed is postgresql://user:password@host/database"
                ) from error
            except asyncpg.exceptions.InvalidAuthorizationSpecificationError as error:
                raise _refused("names a user or password that the database refuses") from error
            except asyncpg.exceptions.InvalidCatalogNameError as error:
                raise _refused("names a database that does not exist") from error
        database = cls(pool, url, application_name)
        try:
            await database._check(require_fsync)
        except MnemoError:
            await database.close()
            raise
        return database

    @asynccontextmanager
    async def transaction(
        self, *, isolation: Isolation = "read_committed", readonly: bool = False, seconds: float = _WORK_LIMIT
    ) -> AsyncIterator[Connection]:
        """A connection inside a transaction: committed at the end of the block, rolled back when the block raises.

        `seconds` bounds the whole block outside of a call that has a deadline.
        """
        async with self._connection(_budget(seconds)) as connection:
            transaction = connection.transaction(isolation=isolation, readonly=readonly)
            await transaction.start()
            try:
                yield connection
            except BaseException as error:  # whatever it is, nothing of the transaction may stay
                if not isinstance(error, asyncio.CancelledError) and _is_open(connection):
                    await transaction.rollback()
                raise
            await transaction.commit()

    async def run_transaction(
        self, work: Callable[[Connection], Awaitable[T]], *, isolation: Isolation = "serializable"
    ) -> T:
        """The result of `work` in a transaction, run again (5 times in all) when it collides with another one.

        Raises StoreUnavailableError when it still collides.
        """
        for attempt in range(_ATTEMPTS):
            try:
                async with self.transaction(isolation=isolation) as connection:
                    return await work(connection)
            except (asyncpg.SerializationError, asyncpg.DeadlockDetectedError):
                await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))
        _log.warning("a transaction collided with others %d times in a row; it was given up", _ATTEMPTS)
        raise StoreUnavailableError("the store is busy with colliding writes", retry_after=RETRY_AFTER)

    async def fetch(self, query: str, *values: Any) -> list[Record]:
        """All rows of the answer."""
        async with self._connection(_budget()) as connection:
            rows: list[Record] = await connection.fetch(query, *values)
            return rows

    async def fetchrow(self, query: str, *values: Any) -> Record | None:
        """The first row of the answer; None if there is none."""
        async with self._connection(_budget()) as connection:
            return await connection.fetchrow(query, *values)

    async def fetchval(self, query: str, *values: Any) -> Any:
        """The first column of the first row; None if there is no row."""
        async with self._connection(_budget()) as connection:
            return await connection.fetchval(query, *values)

    async def execute(self, query: str, *values: Any) -> str:
        """Run a statement; returns its command tag, such as `UPDATE 1`."""
        async with self._connection(_budget()) as connection:
            tag: str = await connection.execute(query, *values)
            return tag

    async def ready(self) -> bool:
        """Whether the database answers within a second."""
        try:
            async with self._connection(_READY_LIMIT) as connection:
                await connection.execute("SELECT 1")
        except MnemoError:
            return False
        return True

    async def connect(self) -> Connection:
        """A connection of its own outside of the pool, for the caller to close."""
        with translated(self._outages):
            return await asyncpg.connect(
                self._url, timeout=_CONNECT_LIMIT, server_settings={"application_name": self._application_name}
            )

    async def close(self) -> None:
        """Close all connections; what runs has 5 seconds to end. A second close does nothing."""
        try:
            async with asyncio.timeout(_CLOSE_LIMIT):
                await self._pool.close()
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self._pool.terminate()

    @asynccontextmanager
    async def _connection(self, seconds: float) -> AsyncIterator[Connection]:
        with translated(self._outages):
            async with asyncio.timeout(seconds):
                connection = await self._pool.acquire(timeout=min(seconds, _ACQUIRE_LIMIT))
                try:
                    yield connection
                except asyncio.CancelledError:
                    connection.terminate()
                    raise
                finally:
                    await self._pool.release(connection, timeout=_RELEASE_LIMIT)

    async def _check(self, require_fsync: bool) -> None:
        row = await self.fetchrow(
            "SELECT current_setting('fsync') AS fsync, current_setting('synchronous_commit') AS synchronous_commit, "
            "current_setting('server_version_num')::int / 10000 AS version"
        )
        if row is None:
            raise unavailable(LookupError("no answer to the first query"))
        if row["version"] < _OLDEST_VERSION:
            raise _refused(f"leads to PostgreSQL {row['version']}; allowed is {_OLDEST_VERSION} or newer")
        for setting in ("fsync", "synchronous_commit"):
            if require_fsync and row[setting] == "off":
                raise InvalidSettingError(
                    f"the database has {setting} = off, which can lose acknowledged writes; allowed is on",
                    setting=setting,
                )


def _budget(seconds: float = _WORK_LIMIT) -> float:
    deadline = calls.deadline.get()
    if deadline is None:
        return seconds
    left = deadline - time.monotonic()
    if left <= 0:
        raise DeadlineExceededError
    return left


def _refused(reason: str) -> InvalidSettingError:
    return InvalidSettingError(f"database_url (hidden) {reason}", setting="database_url")


def _is_open(connection: Connection) -> bool:
    try:
        return not connection.is_closed()
    except asyncpg.InterfaceError:  # the pool has taken back a connection that broke
        return False


async def _speak_utc(connection: Connection) -> None:
    """The driver by itself gives the first and the last moment, which it stores as infinities, without a time zone."""
    await connection.set_type_codec(
        "timestamptz", schema="pg_catalog", encoder=_microseconds, decoder=_moment, format="tuple"
    )


def _microseconds(moment: datetime) -> tuple[int]:
    return ((moment - _EPOCH) // _MICROSECOND,)


def _moment(microseconds: tuple[int]) -> datetime:
    return _EPOCH + timedelta(microseconds=min(max(microseconds[0], _FIRST), _LAST))


async def _keep_session(connection: Connection) -> None:
    """Nothing to reset: no code of ours changes a session, and the driver itself rolls back an open transaction."""
