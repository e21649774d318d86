"""Publishing, reading and following events with the client, against a real event-bus."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.event_house import EventHouse, event_house

from mnemocore.client import BreakerRule, EventInput, InvalidEvent
from mnemocore.client.events import Events
from mnemocore.errors import AccessDeniedError, InvalidFieldError, PeerUnavailableError, UnavailableError
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mnemocore.client import Event, Tail
    from mnemocore.postgres import Database

SECONDS = 60.0


@pytest.fixture
async def house(database: Database) -> AsyncIterator[EventHouse]:
    async with event_house(database) as running:
        yield running


@pytest.fixture
def events(house: EventHouse) -> Events:
    return house.events


async def taken(tail: Tail, count: int) -> list[Event]:
    """The next `count` events of a tail."""
    async with asyncio.timeout(SECONDS):
        return [await anext(tail) for _ in range(count)]


@pytest.mark.parametrize(
    ("data", "options", "stored", "content_type"),
    [
        (None, {}, b"", ""),
        ({"amount": 3, "who": "Zoë"}, {}, '{"amount":3,"who":"Zoë"}'.encode(), "application/json"),
        ([1, None, True], {}, b"[1,null,true]", "application/json"),
        (0, {}, b"0", "application/json"),
        ("hello", {}, b"hello", "text/plain; charset=utf-8"),
        ('{"a": 1}', {"datacontenttype": "application/json"}, b'{"a": 1}', "application/json"),
        (b"\x00\xff", {}, b"\x00\xff", "application/octet-stream"),
        (b"\x0a\x01x", {"datacontenttype": "application/protobuf"}, b"\x0a\x01x", "application/protobuf"),
    ],
    ids=["nothing", "object", "list", "number", "text", "JSON text", "bytes", "protobuf"],
)
async def test_what_an_event_carries(
    events: Events, data: Any, options: dict[str, Any], stored: bytes, content_type: str
) -> None:
    await events.publish("order.placed", data, **options)
    found = [event async for event in events.read()]
    assert [(event.data, event.datacontenttype) for event in found] == [(stored, content_type)]


async def test_an_event_with_everything(events: Events) -> None:
    time = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
    published = await events.publish(
        "order.placed",
        {"amount": 3},
        subject="orders/7",
        id="o-7",
        time=time,
        source="shop",
        correlation_id="c1",
        causation_id="e0",
    )
    [event] = [event async for event in events.read()]
    assert (published.id, published.position) == ("o-7", event.position)
    assert (event.id, event.source, event.type, event.subject) == ("o-7", "shop", "order.placed", "orders/7")
    assert (event.time, event.correlation_id, event.causation_id) == (time, "c1", "e0")
    assert event.json() == {"amount": 3}
    again = await events.publish("order.placed", {"amount": 4}, subject="orders/7", id="o-7", source="shop")
    assert again == published


async def test_what_is_wrong_is_named(events: Events) -> None:
    with pytest.raises(InvalidFieldError, match=r"^data: is not JSON"):
        await events.publish("order.placed", {"when": object()})  # type: ignore[dict-item]  # that is the point
    with pytest.raises(InvalidFieldError, match="lone surrogate"):
        await events.publish("order.placed", "\ud800")
    with pytest.raises(InvalidFieldError, match="has no time zone"):
        await events.publish("order.placed", time=datetime(2026, 1, 1))  # noqa: DTZ001 - that is the point
    with pytest.raises(InvalidFieldError, match="type"):
        await events.publish("Order")
    with pytest.raises(InvalidFieldError, match=r"^events\[1001\]\.type"):
        await events.publish_many([*(EventInput("a.b") for _ in range(1001)), EventInput("A")])
    with pytest.raises(InvalidFieldError, match=r"^events\[2\]\.time"):
        await events.publish_many(
            [EventInput("a.b"), EventInput("a.b"), EventInput("a.b", time=datetime(2026, 1, 1))]  # noqa: DTZ001
        )
    with pytest.raises(InvalidFieldError, match=r"start: 'middle' is no place"):
        events.tail(start="middle")  # type: ignore[arg-type]  # that is the point
    found = [event async for event in events.read()]
    assert len(found) == 1000  # the part before the one that was wrong


async def test_many_keep_their_order(events: Events) -> None:
    async def inputs() -> AsyncIterator[EventInput]:
        for number in range(2500):
            yield EventInput("load.step", number, id=f"n{number}")

    published = await events.publish_many(inputs())
    assert [one.id for one in published] == [f"n{number}" for number in range(2500)]
    assert [one.position for one in published] == sorted({one.position for one in published})
    assert await events.publish_many(EventInput("load.step", id=f"n{number}") for number in range(3)) == published[:3]
    pages = [page async for page in events.pages(page_size=1000)]
    assert [len(page.events) for page in pages] == [1000, 1000, 500]
    assert pages[-1].resume_position == pages[-1].head_position
    assert [event.json() async for event in events.read(after=published[2497].position)] == [2498, 2499]


async def test_large_events_go_in_several_requests(events: Events) -> None:
    published = await events.publish_many(EventInput("file.part", b"x" * 900_000) for _ in range(5))
    assert len({one.position for one in published}) == 5


async def test_a_filter(events: Events) -> None:
    for type_, subject in (("a.b", "x/1"), ("a.c", "x/2"), ("a.b.c", "y/1")):
        await events.publish(type_, subject=subject)
    assert [event.type async for event in events.read(types=["a.*"])] == ["a.b", "a.c"]
    assert [event.type async for event in events.read(subjects=["x/2", "y/**"])] == ["a.c", "a.b.c"]
    assert [event.type async for event in events.read(types=["a.**"], subjects=["*/1"], page_size=1)] == [
        "a.b",
        "a.b.c",
    ]


async def test_reading_as_it_was_asked_for_before(events: Events) -> None:
    await events.publish("a.b")
    assert [event.type async for event in events(after=0, types=["a.b"])] == ["a.b"]


async def test_payloads_that_are_not_what_was_hoped(events: Events) -> None:
    await events.publish("a.b", b"\xff")
    [event] = [event async for event in events.read()]
    with pytest.raises(InvalidEvent, match="is not JSON"):
        event.json()
    with pytest.raises(InvalidEvent, match="not UTF-8"):
        event.text()


async def test_a_tail_from_the_beginning_from_a_position_from_a_time_and_from_now(events: Events) -> None:
    first = [await events.publish("a.b", number) for number in range(3)]
    long_ago = datetime.now(UTC) - timedelta(days=1)
    for start, wanted in (("earliest", [0, 1, 2]), (first[0].position, [1, 2]), (long_ago, [0, 1, 2])):
        async with aclosing(events.tail(start=start)) as tail:  # type: ignore[arg-type]  # mypy joins them to object
            assert [event.json() for event in await taken(tail, len(wanted))] == wanted
    async with aclosing(events.tail(types=["a.b"])) as tail:
        following = asyncio.create_task(taken(tail, 1))
        await until(lambda: tail.position is not None)
        assert tail.head == first[-1].position
        await events.publish("c.d")
        last = await events.publish("a.b", 3)
        assert [event.json() for event in await following] == [3]
        assert tail.position == last.position


async def test_a_tail_of_more_than_its_window(events: Events) -> None:
    await events.publish_many(EventInput("load.step", number) for number in range(1500))
    async with aclosing(events.tail(start="earliest")) as tail:
        assert [event.json() for event in await taken(tail, 1500)] == list(range(1500))


async def test_a_tail_goes_on_where_it_was_cut(house: EventHouse, events: Events) -> None:
    publisher = house.events
    await publisher.publish_many(EventInput("load.step", number) for number in range(20))
    async with aclosing(events.tail(start="earliest")) as tail:
        found = await taken(tail, 7)
        await house.wire.cut()
        found += await taken(tail, 13)
        following = asyncio.create_task(taken(tail, 5))
        for number in range(20, 25):
            await house.wire.cut()
            await publisher.publish("load.step", number)
        found += await following
    assert [event.json() for event in found] == list(range(25))


async def test_a_tail_from_now_on_misses_nothing_while_it_is_cut(house: EventHouse, events: Events) -> None:
    published = await house.events.publish("load.step", 0)
    async with aclosing(events.tail()) as tail:
        following = asyncio.create_task(taken(tail, 1))
        await until(lambda: tail.position == published.position)
        await house.wire.down()
        away = asyncio.create_task(house.events.publish("load.step", 1))
        house.wire.up()
        await away
        assert [event.json() for event in await following] == [1]


async def test_a_tail_goes_on_as_soon_as_the_server_is_back(house: EventHouse) -> None:
    """It does not open the breaker, which would leave a server alone that is back, here for an hour."""
    services = house.services(breaker_rule=BreakerRule(reset=3600.0))
    events = Events(services)
    published = await house.events.publish("load.step", 0)
    async with aclosing(events.tail()) as tail:
        following = asyncio.create_task(taken(tail, 1))
        await until(lambda: tail.position == published.position)
        await house.wire.down()
        await until(lambda: house.wire.refused >= 7)
        house.wire.up()
        await services.connected(SECONDS)
        await events.publish("load.step", 1)
        assert [event.json() for event in await following] == [1]


async def test_a_tail_that_nobody_ever_answered_gives_up_as_other_calls_do(house: EventHouse, events: Events) -> None:
    await house.wire.down()
    with pytest.raises(UnavailableError):
        await taken(events.tail(patience=None), 1)


async def test_a_tail_nobody_answers_any_more_gives_up_when_its_patience_is_over(
    house: EventHouse, events: Events
) -> None:
    tail = events.tail(patience=0.3)
    following = asyncio.create_task(taken(tail, 1))
    await until(lambda: tail.position is not None)
    await house.wire.down()
    with pytest.raises(PeerUnavailableError):
        await following


async def test_access(house: EventHouse) -> None:
    robot = Events(house.services(principal="robot", scopes="events:read,events:write"))
    with pytest.raises(AccessDeniedError):
        await robot.publish("order.placed")
    with pytest.raises(AccessDeniedError):
        await anext(robot.tail(types=["order.*"]))
    policies = house.events.policies
    policy = await policies.allow("robots", "robot", ["publish", "subscribe"], ["order.*"])
    assert policy == await policies.allow("robots", "robot", ["publish", "subscribe"], ["order.*"])
    assert [found.id async for found in policies.list()] == ["robots"]
    assert (await policies.check("robot", "publish", "order.placed")).policy == policy
    assert not (await policies.check("robot", "publish", "bill.paid")).allowed
    await robot.publish("order.placed")
    tail = robot.tail(types=["order.*"], start="earliest")
    assert len(await taken(tail, 1)) == 1
    following = asyncio.create_task(taken(tail, 1))
    assert await policies.remove("robots")
    assert not await policies.remove("robots")
    with pytest.raises(AccessDeniedError):
        await following

    async def noted() -> bool:
        return {item.principal async for item in policies.refusals()} == {"robot"}

    await until(noted)
