"""The engine on PostgreSQL: its start, its news, and logs of earlier versions."""

from __future__ import annotations

import asyncio
import importlib.resources
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from mnemo_events.domain.event import Event
from mnemo_events.domain.filter import Filter
from mnemo_events.domain.group import Fresh, Group, Outcome
from mnemo_events.storage.inventory import COUNTED, take
from mnemo_events.storage.postgres_engine import PostgresEngine
from mnemocore.ids import SpaceUid, Tenant
from mnemocore.postgres import migrate
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mnemocore.postgres import Database
    from mnemocore.testing.postgres import TestPostgres

NOW = datetime(2026, 1, 1, tzinfo=UTC)
_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'events'"
LATER = NOW + timedelta(seconds=60)


class News:
    """What an engine reported."""

    def __init__(self) -> None:
        self.heads: list[int | None] = []
        self.changes = 0

    def changed(self, _: str | None) -> None:
        self.changes += 1


@asynccontextmanager
async def listening(engine: PostgresEngine) -> AsyncIterator[News]:
    """An engine that listens; the first news, that some may have been missed, are in."""
    news = News()
    task = asyncio.create_task(engine.listen(news.heads.append, news.changed))
    await until(lambda: news.heads == [None] and news.changes == 1)
    yield news
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


def event(id: str, space_uid: str = "") -> Event:
    return Event(id, "tests", "test.happened", "", NOW, "", "", b"", Tenant("acme"), SpaceUid(space_uid), 0, "")


def group(name: str = "workers") -> Group:
    where = Filter(tenant=Tenant("acme"))
    return Group("", Tenant("acme"), name, where, 5, timedelta(seconds=60), "alice", NOW)


async def test_others_learn_that_the_log_grew(database: Database, postgres: TestPostgres, database_url: str) -> None:
    """With the new head."""
    engine = PostgresEngine(database)
    await engine.start()
    other = await postgres.open(database_url)
    async with listening(PostgresEngine(other)) as news:
        await engine.log.append([event("a"), event("b")], NOW)
        await engine.log.append([event("b")], NOW)
        await engine.log.append([event("c")], NOW)
        await until(lambda: news.heads == [None, 2, 3])
        assert news.changes == 1
    await other.close()


async def test_others_learn_that_something_may_be_due(database: Database) -> None:
    """After a failure, a release, a revival, a seek, a deletion, and when something waited for what is done."""
    engine = PostgresEngine(database)
    await engine.start()
    groups, made = engine.groups, await engine.groups.create(group(), 0)
    async with listening(engine) as news:
        fresh = Fresh(0, 4, ((1, "x"), (2, "x"), (3, ""), (4, "")))
        await groups.claim(made, "a", 10, NOW, LATER, fresh)
        await groups.settle(made, "a", [Outcome(3, 1, done=True), Outcome(1, 1)], NOW, LATER)
        assert news.changes == 1
        await groups.settle(made, "a", [Outcome(2, 1, retry_at=LATER)], NOW, LATER)
        await until(lambda: news.changes == 2)
        await groups.settle(made, "a", [Outcome(1, 1, done=True)], NOW, LATER)
        await until(lambda: news.changes == 3)
        assert await groups.release(made, "a", counted=True) == 1
        await until(lambda: news.changes == 4)
        await groups.revive(made, [1], NOW)
        await until(lambda: news.changes == 5)
        await groups.seek(made, 0)
        await until(lambda: news.changes == 6)
        await groups.delete(made)
        await until(lambda: news.changes == 7)


async def test_ready_as_long_as_the_database_answers(postgres: TestPostgres, database_url: str) -> None:
    """Not when it is closed."""
    database = await postgres.open(database_url)
    engine = PostgresEngine(database)
    await engine.start()
    assert await engine.ready()
    await engine.stop()
    await database.close()
    assert not await engine.ready()


async def test_a_log_of_an_earlier_version(database: Database) -> None:
    """Its events are there; times that went back do so no more; trimming counts what was there before."""
    migrations = importlib.resources.files("mnemo_events.storage.migrations")
    async with database.transaction() as connection:
        await connection.execute("CREATE SCHEMA events")
        for name in ("0001_log.sql", "0002_ends_of_spaces.sql"):
            await connection.execute((migrations / name).read_text())
        for position, seconds in enumerate((5, 3, 9, 0, 10), 1):
            await connection.execute(
                "INSERT INTO events.log "
                "VALUES ($1, 'acme', 'tests', $2, 'test.happened', '', $3, '', '', '5 byt', $4, 0, '', $5)",
                position,
                f"{position}",
                NOW,
                None if position % 2 else "018f0000-0000-7000-8000-00000000000a",
                NOW + timedelta(seconds=seconds),
            )
        await connection.execute("UPDATE events.head SET position = 5")
        assert await take(connection) == {"head": 5, "events": 5, **dict.fromkeys(COUNTED, 0)}
        await connection.execute((migrations / "0003_groups.sql").read_text())
        assert await take(connection) == {"head": 5, "events": 5, **dict.fromkeys(COUNTED, 0)}
        for name in ("0010_append.sql", "0012_bytes_of_no_space.sql"):
            await connection.execute((migrations / name).read_text())
    log = PostgresEngine(database).log
    page = await log.read(0, Filter(), 10)
    assert [(stored.stored_at - NOW).total_seconds() for stored in page.events] == [5, 5, 9, 9, 10]
    assert {stored.event.correlation_id for stored in page.events} == {""}
    assert await log.position_before(NOW + timedelta(seconds=6)) == 2
    assert await log.append([event("6")], NOW) == [6]
    assert await log.trim(None, None, 10, keep_bytes=10) == 1
    assert await log.trim(None, 1, 10) == 2
    assert [stored.position for stored in (await log.read(0, Filter(), 10)).events] == [2, 4, 6]
    assert await log.trimmed() == 5


async def test_a_log_that_was_empty_is_not_searched_for_every_key(database: Database) -> None:
    """In a log of some hundred events it may be cheaper; a plan that was made then is not kept."""
    await migrate(database, "mnemo_events.storage.migrations", schema="events")
    log = PostgresEngine(database).log
    for batch in range(200):
        await log.append([event(f"{batch}:{number}") for number in range(20)], NOW)

    async def counted() -> bool:
        written = "SELECT n_tup_ins FROM pg_stat_user_tables WHERE schemaname = 'events' AND relname = 'log'"
        return await database.fetchval(written) == 4000  # type: ignore[no-any-return]

    await until(counted)
    others = "SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE schemaname = 'events' AND indexrelname = $1"
    assert await database.fetchval(others, "log_by_tenant") < 1_000_000  # a plan that is kept reads 8,000,000


async def test_the_inventory_counts_every_table(database: Database) -> None:
    """A table that is added and not counted would be missing in what a backup says of itself."""
    engine = PostgresEngine(database)
    await migrate(database, "mnemo_events.storage.migrations", schema="events")
    await engine.log.append([event("1")], NOW)
    await engine.groups.create(group(), 0)
    tables = {row["tablename"] for row in await database.fetch(_TABLES)}
    async with database.transaction(readonly=True) as connection:
        found = await take(connection)
    assert tables == {*COUNTED, "head", "log", "migrations"}
    assert {name: count for name, count in found.items() if count} == {"head": 1, "events": 1, "groups": 1}


async def test_a_replica_of_an_earlier_version_appends_and_reads_while_the_log_is_changed(database: Database) -> None:
    """What it has begun it ends, and neither of the two is ended as a deadlock."""
    migrations = importlib.resources.files("mnemo_events.storage.migrations")
    async with database.transaction() as connection:
        await connection.execute("CREATE SCHEMA events")
        for name in ("0001_log.sql", "0002_ends_of_spaces.sql"):
            await connection.execute((migrations / name).read_text())

    async def change() -> None:
        async with database.transaction() as connection:
            for name in ("0003_groups.sql", "0010_append.sql", "0012_bytes_of_no_space.sql"):
                await connection.execute((migrations / name).read_text())

    async def waits() -> bool:
        return bool(await database.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"))

    async with database.transaction() as old:
        await old.fetchrow("SELECT position FROM events.head FOR UPDATE")
        changing = asyncio.create_task(change())
        await until(waits)
        await old.execute(
            "INSERT INTO events.log "
            "VALUES (1, 'acme', 'tests', '1', 'test.happened', '', $1, '', '', '', NULL, 0, '', $1)",
            NOW,
        )
        await old.execute("UPDATE events.head SET position = 1")
    await changing
    log = PostgresEngine(database).log
    assert [stored.event.id for stored in (await log.read(0, Filter(), 10)).events] == ["1"]
    assert await log.trim(None, 0, 10) == 1
