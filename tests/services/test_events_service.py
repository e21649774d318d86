"""event-bus behind its host, through stubs: in process and over a socket."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from mnemo_events.app import EventsApp
from mnemo_events.storage.postgres_engine import PostgresEngine
from mnemocore import calls
from mnemocore.clock import SystemClock
from mnemocore.events.v1 import (
    access_service_pb2,
    access_service_pb2_grpc,
    event_service_pb2_grpc,
    resources_pb2,
)
from mnemocore.events.v1 import event_service_pb2 as pb
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
SECONDS = 60.0


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

    def stub(self, tenant: str = "", scopes: str = "events:admin", principal: str = "") -> Any:
        return event_service_pb2_grpc.EventServiceStub(self._channel(tenant, scopes, principal))

    def access(self, tenant: str) -> Any:
        return access_service_pb2_grpc.AccessServiceStub(self._channel(tenant, "events:admin", "root"))

    def _channel(self, tenant: str, scopes: str, principal: str) -> grpc.aio.Channel:
        metadata = [(calls.INTERNAL_TOKEN_HEADER, TOKEN)]
        if tenant:
            metadata += [
                (calls.TENANT_HEADER, tenant),
                (calls.SCOPES_HEADER, scopes),
                (calls.PRINCIPAL_HEADER, principal),
            ]
        return self.host.channel(metadata)


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


async def test_what_was_sent_before_it_was_redacted_is_not_sent_again(replica: Replica) -> None:
    await publish(replica, event("1", data=b"secret"), event("2", data=b"open"))
    sent: list[list[bytes]] = []
    for _ in range(2):
        async with subscribed(replica.stub(), start()) as call:
            page = await asyncio.wait_for(call.read(), SECONDS)
            assert [stored.event.id for stored in page.events] == ["1", "2"]
            sent.append([stored.event.data for stored in page.events])
        key = resources_pb2.EventKey(tenant="acme", source="test", id="1")
        await replica.stub().RedactEvents(pb.RedactEventsRequest(keys=[key]), timeout=SECONDS)
    assert sent == [[b"secret", b"open"], [b"", b"open"]]


async def test_readers_at_many_places_are_sent_the_same_events(replica: Replica) -> None:
    await publish(replica, *(event(str(n), data=bytes([n])) for n in range(50)))
    read = await replica.stub("acme").ReadEvents(pb.ReadEventsRequest(page_size=50), timeout=SECONDS)
    for after in (0, 0, 17, 3, 49, 17):
        async with subscribed(replica.stub(), start(after)) as call:
            page = await asyncio.wait_for(call.read(), SECONDS)
            assert list(page.events) == list(read.events)[after:]
            assert (page.resume_position, page.head_position) == (50, 50)


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
        (replica.stub("acme", "events:read"), grpc.StatusCode.PERMISSION_DENIED),
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
    await publish(replica, event("1"))

    async def subscribe() -> None:
        async with subscribed(replica.stub(), start()) as call:
            assert await ids(call, 1) == ["1"]

    await subscribe()
    before = len(asyncio.all_tasks())
    await subscribe()
    await until(lambda: len(asyncio.all_tasks()) <= before)


def start_at(credit: int = 100, **where: Any) -> pb.SubscribeEventsRequest:
    """A start by `start_at`."""
    at = resources_pb2.StartAt(**where)
    return pb.SubscribeEventsRequest(start=pb.SubscribeEventsRequest.Start(start_at=at, credit=credit))


async def allow(replica: Replica, principal: str, *types: str, subjects: tuple[str, ...] = ()) -> None:
    policy = resources_pb2.AccessPolicy(
        principal=principal, types=types, subjects=subjects, actions=[resources_pb2.ACCESS_ACTION_SUBSCRIBE]
    )
    request = access_service_pb2.CreatePolicyRequest(policy_id=principal, policy=policy)
    await replica.access("acme").CreatePolicy(request, timeout=SECONDS)


async def test_a_client_follows_its_own_tenant_only(replica: Replica) -> None:
    async with subscribed(replica.stub("acme"), start()) as ours, subscribed(replica.stub("other"), start()) as theirs:
        await publish(replica, *(event(str(n), tenant="acme" if n % 2 else "other") for n in range(6)))
        assert await ids(ours, 3) == ["1", "3", "5"]
        assert await ids(theirs, 3) == ["0", "2", "4"]


async def test_a_client_reads_what_a_policy_allows(replica: Replica) -> None:
    await publish(replica, event("1"), event("2", type="session.created"), event("3", subject="a/b"))
    alice = replica.stub("acme", "events:read", "alice")
    await allow(replica, "alice", "memory.*", subjects=("a/**",))

    async def both(**where: Any) -> list[list[str] | grpc.StatusCode]:
        found: list[list[str] | grpc.StatusCode] = []
        try:
            request = pb.ReadEventsRequest(filter=resources_pb2.EventFilter(**where))
            found.append([each.event.id for each in (await alice.ReadEvents(request, timeout=SECONDS)).events])
        except grpc.aio.AioRpcError as error:
            found.append(error.code())
        async with subscribed(alice, start(**where)) as call:
            try:
                found.append(await ids(call, 1))
            except grpc.aio.AioRpcError as error:
                found.append(error.code())
        return found

    denied = grpc.StatusCode.PERMISSION_DENIED
    assert await both() == [denied, denied]
    assert await both(types=["memory.created"]) == [denied, denied]
    assert await both(types=["session.created"], subjects=["a/b"]) == [denied, denied]
    assert await both(types=["memory.created", "session.created"], subjects=["a/b"]) == [denied, denied]
    assert await both(types=["memory.created"], subjects=["a/*"]) == [["3"], ["3"]]


async def test_a_policy_that_is_withdrawn_ends_the_stream(replica: Replica) -> None:
    await publish(replica, event("1"))
    await allow(replica, "alice", "**")
    async with subscribed(replica.stub("acme", "events:read", "alice"), start()) as call:
        assert await ids(call, 1) == ["1"]
        request = access_service_pb2.DeletePolicyRequest(name="policies/alice")
        await replica.access("acme").DeletePolicy(request, timeout=SECONDS)
        await publish(replica, event("2"))
        code, details = await failure(call)
    assert (code, details) == (grpc.StatusCode.PERMISSION_DENIED, "no policy allows you to read **")


@pytest.mark.parametrize("tenant", ["acme", ""])
async def test_where_a_subscription_starts(replica: Replica, tenant: str) -> None:
    await publish(replica, event("1"))
    async with subscribed(replica.stub(), start()) as call:
        (first,) = (await call.read()).events
    await publish(replica, event("2"), event("3"))
    just_after = to_timestamp(to_datetime(first.stored_at) + timedelta(microseconds=1))
    for request, expected in (
        (start_at(earliest=resources_pb2.StartAt.Earliest()), ["1", "2", "3"]),
        (start_at(after_position=2), ["3"]),
        (start_at(time=first.stored_at), ["1", "2", "3"]),
        (start_at(time=just_after), ["2", "3"]),
    ):
        async with subscribed(replica.stub(tenant), request) as call:
            assert await ids(call, len(expected)) == expected
    latest = start_at(latest=resources_pb2.StartAt.Latest())
    latest.start.head_at_once = True
    async with subscribed(replica.stub(tenant), latest) as call:
        assert await call.read() == pb.SubscribeEventsResponse(resume_position=3, head_position=3)
        await publish(replica, event("4"))
        assert await ids(call, 1) == ["4"]
    for request, field in (
        (start_at(), "start.start_at"),
        (start_at(after_position=6), "start.start_at.after_position"),
        (start_at(after_position=-1), "start.start_at.after_position"),
    ):
        async with subscribed(replica.stub(tenant), request) as call:
            code, details = await failure(call)
        assert (code, details.partition(":")[0]) == (grpc.StatusCode.INVALID_ARGUMENT, field)


async def test_a_client_that_starts_before_what_was_trimmed_is_told(replica: Replica, database: Database) -> None:
    await publish(replica, *(event(str(n), space_uid=SPACE if n < 3 else "") for n in range(1, 7)))
    await PostgresEngine(database).log.trim(None, 1, 100)
    client, service = replica.stub("acme"), replica.stub()
    for request in (start(2), start_at(after_position=4)):
        async with subscribed(client, request) as call:
            code, details = await failure(call)
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert "begins after position 5" in details
    for stub, request, expected in (
        (client, start(), ["1", "2", "6"]),
        (client, start_at(earliest=resources_pb2.StartAt.Earliest()), ["1", "2", "6"]),
        (client, start(5), ["6"]),
        (client, start(1, space_uid=SPACE), ["2"]),
        (service, start(1), ["2", "6"]),
    ):
        async with subscribed(stub, request) as call:
            assert await ids(call, len(expected)) == expected
    read = await client.ReadEvents(pb.ReadEventsRequest(after_position=1), timeout=SECONDS)
    assert [stored.event.id for stored in read.events] == ["2", "6"]
