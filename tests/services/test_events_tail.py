"""The newest events in memory: what those who follow the log are given of it, and what is never kept."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.services.test_events_subscription import event

from mnemo_events.domain.arrivals import Arrivals
from mnemo_events.domain.filter import Filter
from mnemo_events.domain.publisher import Publisher
from mnemo_events.domain.subscription import Subscriptions
from mnemo_events.domain.tail import LONGEST_STAY, MAX_EVENTS, Tail
from mnemo_events.storage.postgres_log import PostgresLog
from mnemocore.errors import StoreUnavailableError
from mnemocore.ids import Tenant
from mnemocore.postgres import migrate
from mnemocore.testing.clock import ManualClock
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from mnemo_events.domain.event import Page
    from mnemocore.postgres import Database


class CountedLog(PostgresLog):
    """The log on PostgreSQL; counts how often it is read, and can be held up after a read."""

    reads = 0
    held: asyncio.Event | None = None
    broken = False

    async def read(self, after: int, where: Filter, limit: int) -> Page:
        self.reads += 1
        page = await super().read(after, where, limit)
        if self.held is not None:
            await self.held.wait()
        if self.broken:
            raise StoreUnavailableError(retry_after=1.0)
        return page


class Room:
    """A log with its tail, and somebody who appends."""

    def __init__(self, database: Database) -> None:
        self.clock = ManualClock()
        self.log = CountedLog(database)
        self.arrivals = Arrivals()
        self.publisher = Publisher(self.log, self.arrivals, self.clock)
        self.tail = Tail(self.log, self.clock)
        self.published = 0

    async def publish(self, count: int, **attributes: str) -> None:
        names = range(self.published, self.published + count)
        self.published += count
        for start in range(0, count, 1000):
            batch = [event(str(name), **attributes) for name in names[start : start + 1000]]
            await self.publisher.publish(batch)
        self.tail.grew()

    async def read(self, after: int, limit: int = 512) -> list[int] | None:
        page = await self.tail.read(after, lambda _: True, limit)
        return None if page is None else [stored.position for stored in page.events]


@pytest.fixture
async def room(database: Database) -> Room:
    await migrate(database, "mnemo_events.storage.migrations", schema="events")
    return Room(database)


async def test_all_at_the_end_cost_one_read(room: Room) -> None:
    await room.publish(3)
    assert await asyncio.gather(*(room.read(0) for _ in range(20))) == [[1, 2, 3]] * 20
    assert await asyncio.gather(*(room.read(3) for _ in range(20))) == [[]] * 20
    assert await room.read(1) == [2, 3]
    assert room.log.reads == 1
    await room.publish(1)
    assert await asyncio.gather(*(room.read(after % 4) for after in range(20))) == [
        [1, 2, 3, 4][n % 4 :] for n in range(20)
    ]
    assert room.log.reads == 2


async def test_a_page_ends_with_the_limit_and_goes_on_there(room: Room) -> None:
    await room.publish(5)
    await room.read(0)
    page = await room.tail.read(0, lambda each: each.id in "134", 2)
    assert page is not None
    assert ([stored.event.id for stored in page.events], page.resume, page.head) == (["1", "3"], 4, 5)


async def test_what_is_too_old_or_too_much_is_not_kept(room: Room) -> None:
    await room.publish(10)
    await room.read(0)
    await room.clock.advance(LONGEST_STAY + 0.1)
    assert await room.read(0) is None
    assert await room.read(10) == []
    await room.publish(MAX_EVENTS + 600)
    after = 10
    while found := await room.read(after):
        after = found[-1]
    assert after == room.published
    assert await room.read(10) is None
    assert await room.read(after - 500) == list(range(after - 499, after + 1))


async def test_readers_of_the_same_are_given_the_same_page(room: Room) -> None:
    await room.publish(10)
    every, other = (Filter(types=(types,)).matcher() for types in ("**", "nothing.like.it"))
    await room.tail.read(0, every, 100)
    first = await room.tail.read(3, every, 100)
    assert first is not None
    assert await room.tail.read(3, Filter(types=("**",)).matcher(), 7) is first
    assert await room.tail.read(3, every, 6) == replace(first, events=first.events[:6], resume=9)
    assert await room.tail.read(3, other, 100) == replace(first, events=())
    await room.publish(1)
    after_growth = await room.tail.read(3, every, 100)
    assert after_growth is not None
    assert [stored.position for stored in after_growth.events] == list(range(4, 12))
    room.tail.forget()
    assert await room.tail.read(3, every, 100) is None


async def test_a_reader_that_is_further_moves_the_end(room: Room) -> None:
    await room.publish(10)
    page = await room.log.read(4, Filter(), 100)
    room.tail.begin(page)
    assert await room.read(4) is None
    assert await room.read(10) == []
    await room.publish(1)
    assert await room.read(10) == [11]


async def test_nothing_is_shown_that_was_erased_since_it_was_read(room: Room) -> None:
    await room.publish(2)
    await room.read(0)
    room.tail.forget()
    assert await room.read(0) is None
    room.log.held = asyncio.Event()
    await room.publish(2)
    reading = asyncio.create_task(room.read(2))
    await until(lambda: room.log.reads == 2)
    room.tail.forget()
    room.log.held.set()
    assert await reading is None  # to be read from the log
    assert await room.read(4) == []


async def test_what_was_trimmed_before_it_was_read_is_not_passed_over(room: Room) -> None:
    await room.publish(2)
    await room.read(0)
    await room.publish(3)
    assert await room.log.trim(None, 1, 100) == 4
    assert await room.read(2) is None


async def test_a_read_that_is_cut_short_is_made_by_the_next(room: Room) -> None:
    await room.publish(2)
    room.log.held = asyncio.Event()
    first, second = (asyncio.create_task(room.read(0)) for _ in range(2))
    await until(lambda: room.log.reads == 1)
    first.cancel()
    room.log.held.set()
    assert await second == [1, 2]
    assert first.cancelled()


async def test_a_log_that_does_not_answer_is_asked_once_for_all_who_wait(room: Room) -> None:
    await room.publish(2)
    room.log.held, room.log.broken = asyncio.Event(), True
    readers = [asyncio.create_task(room.read(0)) for _ in range(3)]
    await until(lambda: room.log.reads == 1)
    room.log.held.set()
    assert [type(error) for error in await asyncio.gather(*readers, return_exceptions=True)] == [
        StoreUnavailableError
    ] * 3
    assert room.log.reads == 1
    room.log.broken = False
    assert await room.read(0) == [1, 2]


@pytest.mark.parametrize("seed", range(5))
async def test_every_reader_has_what_it_wants_once_and_in_order(room: Room, seed: int) -> None:
    """Readers of different filters, credits and places follow while events come, age and are forgotten."""
    chance = random.Random(seed)
    subscriptions = Subscriptions(room.log, room.arrivals, room.clock)
    kinds = ("memory.created", "memory.updated", "session.created")
    filters = [Filter(), Filter((kinds[0],)), Filter(("memory.*",)), Filter(tenant=Tenant("acme")), Filter(("task.*",))]
    published: list[str] = []
    async with AsyncExitStack() as stack:
        readers: list[tuple[int, Filter, list[str]]] = []
        tasks: list[asyncio.Task[None]] = []
        for _ in range(60):
            for _ in range(chance.randint(1, 20)):
                published.append(chance.choice(kinds))
                await room.publish(1, type=published[-1])
            step = chance.random()
            if step < 0.3 and len(readers) < 12:
                after, where, had = chance.randint(0, len(published)), chance.choice(filters), list[str]()
                opened = stack.enter_context(subscriptions.open(after, where, 1_000_000))
                pages = await stack.enter_async_context(aclosing(opened.pages()))
                tasks.append(asyncio.create_task(collect(pages, had)))
                readers.append((after, where, had))
            elif step < 0.5:
                await room.clock.advance(chance.random() * LONGEST_STAY)
            elif step < 0.6:
                subscriptions.erased()
        for after, where, had in readers:
            wanted = [str(n) for n, kind in enumerate(published) if n >= after and matches(where.types, kind)]
            await until(lambda had=had, wanted=wanted: had == wanted)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def matches(types: Sequence[str], kind: str) -> bool:
    return not types or any(type == kind or type == f"{kind.partition('.')[0]}.*" for type in types)


async def collect(pages: AsyncGenerator[Page], had: list[str]) -> None:
    async for page in pages:
        had += [stored.event.id for stored in page.events]
