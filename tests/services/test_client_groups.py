"""Consuming as a member of a group with the client, against a real event-bus."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter, defaultdict
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.event_house import EventHouse, event_house, settled

from mnemocore.client import EventInput, InvalidEvent, Reject, Retry
from mnemocore.client.events import Events
from mnemocore.errors import (
    AccessDeniedError,
    DeadLetterNotFoundError,
    GroupExistsError,
    GroupNotFoundError,
    InvalidFieldError,
    StoreUnavailableError,
)
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mnemocore.client import ConsumedEvent
    from mnemocore.postgres import Database

NOW = timedelta(0)
SPACE = "018f0000-0000-7000-8000-00000000000a"


@pytest.fixture
async def house(database: Database) -> AsyncIterator[EventHouse]:
    async with event_house(database) as running:
        yield running


@pytest.fixture
def events(house: EventHouse) -> Events:
    return house.events


@asynccontextmanager
async def consuming(
    events: Events, handler: Callable[[ConsumedEvent], Any], group: str = "g", **options: Any
) -> AsyncIterator[asyncio.Task[Any]]:
    """A member that consumes inside the block; it must not have failed by its end."""
    task: asyncio.Task[Any] = asyncio.create_task(events.consume(group, handler, **options))
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until_settled(events: Events, group: str = "g") -> None:
    async def is_settled() -> bool:
        return settled(await events.group(group))

    await until(is_settled)


class Handler:
    """Notes what it is given, in order."""

    def __init__(self) -> None:
        self.given: list[ConsumedEvent] = []

    async def __call__(self, event: ConsumedEvent) -> None:
        self.given.append(event)

    @property
    def numbers(self) -> list[Any]:
        return [event.json() for event in self.given]


async def test_a_group_from_its_making_to_its_end(events: Events) -> None:
    first = await events.publish("order.placed", 1)
    made = await events.create_group("g", types=["order.*"], max_attempts=3, lease=timedelta(seconds=30))
    assert made == await events.create_group("g", types=["order.*"], max_attempts=3, lease=timedelta(seconds=30))
    assert (made.types, made.max_attempts, made.lease, made.owner) == (
        ("order.*",),
        3,
        timedelta(seconds=30),
        "ana",
    )
    assert (made.position, made.lag) == (first.position, 0)
    with pytest.raises(GroupExistsError) as refused:
        await events.create_group("g", types=["bill.*", "bill.*"], max_attempts=3)
    assert str(refused.value) == (
        "group 'groups/g' exists already and is another: filter.types is order.*, not bill.*; lease is 30 s, not 60 s"
    )
    with pytest.raises(GroupExistsError) as refused:
        await events.create_group("g", subjects=["b", "a"], space_uid=SPACE, lease=timedelta(seconds=30))
    assert str(refused.value) == (
        "group 'groups/g' exists already and is another: filter.types is order.*, not (any); "
        f"filter.subjects is (any), not a, b; filter.space_uid is (any), not {SPACE}; max_attempts is 3, not 5"
    )
    await events.publish("order.placed", 2)
    handler = Handler()
    async with consuming(events, handler):
        await until(lambda: handler.numbers == [2])
        await until_settled(events)
        await events.seek_group("g", "earliest")
        await until(lambda: handler.numbers == [2, 1, 2])
        await until_settled(events)
    assert [group.id async for group in events.groups()] == ["g"]
    assert await events.delete_group("g")
    assert not await events.delete_group("g")
    with pytest.raises(GroupNotFoundError):
        await events.consume("g", handler)


async def test_keys_in_order_and_different_keys_side_by_side(events: Events) -> None:
    await events.create_group("g")
    running: Counter[str] = Counter()
    most = 0
    done: defaultdict[str, list[Any]] = defaultdict(list)

    async def handle(event: ConsumedEvent) -> None:
        nonlocal most
        running[event.subject] += 1
        assert running[event.subject] == 1
        most = max(most, sum(running.values()))
        for _ in range(5):
            await asyncio.sleep(0)
        running[event.subject] -= 1
        done[event.subject].append(event.json())

    await events.publish_many(EventInput("load.step", number, subject=f"s/{number % 7}") for number in range(210))
    async with consuming(events, handle, concurrency=4):
        await until_settled(events)
    assert dict(done) == {f"s/{key}": list(range(key, 210, 7)) for key in range(7)}
    assert 1 < most <= 4


async def test_members_share_a_group(house: EventHouse) -> None:
    await house.events.create_group("g")
    handlers = [Handler(), Handler(), Handler()]
    await house.events.publish_many(EventInput("load.step", number) for number in range(300))
    async with (
        consuming(house.events, handlers[0], concurrency=4),
        consuming(house.events, handlers[1], concurrency=4),
        consuming(house.events, handlers[2], concurrency=4),
    ):
        await until_settled(house.events)
    assert sorted(number for handler in handlers for number in handler.numbers) == list(range(300))


@pytest.mark.parametrize(
    ("error", "reason", "message"),
    [
        (Reject("not ours"), "rejected", "not ours"),
        (InvalidEvent("no amount"), "invalid_event", "no amount"),
    ],
)
async def test_what_no_other_attempt_helps(events: Events, error: Exception, reason: str, message: str) -> None:
    await events.create_group("g")

    async def handle(event: ConsumedEvent) -> None:
        raise error

    published = await events.publish("order.placed", 1)
    async with consuming(events, handle):
        await until_settled(events)
        [letter] = [letter async for letter in events.dead_letters("g")]
    assert (letter.position, letter.reason, letter.message, letter.attempts) == (
        published.position,
        reason,
        message,
        1,
    )
    assert letter.event.json() == 1


@pytest.mark.parametrize(
    ("error", "reason", "message"),
    [
        (Retry("later", after=NOW), "handler_error", "later"),
        (ValueError("nul \0 and half \ud800"), "handler_error", "ValueError: nul \ufffd and half ?"),
        (TimeoutError("slow"), "timeout", "TimeoutError: slow"),
        (StoreUnavailableError(), "unavailable", "StoreUnavailableError: the store does not answer"),
        (ConnectionResetError("gone"), "unavailable", "ConnectionResetError: gone"),
        (RuntimeError("x" * 5000), "handler_error", f"RuntimeError: {'x' * 986}"),
        (asyncio.CancelledError("by itself"), "handler_error", "CancelledError: by itself"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
async def test_what_a_failure_is_called(
    events: Events, error: BaseException, reason: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "mnemocore.client.consuming")  # no report carries half a letter
    await events.create_group("g", max_attempts=1)

    async def handle(event: ConsumedEvent) -> None:
        raise error

    await events.publish("order.placed")
    async with consuming(events, handle):
        await until_settled(events)
        [letter] = [letter async for letter in events.dead_letters("g", reason=reason)]
    assert letter.message == message


async def test_a_failure_is_tried_again_before_what_comes_after_it(events: Events) -> None:
    await events.create_group("g")
    given: list[tuple[Any, int]] = []

    async def handle(event: ConsumedEvent) -> None:
        given.append((event.json(), event.attempt))
        if event.json() == 1 and event.attempt < 3:
            raise Retry(after=NOW)

    await events.publish_many(EventInput("order.step", number, subject="orders/1") for number in range(4))
    async with consuming(events, handle, concurrency=8):
        await until_settled(events)
    assert given == [(0, 1), (1, 1), (1, 2), (1, 3), (2, 1), (3, 1)]


async def test_a_handler_that_takes_too_long(events: Events) -> None:
    await events.create_group("g", max_attempts=1)
    never = asyncio.Event()

    async def handle(event: ConsumedEvent) -> None:
        await never.wait()

    await events.publish("order.placed")
    async with consuming(events, handle, timeout=0.05):
        await until_settled(events)
    assert [letter.reason async for letter in events.dead_letters("g")] == ["timeout"]


async def test_a_function_that_blocks_runs_in_a_thread(events: Events) -> None:
    await events.create_group("g")
    threads = set()
    done: list[Any] = []

    def handle(event: ConsumedEvent) -> None:
        threads.add(threading.current_thread())
        done.append(event.json())

    await events.publish("order.placed", 1)
    async with consuming(events, handle):
        await until_settled(events)
    assert done == [1]
    assert threading.current_thread() not in threads


async def first_lease_end(database: Database) -> datetime:
    """When the first lease ends of those that members have."""
    end: datetime = await database.fetchval("SELECT min(due) FROM events.held WHERE member IS NOT NULL")
    return end


async def test_leases_are_extended_while_a_handler_runs(events: Events, database: Database) -> None:
    await events.create_group("g", lease=timedelta(seconds=1))
    ending = asyncio.Event()
    given: list[tuple[Any, int]] = []
    other = Handler()

    async def handle(event: ConsumedEvent) -> None:
        given.append((event.json(), event.attempt))
        await ending.wait()

    await events.publish_many(EventInput("order.step", number) for number in range(2))
    async with consuming(events, handle):  # one runs, one waits
        await until(lambda: bool(given))
        first = await first_lease_end(database)

        async def is_longer() -> bool:
            return await first_lease_end(database) > first + timedelta(seconds=1)

        async with consuming(events, other):
            await until(is_longer)  # they were extended when the first leases were over already
            ending.set()
            await until_settled(events)
    assert given == [(0, 1), (1, 1)]
    assert other.given == []


async def test_what_was_done_is_not_done_again_after_a_break(house: EventHouse, events: Events) -> None:
    await events.create_group("g")
    begun, ending = asyncio.Event(), asyncio.Event()
    handled: Counter[Any] = Counter()

    async def handle(event: ConsumedEvent) -> None:
        handled[event.json()] += 1
        begun.set()
        await ending.wait()

    watcher = Events(house.services())
    await watcher.publish_many(EventInput("order.step", number, subject="orders/1") for number in range(3))
    async with consuming(events, handle):
        await begun.wait()
        for _ in range(3):  # redelivered while it runs
            opened = house.wire.opened
            await house.wire.cut()
            await until(lambda before=opened: house.wire.opened > before)
        ending.set()
        await until_settled(watcher)
    assert handled == {0: 1, 1: 1, 2: 1}


async def test_what_was_done_while_nobody_answered_is_not_done_again(house: EventHouse, events: Events) -> None:
    await events.create_group("g")
    begun, ending = asyncio.Event(), asyncio.Event()
    finished = asyncio.Event()
    handled: Counter[Any] = Counter()

    async def handle(event: ConsumedEvent) -> None:
        handled[event.json()] += 1
        begun.set()
        await ending.wait()
        finished.set()

    await events.publish("order.step", 1)
    async with consuming(events, handle):
        await begun.wait()
        await house.wire.down()
        ending.set()
        await finished.wait()
        house.wire.up()
        await until_settled(events)
    assert handled == {1: 1}


async def test_without_dedup_it_is_done_again(house: EventHouse, events: Events) -> None:
    await events.create_group("g")
    begun, ending = asyncio.Event(), asyncio.Event()
    handled: Counter[Any] = Counter()

    async def handle(event: ConsumedEvent) -> None:
        handled[event.json()] += 1
        begun.set()
        await ending.wait()

    await events.publish("order.step", 1)
    async with consuming(events, handle, dedup=0):
        await begun.wait()
        await house.wire.down()
        ending.set()
        house.wire.up()
        await until_settled(events)
    assert handled[1] >= 1


async def test_a_stream_of_breaks(house: EventHouse, events: Events) -> None:
    await events.create_group("g")
    handled: Counter[Any] = Counter()
    last: dict[str, int] = {}

    async def handle(event: ConsumedEvent) -> None:
        number: Any = event.json()
        handled[number] += 1
        assert last.get(event.subject, -1) <= number
        last[event.subject] = number

    await events.publish_many(EventInput("load.step", number, subject=f"s/{number % 5}") for number in range(400))
    async with consuming(events, handle, concurrency=4) as member:
        while sum(handled.values()) < 400:
            before = sum(handled.values())
            await until(lambda seen=before: sum(handled.values()) > seen or sum(handled.values()) >= 400)
            await house.wire.cut()
            assert not member.done()
        await until_settled(house.events)
    assert handled == dict.fromkeys(range(400), 1)


async def test_leaving_stores_what_is_done_and_gives_back_the_rest(events: Events, house: EventHouse) -> None:
    await events.create_group("g")
    begun = asyncio.Event()
    never = asyncio.Event()
    cancelled: list[Any] = []

    async def handle(event: ConsumedEvent) -> None:
        if event.json() == 1:
            begun.set()
            try:
                await never.wait()
            except asyncio.CancelledError:
                cancelled.append(event.json())
                raise

    await events.publish_many(EventInput("order.step", number) for number in range(3))
    async with consuming(events, handle):
        await begun.wait()
    other = Handler()
    assert cancelled == [1]
    async with consuming(house.events, other):
        await until_settled(house.events)
    assert sorted(other.numbers) == [1, 2]


async def test_dead_letters(events: Events) -> None:
    await events.create_group("g", max_attempts=2)
    broken = True
    done: list[tuple[Any, bool]] = []

    async def handle(event: ConsumedEvent) -> None:
        if broken:
            raise Retry("not yet", after=NOW)
        done.append((event.json(), event.replayed))

    published = await events.publish_many(EventInput("order.step", number, subject="o/1") for number in range(5))
    positions = [one.position for one in published]
    async with consuming(events, handle, concurrency=3):
        await until_settled(events)
        assert (await events.group("g")).dead == 5
        letters = [letter async for letter in events.dead_letters("g", page_size=2)]
        assert [(letter.position, letter.attempts) for letter in letters] == [(position, 2) for position in positions]
        assert await events.dead_letter("g", positions[1]) == letters[1]
        broken = False
        assert await events.replay_dead_letters("g", [positions[1], positions[1]]) == 1
        await until(lambda: done == [(1, True)])
        await until_settled(events)
        with pytest.raises(DeadLetterNotFoundError):
            await events.dead_letter("g", positions[1])
        assert await events.purge_dead_letters("g", [positions[0]]) == 1
        assert await events.purge_dead_letters("g", before=datetime(2020, 1, 1, tzinfo=UTC)) == 0
        assert await events.replay_dead_letters("g") == 3
        await until_settled(events)
        assert sorted(number for number, _ in done) == [1, 2, 3, 4]
        assert await events.purge_dead_letters("g") == 0


async def test_a_group_that_is_deleted_and_a_policy_that_is_withdrawn(house: EventHouse, events: Events) -> None:
    robot = Events(house.services(principal="robot", scopes="events:read,events:write"))
    await events.create_group("g", types=["order.*"])
    with pytest.raises(AccessDeniedError):
        await robot.consume("g", Handler())
    await events.policies.allow("robots", "robot", ["subscribe"], ["order.*"])
    handlers = Handler(), Handler()
    mine = asyncio.create_task(events.consume("g", handlers[0]))
    theirs = asyncio.create_task(robot.consume("g", handlers[1]))
    await events.publish("order.placed")
    await until(lambda: bool(handlers[0].given or handlers[1].given))
    await events.policies.remove("robots")
    with pytest.raises(AccessDeniedError):
        await asyncio.wait_for(theirs, 60)
    await events.delete_group("g")
    with pytest.raises(GroupNotFoundError):
        await asyncio.wait_for(mine, 60)


@pytest.mark.parametrize("options", [{"concurrency": 0}, {"concurrency": 5001}, {"prefetch": -1}, {"dedup": -1}])
async def test_numbers_that_are_not_allowed(events: Events, options: dict[str, int]) -> None:
    with pytest.raises(InvalidFieldError, match=rf"^{next(iter(options))}: .*allowed is"):
        await events.consume("g", Handler(), **options)  # type: ignore[arg-type]
