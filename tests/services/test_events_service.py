"""event-bus behind its host, through stubs: in process and over a socket."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from mnemo_events.app import EventsApp
from mnemocore import calls
from mnemocore.clock import SystemClock
from mnemocore.events.v1 import event_service_pb2 as pb
from mnemocore.events.v1 import event_service_pb2_grpc, resources_pb2
from mnemocore.server import Host, InternalAuthenticator
from mnemocore.testing.waiting import until
from mnemocore.wire import to_datetime, to_timestamp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mnemocore.postgres import Database
    from mnemocore.testing.postgres import TestPostgres

TOKEN = "a token"
SPACE = "018f0000-0000-7000-8000-00000000000a"
OTHER_SPACE = "018f0000-0000-7000-8000-00000000000b"
TIME = datetime(2026, 2, 3, 4, 5, 6, 789012, tzinfo=UTC)
SECONDS = 10.0


class Replica:
    """One event-bus on a database."""

    def __init__(self, database: Database, poll_seconds: float) -> None:
        self.app = EventsApp(database, SystemClock(), poll_seconds)
        self.host = Host(
            "events", self.app.services, authenticator=InternalAuthenticator(TOKEN), readiness=self.app.ready
        )
        self.address = ""

    async def start(self) -> None:
        await self.app.start()
        self.address = (await self.host.start(["127.0.0.1:0"]))[0]

    async def stop(self) -> None:
        self.app.drain()
        await self.host.drain(5)
        await self.app.stop()

    def stub(self, tenant: str = "", scopes: str = "events:read") -> Any:
        metadata = [(calls.INTERNAL_TOKEN_HEADER, TOKEN)]
        if tenant:
            metadata += [(calls.TENANT_HEADER, tenant), (calls.SCOPES_HEADER, scopes)]
        return event_service_pb2_grpc.EventServiceStub(self.host.channel(metadata))


@pytest.fixture
async def replica(database: Database) -> AsyncIterator[Replica]:
    async with running(database) as started:
        yield started


@asynccontextmanager
async def running(database: Database, poll_seconds: float = 60.0) -> AsyncIterator[Replica]:
    replica = Replica(database, poll_seconds)
    await replica.start()
    yield replica
    await replica.stop()


def event(id: str, **attributes: Any) -> resources_pb2.Event:
    attributes = {"type": "memory.created", "tenant": "acme", "space_uid": SPACE} | attributes
    return resources_pb2.Event(id=id, source="test", time=to_timestamp(TIME), **attributes)


async def publish(replica: Replica, *events: resources_pb2.Event) -> list[int]:
    response = await replica.stub().PublishEvents(pb.PublishEventsRequest(events=events), timeout=SECONDS)
    return list(response.positions)


def start(after: int = 0, credit: int = 100, **where: Any) -> pb.SubscribeEventsRequest:
    where_message = resources_pb2.EventFilter(**where)
    return pb.SubscribeEventsRequest(
        start=pb.SubscribeEventsRequest.Start(after_position=after, credit=credit, filter=where_message)
    )


def credit(events: int) -> pb.SubscribeEventsRequest:
    return pb.SubscribeEventsRequest(credit=pb.SubscribeEventsRequest.Credit(events=events))


@asynccontextmanager
async def subscribed(stub: Any, *first: pb.SubscribeEventsRequest, **options: Any) -> AsyncIterator[Any]:
    call = stub.SubscribeEvents(**options)
    try:
        for request in first:
            await call.write(request)
        yield call
    finally:
        call.cancel()


async def ids(call: Any, count: int) -> list[str]:
    """The ids of the next `count` events."""
    found: list[str] = []
    async with asyncio.timeout(SECONDS):
        while len(found) < count:
            found.extend(stored.event.id for stored in (await call.read()).events)
    return found


async def failure(call: Any) -> tuple[grpc.StatusCode, str]:
    """How a stream ends."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with asyncio.timeout(SECONDS):
            while await call.read() is not grpc.aio.EOF:
                pass
    return caught.value.code(), caught.value.details() or ""


async def test_an_event_comes_back_whole(replica: Replica) -> None:
    sent = event(
        "1",
        subject="spaces/alice",
        datacontenttype="application/protobuf",
        dataschema="a.B",
        data=bytes(range(256)),
        revision=2**40,
        traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
    )
    assert await publish(replica, sent, event("2", space_uid="")) == [1, 2]
    async with subscribed(replica.stub(), start()) as call:
        batch = await call.read()
    assert batch.events[0].event == sent
    assert [stored.position for stored in batch.events] == [1, 2]
    assert (batch.resume_position, batch.head_position) == (2, 2)
    assert abs((to_datetime(batch.events[0].stored_at) - datetime.now(UTC)).total_seconds()) < 60


async def test_over_a_socket_with_credit(replica: Replica) -> None:
    await publish(replica, *(event(str(n)) for n in range(10)))
    options = {"metadata": ((calls.INTERNAL_TOKEN_HEADER, TOKEN),)}
    async with grpc.aio.insecure_channel(replica.address) as channel:
        stub = event_service_pb2_grpc.EventServiceStub(channel)
        async with subscribed(stub, start(credit=4), **options) as call:
            assert await ids(call, 4) == list("0123")
            await call.write(credit(5))
            assert await ids(call, 5) == list("45678")
            await call.write(credit(5))
            await publish(replica, event("a"))
            assert await ids(call, 2) == ["9", "a"]


async def test_a_reader_who_closes_its_side_gets_what_it_has_credit_for(replica: Replica) -> None:
    await publish(replica, *(event(str(n)) for n in range(10)))
    async with subscribed(replica.stub(), start(credit=3)) as call:
        await call.done_writing()
        assert await ids(call, 3) == list("012")
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK


async def test_filters_of_a_subscription(replica: Replica) -> None:
    await publish(replica, event("1"), event("2", type="session.created"), event("3", space_uid=""), event("4"))
    async with subscribed(replica.stub(), start(types=["memory.*"], space_uid=SPACE)) as call:
        assert await ids(call, 2) == ["1", "4"]


@pytest.mark.parametrize(
    ("requests", "field"),
    [
        ([credit(1)], "start"),
        ([pb.SubscribeEventsRequest()], "start"),
        ([start(), start()], "credit"),
        ([start(), credit(0)], "credit.events"),
        ([start(after=1)], "start.after_position"),
        ([start(after=-1)], "start.after_position"),
        ([start(types=["a..b"])], "filter.types[0]"),
        ([start(space_uid="alice")], "start.filter.space_uid"),
    ],
)
async def test_what_a_subscription_refuses(
    replica: Replica, requests: list[pb.SubscribeEventsRequest], field: str
) -> None:
    async with subscribed(replica.stub(), *requests) as call:
        code, details = await failure(call)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert field in details


async def test_an_empty_stream_of_requests_is_refused(replica: Replica) -> None:
    async with subscribed(replica.stub()) as call:
        await call.done_writing()
        assert (await failure(call))[0] is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_publication_is_checked_and_all_or_nothing(replica: Replica) -> None:
    for bad in (event("x", type="Bad"), event("x", tenant=""), event("x\x00")):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await publish(replica, event("good"), bad)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "events[1]" in (caught.value.details() or "")
    assert await publish(replica, event("good")) == [1]


async def test_publishing_again_returns_the_first_positions(replica: Replica) -> None:
    assert await publish(replica, event("1"), event("2")) == [1, 2]
    assert await publish(replica, event("2"), event("3"), event("1")) == [2, 3, 1]


async def erase(replica: Replica, keep_id: str = "end", tenant: str = "acme") -> int:
    request = pb.EraseSpaceEventsRequest(tenant=tenant, space_uid=SPACE, keep_id=keep_id)
    return int((await replica.stub().EraseSpaceEvents(request, timeout=60)).removed)


async def test_erasing_a_space_keeps_the_event_that_says_so(replica: Replica) -> None:
    for batch in range(3):
        await publish(replica, *(event(f"{batch}:{n}") for n in range(900)))
    await publish(replica, event("other", space_uid=OTHER_SPACE), event("end", type="space.erased"))
    assert await erase(replica, tenant="other") == 0
    assert [await erase(replica) for _ in range(2)] == [2700, 0]
    assert await publish(replica, event("next", space_uid="")) == [2703]
    read = await replica.stub("acme").ReadEvents(pb.ReadEventsRequest(page_size=2), timeout=SECONDS)
    assert [(stored.position, stored.event.id) for stored in read.events] == [(2701, "other"), (2702, "end")]
    assert (read.resume_position, read.head_position) == (2702, 2703)
    for after in (0, 5, 2699, 2701):
        async with subscribed(replica.stub(), start(after, space_uid=SPACE)) as call:
            assert await ids(call, 1) == ["end"]
    async with subscribed(replica.stub(), start(credit=2)) as call:
        assert await ids(call, 2) == ["other", "end"]
        await call.write(credit(1))
        assert await ids(call, 1) == ["next"]


async def test_a_subscriber_in_the_middle_of_a_space_that_is_erased(replica: Replica) -> None:
    await publish(replica, *(event(str(n)) for n in range(50)))
    async with subscribed(replica.stub(), start(credit=10)) as call:
        assert await ids(call, 10) == [str(n) for n in range(10)]
        await publish(replica, event("end", type="space.erased"), event("other", space_uid=OTHER_SPACE))
        assert await erase(replica) == 50
        await call.write(credit(10))
        assert await ids(call, 2) == ["end", "other"]


@pytest.mark.parametrize("field", ["tenant", "space_uid", "keep_id"])
async def test_what_erasing_refuses(replica: Replica, field: str) -> None:
    request = pb.EraseSpaceEventsRequest(tenant="acme", space_uid=SPACE, keep_id="end")
    setattr(request, field, "\x00")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await replica.stub().EraseSpaceEvents(request, timeout=SECONDS)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in (caught.value.details() or "")


async def test_a_tenant_reads_its_own_events_only(replica: Replica) -> None:
    await publish(replica, *(event(str(n), tenant="acme" if n % 2 else "other") for n in range(10)))
    stub = replica.stub("acme")
    response = await stub.ReadEvents(pb.ReadEventsRequest(page_size=3), timeout=SECONDS)
    assert [stored.event.id for stored in response.events] == ["1", "3", "5"]
    assert (response.resume_position, response.head_position) == (6, 10)
    request = pb.ReadEventsRequest(after_position=response.resume_position)
    response = await stub.ReadEvents(request, timeout=SECONDS)
    assert [stored.event.id for stored in response.events] == ["7", "9"]
    assert (response.resume_position, response.head_position) == (10, 10)
    response = await replica.stub("nobody").ReadEvents(pb.ReadEventsRequest(), timeout=SECONDS)
    assert list(response.events) == []


async def test_reading_needs_a_caller_with_the_scope(replica: Replica) -> None:
    for stub, code in (
        (replica.stub(), grpc.StatusCode.UNAUTHENTICATED),
        (replica.stub("acme", "memory:read"), grpc.StatusCode.PERMISSION_DENIED),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ReadEvents(pb.ReadEventsRequest(), timeout=SECONDS)
        assert caught.value.code() is code


async def test_a_subscriber_at_another_replica_is_told(
    replica: Replica, postgres: TestPostgres, database_url: str
) -> None:
    database = await postgres.open(database_url)
    async with running(database) as other, subscribed(other.stub(), start()) as call:
        for name in "abc":
            await publish(replica, event(name))
            assert await ids(call, 1) == [name]
    await database.close()


async def test_a_subscriber_who_missed_the_news_finds_the_events(database: Database) -> None:
    async with running(database, poll_seconds=0.05) as replica, subscribed(replica.stub(), start()) as call:
        await publish(replica, event("1"))
        assert await ids(call, 1) == ["1"]
        await database.execute(
            "INSERT INTO events.log SELECT 2, tenant, source, '2', type, subject, occurred_at, datacontenttype, "
            "dataschema, data, space_uid, revision, traceparent, stored_at FROM events.log"
        )
        await database.execute("UPDATE events.head SET position = 2")
        assert await ids(call, 1) == ["2"]


async def test_draining_sends_subscribers_away_at_once(replica: Replica) -> None:
    async with subscribed(replica.stub(), start()) as call:
        await publish(replica, event("1"))
        assert await ids(call, 1) == ["1"]
        replica.app.drain()
        code, details = await failure(call)
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "shutting down" in details


async def test_a_subscription_leaves_no_task_behind(replica: Replica) -> None:
    before = len(asyncio.all_tasks())
    async with subscribed(replica.stub(), start()) as call:
        await publish(replica, event("1"))
        assert await ids(call, 1) == ["1"]
    await until(lambda: len(asyncio.all_tasks()) <= before)
