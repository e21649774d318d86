from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from mnemocore import calls
from mnemocore.errors import DeadlineExceededError, InvalidSettingError, StoreFullError, StoreUnavailableError
from mnemocore.postgres import Database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from mnemocore.testing.postgres import TestPostgres


@pytest.fixture
async def table(database: Database) -> Database:
    await database.execute("CREATE TABLE t (n int PRIMARY KEY)")
    return database


@pytest.fixture
async def narrow(postgres: TestPostgres, database_url: str) -> AsyncIterator[Database]:
    """A pool of one connection."""
    opened = await postgres.open(database_url, max_size=1)
    yield opened
    await opened.close()


@contextmanager
def deadline_in(seconds: float) -> Iterator[None]:
    token = calls.deadline.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        calls.deadline.reset(token)


async def count(database: Database) -> int:
    return int(await database.fetchval("SELECT count(*) FROM t"))


async def test_queries(table: Database) -> None:
    assert await table.execute("INSERT INTO t VALUES ($1), ($2)", 1, 2) == "INSERT 0 2"
    assert [row["n"] for row in await table.fetch("SELECT n FROM t ORDER BY n")] == [1, 2]
    row = await table.fetchrow("SELECT n FROM t WHERE n = $1", 2)
    assert row is not None
    assert row["n"] == 2
    assert await table.fetchrow("SELECT n FROM t WHERE n = 3") is None
    assert await table.fetchval("SELECT n FROM t WHERE n = 3") is None
    assert await table.fetchval("SELECT current_setting('timezone')") == "UTC"


async def test_times_are_in_utc_also_the_first_and_the_last_moment(database: Database) -> None:
    moments = [
        datetime.min.replace(tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(2026, 7, 1, 12, tzinfo=timezone(timedelta(hours=2))),
        datetime.max.replace(tzinfo=UTC),
    ]
    assert [await database.fetchval("SELECT $1::timestamptz", moment) for moment in moments] == moments
    assert await database.fetchval("SELECT $1::timestamptz[]", [*moments, None]) == [*moments, None]
    ends = await database.fetchrow("SELECT '-infinity'::timestamptz AS first, 'infinity'::timestamptz AS last")
    assert ends is not None
    assert (ends["first"], ends["last"]) == (moments[0], moments[-1])
    assert await database.fetchval("SELECT now()") - datetime.now(UTC) < timedelta(minutes=1)
    with pytest.raises(asyncpg.DataError):
        await database.fetchval("SELECT $1::timestamptz", datetime(2026, 1, 1))  # noqa: DTZ001  (it is what is refused)


async def test_a_transaction_is_all_or_nothing(table: Database) -> None:
    async with table.transaction() as connection:
        await connection.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(KeyError):
        async with table.transaction() as connection:
            await connection.execute("INSERT INTO t VALUES (2)")
            raise KeyError
    assert await count(table) == 1


async def test_a_broken_constraint_reaches_the_storage_room(table: Database) -> None:
    await table.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(asyncpg.UniqueViolationError):
        async with table.transaction() as connection:
            await connection.execute("INSERT INTO t VALUES (1)")


async def test_a_query_ends_by_the_deadline_of_the_call(table: Database) -> None:
    with deadline_in(0.2), pytest.raises(DeadlineExceededError):
        await table.fetchval("SELECT pg_sleep(3000)")
    with deadline_in(-1), pytest.raises(DeadlineExceededError):
        await table.fetchval("SELECT 1")


async def test_a_transaction_that_is_too_late_has_no_effect(table: Database) -> None:
    with deadline_in(0.2), pytest.raises(DeadlineExceededError):
        async with table.transaction() as connection:
            await connection.execute("INSERT INTO t VALUES (1)")
            await connection.execute("SELECT pg_sleep(30)")
    assert await count(table) == 0


async def test_a_cancelled_transaction_has_no_effect(table: Database) -> None:
    inserted = asyncio.Event()

    async def write() -> None:
        async with table.transaction() as connection:
            await connection.execute("INSERT INTO t VALUES (1)")
            inserted.set()
            await connection.execute("SELECT pg_sleep(30)")

    task = asyncio.create_task(write())
    await inserted.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await table.execute("INSERT INTO t VALUES (1)")
    assert await count(table) == 1


async def test_waiting_for_a_connection_ends_by_the_deadline(narrow: Database) -> None:
    async with narrow.transaction():
        with deadline_in(0.1), pytest.raises(DeadlineExceededError):
            await narrow.fetchval("SELECT 1")
    assert await narrow.fetchval("SELECT 1") == 1


async def test_a_connection_that_breaks_is_an_unavailable_store_and_is_replaced(
    narrow: Database, database: Database
) -> None:
    async def break_it(connection: Any) -> None:
        pid = await connection.fetchval("SELECT pg_backend_pid()")
        await database.execute("SELECT pg_terminate_backend($1, 5000)", pid)

    for statements in (1, 2):
        with pytest.raises(StoreUnavailableError) as caught:
            async with narrow.transaction() as connection:
                await break_it(connection)
                for _ in range(statements):
                    await connection.execute("SELECT 1")
        assert str(caught.value) == "the store does not answer"
        assert caught.value.retry_after == 1
        assert await narrow.fetchval("SELECT 1") == 1


async def test_a_full_disk_is_named(database: Database) -> None:
    with pytest.raises(StoreFullError):
        await database.execute("DO $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$")


async def test_a_closed_database_does_not_answer(database: Database) -> None:
    assert await database.ready()
    await database.close()
    await database.close()
    assert not await database.ready()
    with pytest.raises(StoreUnavailableError):
        await database.fetchval("SELECT 1")


async def test_colliding_transactions_are_run_again(table: Database) -> None:
    async def add_next(connection: Any) -> int:
        n: int = await connection.fetchval("SELECT coalesce(max(n), 0) + 1 FROM t")
        await connection.execute("INSERT INTO t VALUES ($1)", n)
        return n

    added = await asyncio.gather(*(table.run_transaction(add_next) for _ in range(3)))
    assert sorted(added) == [1, 2, 3]


async def test_transactions_that_collide_for_ever_give_up(database: Database) -> None:
    attempts = 0

    async def collide(connection: Any) -> None:
        nonlocal attempts
        attempts += 1
        await connection.execute("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$")

    with pytest.raises(StoreUnavailableError, match="busy"):
        await database.run_transaction(collide)
    assert attempts == 5


async def test_fsync_off_is_refused_unless_asked_for(database_url: str) -> None:
    with pytest.raises(InvalidSettingError, match="fsync = off, which can lose acknowledged writes; allowed is on"):
        await Database.open(database_url, application_name="test")


async def test_commits_that_do_not_wait_are_refused(postgres: TestPostgres, database: Database) -> None:
    name = await database.fetchval("SELECT current_database()")
    await database.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    await database.execute(f'ALTER DATABASE "{name}" SET timezone = UTC')
    url = postgres.url_for(name)
    with pytest.raises(InvalidSettingError, match="= off"):
        await Database.open(url, application_name="test")


async def test_what_a_database_has_for_others_does_not_count(postgres: TestPostgres, database: Database) -> None:
    name = await database.fetchval("SELECT current_database()")
    await database.execute(f'ALTER DATABASE "{name}" SET default_transaction_isolation = serializable')
    await database.execute(f'ALTER DATABASE "{name}" SET timezone = "Asia/Tokyo"')
    opened = await Database.open(postgres.url_for(name), application_name="test", require_fsync=False)
    try:
        assert await opened.fetchval("SHOW transaction_isolation") == "read committed"
        assert await opened.fetchval("SHOW timezone") == "UTC"
    finally:
        await opened.close()


async def test_a_bad_url_is_refused_without_being_shown(database_url: str) -> None:
    for url in (
        "mysql://user:hunter2@host/database",
        "postgresql://user:hunter2@host:port/database",
        database_url.replace("test_", "missing_"),
        database_url.replace("mnemo@", "hunter2@"),
    ):
        with pytest.raises(InvalidSettingError) as caught:
            await Database.open(url, application_name="test")
        assert caught.value.metadata == {"setting": "database_url"}
        assert "hunter2" not in str(caught.value)


async def test_a_server_that_is_not_there_is_an_unavailable_store() -> None:
    for url in ("postgresql://user:hunter2@127.0.0.1:1/database", "postgresql://user@/database?host=/nowhere"):
        with pytest.raises(StoreUnavailableError, match=r"^the store does not answer$"):
            await Database.open(url, application_name="test")
