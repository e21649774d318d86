"""Subscriptions on the real log, with a clock that is moved by hand."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from mnemo_events.domain.arrivals import Arrivals
from mnemo_events.domain.event import Event, Page
from mnemo_events.domain.filter import Filter
from mnemo_events.domain.publisher import Publisher
from mnemo_events.domain.reader import read_page
from mnemo_events.domain.subscription import (
    FEW_READERS,
    MAX_BATCH,
    PAUSE_PER_READER,
    Subscription,
    Subscriptions,
)
from mnemo_events.storage.postgres_log import STRETCH, PostgresLog
from mnemocore.errors import AccessDeniedError, EventsTrimmedError, InvalidFieldError, ShuttingDownError
from mnemocore.ids import SpaceUid, Tenant
from mnemocore.postgres import migrate
from mnemocore.testing.clock import ManualClock
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable

    from mnemocore.postgres import Database


class Bus:
    """A log, who publishes to it, and who follows it."""

    def __init__(self, database: Database) -> None:
        self.clock = ManualClock()
        self.log = PostgresLog(database)
        self.arrivals = Arrivals()
        self.subscriptions = Subscriptions(self.log, self.arrivals, self.clock)
        self.publisher = Publisher(self.log, self.arrivals, self.clock)
        self.published = 0

    async def publish(self, count: int, type: str = "memory.created") -> None:
        names = range(self.published, self.published + count)
        self.published += count
        for start in range(0, count, 1000):
            await self.publisher.publish([event(str(name), type) for name in names[start : start + 1000]])

    @asynccontextmanager
    async def follow(
        self, credit: int, after: int = 0, where: Filter | None = None
    ) -> AsyncIterator[tuple[Subscription, AsyncGenerator[Page]]]:
        with self.subscriptions.open(after, where or Filter(), credit) as subscription:
            async with aclosing(subscription.pages()) as pages:
                yield subscription, pages

    async def asleep(self) -> None:
        """Return when a subscription waits."""
        await until(lambda: self.clock.sleepers == 1)


@pytest.fixture
async def bus(database: Database) -> Bus:
    await migrate(database, "mnemo_events.storage.migrations", schema="events")
    return Bus(database)


def event(id: str, type: str = "memory.created") -> Event:
    return Event(
        id=id,
        source="test",
        type=type,
        subject="",
        time=datetime(2026, 1, 1, tzinfo=UTC),
        datacontenttype="",
        dataschema="",
        data=b"",
        tenant=Tenant("acme"),
        space_uid=SpaceUid(""),
        revision=0,
        traceparent="",
    )


def soon(pages: AsyncGenerator[Page]) -> Awaitable[Page]:
    return asyncio.wait_for(anext(pages), 60)


async def test_what_is_there_comes_at_once_in_full_pages(bus: Bus) -> None:
    await bus.publish(MAX_BATCH + 100)
    async with bus.follow(credit=10_000) as (_, pages):
        first, second = await soon(pages), await soon(pages)
    assert (len(first.events), first.resume, first.head) == (MAX_BATCH, MAX_BATCH, MAX_BATCH + 100)
    assert (len(second.events), second.resume) == (100, MAX_BATCH + 100)


async def test_it_starts_after_the_position(bus: Bus) -> None:
    await bus.publish(5)
    async with bus.follow(credit=10, after=3) as (_, pages):
        assert [stored.position for stored in (await soon(pages)).events] == [4, 5]


async def test_a_position_beyond_the_head_is_refused(bus: Bus) -> None:
    await bus.publish(2)
    async with bus.follow(credit=10, after=3) as (_, pages):
        with pytest.raises(InvalidFieldError, match="3 lies beyond the head of the log; allowed is up to 2"):
            await soon(pages)


async def test_an_append_wakes_a_waiting_subscriber(bus: Bus) -> None:
    async with bus.follow(credit=10) as (_, pages):
        waiting = asyncio.ensure_future(soon(pages))
        await bus.asleep()
        await bus.publish(1)
        assert [stored.event.id for stored in (await waiting).events] == ["0"]


async def test_many_readers_have_a_pause_between_two_pages(bus: Bus) -> None:
    """And none misses anything by it."""
    pause = 5 * PAUSE_PER_READER
    async with AsyncExitStack() as stack:
        following = [(await stack.enter_async_context(bus.follow(credit=100)))[1] for _ in range(FEW_READERS + 5)]
        waiting = [asyncio.ensure_future(soon(pages)) for pages in following]
        await until(lambda: bus.clock.sleepers == len(following))
        await bus.publish(1)
        assert {page.resume for page in await asyncio.gather(*waiting)} == {1}
        waiting = [asyncio.ensure_future(soon(pages)) for pages in following]
        await bus.publish(1)
        await bus.publish(2)
        await bus.clock.advance(pause / 2)
        assert not any(each.done() for each in waiting)
        await bus.clock.advance(pause / 2)
        for page in await asyncio.gather(*waiting):
            assert [stored.position for stored in page.events] == [2, 3, 4]


async def test_no_more_than_the_credit_is_sent(bus: Bus) -> None:
    await bus.publish(10)
    async with bus.follow(credit=3) as (subscription, pages):
        assert len((await soon(pages)).events) == 3
        waiting = asyncio.ensure_future(soon(pages))
        await bus.asleep()
        subscription.give_credit(2)
        assert [stored.position for stored in (await waiting).events] == [4, 5]


async def test_a_slow_reader_does_not_hold_up_another(bus: Bus) -> None:
    await bus.publish(4)
    async with bus.follow(credit=0) as (_, slow), bus.follow(credit=100) as (_, fast):
        waiting = asyncio.ensure_future(slow.__anext__())
        await bus.asleep()
        assert len((await soon(fast)).events) == 4
        waiting.cancel()
        await asyncio.wait([waiting])


@pytest.mark.parametrize("credit", [0, 10])
async def test_an_idle_reader_hears_the_head_every_15_seconds(bus: Bus, credit: int) -> None:
    await bus.publish(2)
    async with bus.follow(credit=credit, after=2) as (_, pages):
        for _ in range(2):
            waiting = asyncio.ensure_future(soon(pages))
            await bus.asleep()
            await bus.clock.advance(14.9)
            assert bus.clock.sleepers == 1
            assert not waiting.done()
            await bus.clock.advance(0.1)
            assert await waiting == Page((), 2, 2, 0)


async def test_events_that_do_not_match_move_the_resume_position(bus: Bus) -> None:
    async with bus.follow(credit=10, where=Filter(("memory.*",))) as (_, pages):
        waiting = asyncio.ensure_future(soon(pages))
        await bus.asleep()
        await bus.publish(3, "session.created")
        await bus.clock.advance(15)
        heartbeat = await waiting
        assert heartbeat == Page((), 3, 3, 0)
        await bus.publish(1)
        assert [stored.position for stored in (await soon(pages)).events] == [4]


async def test_a_subscription_without_further_credit_ends_when_it_is_used_up(bus: Bus) -> None:
    await bus.publish(5)
    async with bus.follow(credit=3) as (subscription, pages):
        subscription.end_credit()
        assert [len(page.events) async for page in pages] == [3]


async def test_draining_ends_all_and_takes_no_more(bus: Bus) -> None:
    async with bus.follow(credit=3) as (_, pages):
        waiting = asyncio.ensure_future(soon(pages))
        await bus.asleep()
        bus.subscriptions.drain()
        with pytest.raises(ShuttingDownError):
            await waiting
    with pytest.raises(ShuttingDownError):
        async with bus.follow(credit=3):
            pass


async def test_rare_matches_are_found_over_long_stretches(bus: Bus, database: Database) -> None:
    await database.execute(
        "INSERT INTO events.log SELECT n, 'acme', 'test', n::text, 'session.created', '', now(), '', '', '', NULL, 0, "
        "'', now() FROM generate_series(1, $1::bigint) AS n",
        3 * STRETCH,
    )
    await database.execute("UPDATE events.head SET position = $1", 3 * STRETCH)
    bus.published = 3 * STRETCH + 1
    await bus.publish(1)
    wanted = Filter(("memory.*",))
    async with bus.follow(credit=10, where=wanted) as (_, pages):
        page = await soon(pages)
    assert [stored.position for stored in page.events] == [3 * STRETCH + 1]
    assert (await read_page(bus.log, 0, wanted, 10)).events == page.events


async def test_a_reader_that_is_to_have_all_is_told_when_it_was_too_slow(bus: Bus) -> None:
    await bus.publish(10)
    with bus.subscriptions.open(2, Filter(), 3, gapless=True) as subscription:
        async with aclosing(subscription.pages()) as pages:
            assert [stored.position for stored in (await soon(pages)).events] == [3, 4, 5]
            await bus.log.trim(None, 5, 100)
            subscription.give_credit(2)
            assert [stored.position for stored in (await soon(pages)).events] == [6, 7]
            await bus.log.trim(None, 2, 100)
            subscription.give_credit(10)
            with pytest.raises(EventsTrimmedError, match="begins after position 8; 7 is gone"):
                await soon(pages)


async def test_a_reader_that_begins_with_what_is_left_misses_nothing_by_that(bus: Bus) -> None:
    await bus.publish(10)
    await bus.log.trim(None, 5, 100)
    with bus.subscriptions.open(0, Filter(), 100, gapless=True) as subscription:
        async with aclosing(subscription.pages()) as pages:
            assert [stored.position for stored in (await soon(pages)).events] == [6, 7, 8, 9, 10]


async def test_a_reader_that_may_not_read_any_more_gets_no_page(bus: Bus) -> None:
    await bus.publish(1)
    asked: list[int] = []

    async def allowed() -> None:
        asked.append(1)
        if len(asked) > 1:
            raise AccessDeniedError(action="read", target="**")

    with bus.subscriptions.open(0, Filter(), 100, allowed=allowed) as subscription:
        async with aclosing(subscription.pages()) as pages:
            assert len((await soon(pages)).events) == 1
            await bus.publish(1)
            with pytest.raises(AccessDeniedError):
                await soon(pages)


async def test_a_text_no_store_can_hold_is_refused(bus: Bus) -> None:
    with pytest.raises(InvalidFieldError, match=r"events\[1\].id: contains the character U\+0000"):
        await bus.publisher.publish([event("fine"), event("a\x00b")])
    assert await bus.log.head() == 0


async def test_arrivals_wake_for_news_only() -> None:
    arrivals, waiter = Arrivals(), asyncio.Event()
    with arrivals.watch(waiter):
        arrivals.advance(3)
        assert waiter.is_set()
        waiter.clear()
        arrivals.advance(3)
        assert not waiter.is_set()
        arrivals.look_again()
        assert waiter.is_set()
        waiter.clear()
    arrivals.advance(4)
    assert not waiter.is_set()
