"""How long events of no space are kept."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from mnemo_events.app import EventsApp
from mnemo_events.domain.event import Event
from mnemo_events.domain.filter import Filter
from mnemo_events.domain.retention import BATCH, MEBIBYTE, PERIOD_SECONDS, Keep, Retention
from mnemo_events.settings import PREFIX, EventsSettings
from mnemo_events.storage.postgres_engine import PostgresEngine
from mnemo_events.storage.postgres_log import PostgresLog
from mnemocore.errors import StoreUnavailableError
from mnemocore.ids import SpaceUid, Tenant
from mnemocore.settings import load
from mnemocore.testing.clock import ManualClock
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mnemocore.postgres import Database

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = 86_400.0


class OutFirst(PostgresLog):
    """A log that does not answer the first time it is to trim."""

    tries = 0

    async def trim(
        self, stored_before: datetime | None, keep: int | None, limit: int, *, keep_bytes: int | None = None
    ) -> int:
        self.tries += 1
        if self.tries == 1:
            raise StoreUnavailableError
        return await super().trim(stored_before, keep, limit, keep_bytes=keep_bytes)


@pytest.fixture
async def log(database: Database) -> OutFirst:
    await PostgresEngine(database).start()
    return OutFirst(database)


@asynccontextmanager
async def running(retention: Retention) -> AsyncIterator[None]:
    task = asyncio.create_task(retention.run())
    yield
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


def events(first: int, number: int, space_uid: str = "", data: bytes = b"") -> list[Event]:
    return [
        Event(
            id=f"{n}",
            source="tests",
            type="test.happened",
            subject="",
            time=START,
            datacontenttype="",
            dataschema="",
            data=data,
            tenant=Tenant("acme"),
            space_uid=SpaceUid(space_uid),
            revision=0,
            traceparent="",
        )
        for n in range(first, first + number)
    ]


async def test_everything_is_kept_unless_told_otherwise(log: OutFirst) -> None:
    await Retention(log, Keep(), ManualClock(START)).run()
    assert log.tries == 0


async def test_what_is_not_kept_goes_within_a_minute(log: OutFirst) -> None:
    """In batches until nothing is left of it; by age and by number; also after the log did not answer."""
    clock = ManualClock(START)
    await log.append(events(0, 3, "018f0000-0000-7000-8000-00000000000a"), START)
    await log.append(events(3, 2 * BATCH + 7), START)
    await log.append(events(3 + 2 * BATCH + 7, 10), START + timedelta(days=1))
    async with running(Retention(log, Keep(days=2, events=BATCH + 10), clock)):
        await until(lambda: clock.sleepers == 1)
        assert (log.tries, await log.trimmed()) == (1, 0)
        await clock.advance(PERIOD_SECONDS)
        await until(lambda: log.tries == 4 and clock.sleepers == 1)
        assert await log.trimmed() == 3 + BATCH + 7
        await clock.advance(2 * DAY + 1)
        await until(lambda: log.tries == 6 and clock.sleepers == 1)
        assert await log.trimmed() == 3 + 2 * BATCH + 7
        page = await log.read(0, Filter(), 100)
        assert [stored.position for stored in page.events] == [1, 2, 3, *range(2 * BATCH + 11, 2 * BATCH + 21)]


async def test_so_many_mebibytes_are_kept(log: OutFirst) -> None:
    await log.append(events(0, 9, data=b"x" * (MEBIBYTE // 4)), START)
    retention = Retention(log, Keep(mebibytes=2), ManualClock(START))
    with pytest.raises(StoreUnavailableError):
        await retention.trim()
    assert (await retention.trim(), await retention.trim(), await log.trimmed()) == (1, 0, 1)


@pytest.mark.parametrize(("setting", "trimmed"), [("KEEP_DAYS=1", 9), ("KEEP_EVENTS=4", 5), ("KEEP_MIB=2", 1)])
async def test_the_environment_says_what_is_kept(database: Database, setting: str, trimmed: int) -> None:
    name, _, value = setting.partition("=")
    settings = load(EventsSettings, PREFIX, {PREFIX + name: value}, database_url="postgresql://", internal_token="t")
    clock, engine = ManualClock(START), PostgresEngine(database)
    app = EventsApp.of(settings, database, clock, engine)
    await app.start()
    await engine.log.append(events(0, 9, data=b"x" * (MEBIBYTE // 4)), START - timedelta(days=2))

    async def is_trimmed() -> bool:
        await clock.advance(PERIOD_SECONDS)
        return await engine.log.trimmed() == trimmed

    await until(is_trimmed)
    app.drain()
    await app.stop()
