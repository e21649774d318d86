"""GroupService behind its host, through stubs: in process and over a socket."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from tests.event_callers import SECONDS, Caller, EventCallers, event, event_callers, refused

from mnemocore import calls
from mnemocore.errors import (
    AccessDeniedError,
    DeadLetterNotFoundError,
    GroupExistsError,
    GroupNotFoundError,
    InvalidFieldError,
    MnemoError,
    ShuttingDownError,
    UnauthenticatedError,
)
from mnemocore.events.v1 import access_service_pb2, event_service_pb2, group_service_pb2_grpc, resources_pb2
from mnemocore.events.v1 import group_service_pb2 as pb
from mnemocore.status import from_rpc_error
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mnemocore.postgres import Database
    from mnemocore.testing.postgres import TestPostgres

Outcome = pb.ConsumeEventsRequest.Outcome
EARLIEST = resources_pb2.StartAt(earliest=resources_pb2.StartAt.Earliest())
TOKEN = "a token"


@pytest.fixture
async def bus(database: Database) -> AsyncIterator[EventCallers]:
    async with event_callers(database) as running:
        yield running


@pytest.fixture
async def other_bus(bus: EventCallers, postgres: TestPostgres, database_url: str) -> AsyncIterator[EventCallers]:
    """Another replica."""
    database = await postgres.open(database_url)
    async with event_callers(database) as running:
        yield running
    await database.close()


async def allow(bus: EventCallers, principal: str, *types: str) -> None:
    policy = resources_pb2.AccessPolicy(
        principal=principal, types=types, actions=[resources_pb2.ACCESS_ACTION_SUBSCRIBE]
    )
    request = access_service_pb2.CreatePolicyRequest(policy_id=principal, policy=policy)
    await bus.admin.access.CreatePolicy(request, timeout=SECONDS)


async def publish(caller: Caller, *events: resources_pb2.Event) -> None:
    await caller.events.PublishEvents(event_service_pb2.PublishEventsRequest(events=events), timeout=SECONDS)


async def create(caller: Caller, name: str = "workers", **attributes: Any) -> resources_pb2.Group:
    request = pb.CreateGroupRequest(group_id=name, group=resources_pb2.Group(**attributes), start_at=EARLIEST)
    response: pb.CreateGroupResponse = await caller.groups.CreateGroup(request, timeout=SECONDS)
    return response.group


async def get(caller: Caller, name: str = "workers") -> resources_pb2.Group:
    request = pb.GetGroupRequest(name=f"groups/{name}")
    response: pb.GetGroupResponse = await caller.groups.GetGroup(request, timeout=SECONDS)
    return response.group


def start(credit: int = 100, name: str = "groups/workers", member: str = "") -> pb.ConsumeEventsRequest:
    return pb.ConsumeEventsRequest(start=pb.ConsumeEventsRequest.Start(name=name, credit=credit, member=member))


def credit(events: int) -> pb.ConsumeEventsRequest:
    return pb.ConsumeEventsRequest(credit=pb.ConsumeEventsRequest.Credit(events=events))


def settle(*outcomes: Outcome) -> pb.ConsumeEventsRequest:
    return pb.ConsumeEventsRequest(settle=pb.ConsumeEventsRequest.Settle(outcomes=outcomes))


def done(tag: int) -> Outcome:
    return Outcome(tag=tag, done=pb.ConsumeEventsRequest.Done())


def failed(tag: int, **attributes: Any) -> Outcome:
    return Outcome(tag=tag, failed=pb.ConsumeEventsRequest.Failed(**attributes))


def rejected(tag: int) -> Outcome:
    return failed(tag, reason=resources_pb2.FAILURE_REASON_REJECTED, message="not mine")


@asynccontextmanager
async def consuming(stub: Any, *requests: pb.ConsumeEventsRequest, **options: Any) -> AsyncIterator[Any]:
    call = stub.ConsumeEvents(**options)
    try:
        for request in requests:
            await call.write(request)
        yield call
    finally:
        call.cancel()


async def deliveries(call: Any, count: int) -> list[pb.ConsumeEventsResponse.Delivery]:
    """The next `count` events."""
    found: list[pb.ConsumeEventsResponse.Delivery] = []
    async with asyncio.timeout(SECONDS):
        while len(found) < count:
            found.extend((await call.read()).deliveries)
    return found


def ids(found: list[pb.ConsumeEventsResponse.Delivery]) -> list[str]:
    return [delivery.event.event.id for delivery in found]


async def answer(call: Any) -> tuple[list[int], list[int]]:
    """What is said next of what was settled."""
    async with asyncio.timeout(SECONDS):
        while True:
            message = await call.read()
            if message.settled or message.lost:
                return list(message.settled), list(message.lost)


async def failure(call: Any) -> MnemoError:
    """How a stream ends."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with asyncio.timeout(SECONDS):
            while await call.read() is not grpc.aio.EOF:
                pass
    return from_rpc_error(caught.value, "event-bus")


async def test_consuming_over_a_socket_as_fast_as_credit_is_given(bus: EventCallers) -> None:
    (address,) = await bus.host.start(["127.0.0.1:0"])
    await create(bus.admin)
    await publish(bus.admin, *(event(str(number), subject="a") for number in range(7)))
    metadata = (
        (calls.INTERNAL_TOKEN_HEADER, TOKEN),
        (calls.TENANT_HEADER, "acme"),
        (calls.SCOPES_HEADER, "events:admin"),
    )
    async with grpc.aio.insecure_channel(address) as channel:
        stub = group_service_pb2_grpc.GroupServiceStub(channel)
        async with consuming(stub, start(2, member="one"), metadata=metadata) as call:
            first = await deliveries(call, 2)
            assert ids(first) == ["0", "1"]
            assert [(each.attempt, each.replayed, each.event.position) for each in first] == [
                (1, False, 1),
                (1, False, 2),
            ]
            assert [each.tag for each in first] == [1, 2]
            await call.write(settle(done(1), done(2), done(1)))
            assert await answer(call) == ([1, 2], [])
            await call.write(settle(done(2)))
            assert await answer(call) == ([], [2])
            await call.write(credit(3))
            assert ids(await deliveries(call, 3)) == ["2", "3", "4"]
            found = await get(bus.admin)
            assert (found.position, found.in_flight, found.waiting, found.dead, found.lag) == (5, 3, 0, 0, 2)
            await call.write(credit(5))
            assert ids(await deliveries(call, 2)) == ["5", "6"]
    await bus.host.drain(5)


async def test_a_group_comes_back_as_it_was_made(bus: EventCallers) -> None:
    sent = resources_pb2.Group(
        filter=resources_pb2.EventFilter(types=["orders.*"], subjects=["shops/*/orders"]),
        max_attempts=7,
        lease=Duration(seconds=5, nanos=500_000_000),
    )
    await allow(bus, "alice", "**")
    request = pb.CreateGroupRequest(group_id="g", group=sent)
    made = (await bus.caller("alice").groups.CreateGroup(request, timeout=SECONDS)).group
    assert (made.name, made.owner, made.filter, made.max_attempts, made.lease) == (
        "groups/g",
        "alice",
        sent.filter,
        7,
        sent.lease,
    )
    assert made.HasField("create_time")
    assert await get(bus.admin, "g") == made
    default = await create(bus.admin, "default")
    assert (default.max_attempts, default.lease) == (5, Duration(seconds=60))
    assert default.filter == resources_pb2.EventFilter()
    with refused(GroupExistsError, "groups/g"):
        await bus.admin.groups.CreateGroup(pb.CreateGroupRequest(group_id="g"), timeout=SECONDS)


async def test_groups_are_listed_by_name_in_pages(bus: EventCallers) -> None:
    for number in range(5):
        await create(bus.admin, f"g{number}")
    await create(bus.caller("root", tenant="other", scopes="events:admin"), "g9")
    found: list[list[str]] = []
    token = ""
    while not found or token:
        request = pb.ListGroupsRequest(page_size=2, page_token=token)
        page = await bus.admin.groups.ListGroups(request, timeout=SECONDS)
        found.append([group.name for group in page.groups])
        token = page.next_page_token
    assert found == [["groups/g0", "groups/g1"], ["groups/g2", "groups/g3"], ["groups/g4"]]


@pytest.mark.parametrize(
    ("requests", "field"),
    [
        ([credit(1)], "start"),
        ([pb.ConsumeEventsRequest()], "start"),
        ([start(), start()], "message"),
        ([start(), credit(0)], "credit.events"),
        ([start(10_001)], "start.credit"),
        ([start(name="workers")], "start.name"),
        ([start(name="groups/webhook-a")], "start.name"),
        ([start(member="a\x00b")], "start.member"),
        ([start(), settle()], "settle.outcomes"),
        ([start(), settle(Outcome(tag=1))], "settle.outcomes[0].outcome"),
        ([start(), settle(done(0))], "settle.outcomes[0].tag"),
        ([start(), settle(done(1))], "settle.outcomes[0].tag"),
        ([start(), settle(done(1), failed(1, message="\x00"))], "settle.outcomes[1].failed.message"),
        ([start(), settle(failed(1, retry_after=Duration(seconds=-1)))], "settle.outcomes[0].failed.retry_after"),
        ([start(), settle(failed(1, retry_after=Duration(seconds=86401)))], "settle.outcomes[0].failed.retry_after"),
        ([start(), settle(failed(1, retry_after=Duration(seconds=2**60)))], "settle.outcomes[0].failed.retry_after"),
    ],
)
async def test_what_a_stream_refuses(bus: EventCallers, requests: list[pb.ConsumeEventsRequest], field: str) -> None:
    await create(bus.admin)
    async with consuming(bus.admin.groups, *requests) as call:
        error = await failure(call)
    assert isinstance(error, InvalidFieldError)
    assert error.violations[0].field == field


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("CreateGroup", pb.CreateGroupRequest(group_id="Bad"), "group_id"),
        ("CreateGroup", pb.CreateGroupRequest(group_id="webhook-a"), "group_id"),
        (
            "CreateGroup",
            pb.CreateGroupRequest(
                group_id="g", group=resources_pb2.Group(filter=resources_pb2.EventFilter(types=["a..b"]))
            ),
            "group.filter.types[0]",
        ),
        (
            "CreateGroup",
            pb.CreateGroupRequest(
                group_id="g", group=resources_pb2.Group(filter=resources_pb2.EventFilter(subjects=["a\x00"]))
            ),
            "group.filter.subjects[0]",
        ),
        (
            "CreateGroup",
            pb.CreateGroupRequest(group_id="g", group=resources_pb2.Group(lease=Duration(seconds=2**60))),
            "group.lease",
        ),
        ("CreateGroup", pb.CreateGroupRequest(group_id="g", start_at=resources_pb2.StartAt()), "start_at"),
        (
            "CreateGroup",
            pb.CreateGroupRequest(group_id="g", start_at=resources_pb2.StartAt(after_position=1)),
            "start_at.after_position",
        ),
        ("SeekGroup", pb.SeekGroupRequest(name="groups/workers"), "start_at"),
        ("SeekGroup", pb.SeekGroupRequest(name="workers", start_at=EARLIEST), "name"),
        ("DeleteGroup", pb.DeleteGroupRequest(name="groups/webhook-a"), "name"),
        ("GetDeadLetter", pb.GetDeadLetterRequest(name="groups/workers/deadLetters/0"), "name"),
        ("ListDeadLetters", pb.ListDeadLettersRequest(parent="workers"), "parent"),
        ("ReplayDeadLetters", pb.ReplayDeadLettersRequest(parent="groups/workers", positions=[0]), "positions[0]"),
        ("PurgeDeadLetters", pb.PurgeDeadLettersRequest(parent="groups/workers", positions=[1, 1]), "positions"),
    ],
)
async def test_what_requests_are_refused(bus: EventCallers, method: str, request_: Any, field: str) -> None:
    await create(bus.admin)
    with refused(InvalidFieldError) as caught:
        await getattr(bus.admin.groups, method)(request_, timeout=SECONDS)
    error = from_rpc_error(caught.value, "event-bus")
    assert error.violations[0].field.removesuffix("[1]") == field


async def test_a_group_of_no_tenant_is_nobodys(bus: EventCallers) -> None:
    with refused(UnauthenticatedError):
        await create(bus.service)
    async with consuming(bus.service.groups, start()) as call:
        assert isinstance(await failure(call), UnauthenticatedError)


async def test_tenants_do_not_see_each_others_groups(bus: EventCallers) -> None:
    other = bus.caller("root", tenant="other", scopes="events:admin")
    await create(bus.admin)
    await publish(bus.admin, event("1"))
    async with consuming(other.groups, start()) as call:
        assert isinstance(await failure(call), GroupNotFoundError)
    for method, request in (
        ("GetGroup", pb.GetGroupRequest(name="groups/workers")),
        ("SeekGroup", pb.SeekGroupRequest(name="groups/workers", start_at=EARLIEST)),
        ("ListDeadLetters", pb.ListDeadLettersRequest(parent="groups/workers")),
        ("ReplayDeadLetters", pb.ReplayDeadLettersRequest(parent="groups/workers")),
        ("PurgeDeadLetters", pb.PurgeDeadLettersRequest(parent="groups/workers")),
    ):
        with refused(GroupNotFoundError):
            await getattr(other.groups, method)(request, timeout=SECONDS)
    assert not (await other.groups.DeleteGroup(pb.DeleteGroupRequest(name="groups/workers"), timeout=SECONDS)).deleted
    await create(other)
    await publish(other, event("1"), event("2"))
    async with consuming(other.groups, start()) as theirs, consuming(bus.admin.groups, start()) as ours:
        assert [each.event.event.tenant for each in await deliveries(theirs, 2)] == ["other", "other"]
        assert [each.event.event.tenant for each in await deliveries(ours, 1)] == ["acme"]


async def test_without_a_policy_nothing_is_consumed(bus: EventCallers) -> None:
    await create(bus.admin, filter=resources_pb2.EventFilter(types=["orders.*"]))
    await publish(bus.admin, event("1"))
    async with consuming(bus.caller("alice").groups, start()) as call:
        assert isinstance(await failure(call), AccessDeniedError)
    with refused(AccessDeniedError):
        await create(bus.caller("alice"), "mine")
    await allow(bus, "alice", "orders.created")
    async with consuming(bus.caller("alice").groups, start()) as call:
        assert isinstance(await failure(call), AccessDeniedError)


async def test_a_policy_that_is_withdrawn_ends_the_stream(bus: EventCallers, other_bus: EventCallers) -> None:
    await create(bus.admin)
    await publish(bus.admin, event("1"))
    await allow(bus, "alice", "**")
    async with consuming(other_bus.caller("alice").groups, start()) as call:
        assert ids(await deliveries(call, 1)) == ["1"]
        await bus.admin.access.DeletePolicy(
            access_service_pb2.DeletePolicyRequest(name="policies/alice"), timeout=SECONDS
        )

        async def withdrawn() -> bool:
            request = access_service_pb2.CheckAccessRequest(
                principal="alice", action=resources_pb2.ACCESS_ACTION_SUBSCRIBE, type="orders.created"
            )
            return not (await other_bus.admin.access.CheckAccess(request, timeout=SECONDS)).allowed

        await until(withdrawn)
        await publish(bus.admin, event("2"))
        assert isinstance(await failure(call), AccessDeniedError)
    async with consuming(bus.admin.groups, start()) as call:
        assert [each.attempt for each in await deliveries(call, 2)] == [1, 1]


async def test_members_of_a_deleted_group_are_told(bus: EventCallers) -> None:
    await create(bus.admin)
    async with consuming(bus.admin.groups, start(0)) as idle, consuming(bus.admin.groups, start()) as waiting:
        await publish(bus.admin, event("1"))
        await deliveries(waiting, 1)
        request = pb.DeleteGroupRequest(name="groups/workers")
        assert (await bus.admin.groups.DeleteGroup(request, timeout=SECONDS)).deleted
        for call in (idle, waiting):
            assert isinstance(await failure(call), GroupNotFoundError)
    assert not (await bus.admin.groups.DeleteGroup(request, timeout=SECONDS)).deleted


async def test_what_a_drained_replica_had_goes_to_another_and_does_not_count(
    bus: EventCallers, other_bus: EventCallers
) -> None:
    await create(bus.admin)
    await publish(bus.admin, event("1"))
    async with consuming(bus.admin.groups, start()) as call:
        assert ids(await deliveries(call, 1)) == ["1"]
        async with consuming(other_bus.admin.groups, start()) as other:
            bus.app.drain()
            assert isinstance(await failure(call), ShuttingDownError)
            (again,) = await deliveries(other, 1)
            assert (again.event.event.id, again.attempt) == ("1", 1)
    async with consuming(bus.admin.groups, start()) as call:
        assert isinstance(await failure(call), ShuttingDownError)


async def test_what_a_member_had_when_it_went_goes_to_another_at_once(
    bus: EventCallers, other_bus: EventCallers
) -> None:
    await create(bus.admin)
    await publish(bus.admin, event("1", subject="a"), event("2", subject="a"))
    async with consuming(bus.admin.groups, start()) as goes:
        assert [each.attempt for each in await deliveries(goes, 2)] == [1, 1]
        async with consuming(other_bus.admin.groups, start()) as stays:
            await publish(bus.admin, event("3", subject="b"))
            goes.cancel()
            found = await deliveries(stays, 2)
            while len(found) < 3 and "3" in ids(found):
                found += await deliveries(stays, 1)
            assert [(each.event.event.id, each.attempt) for each in found if each.event.event.subject == "a"] == [
                ("1", 2),
                ("2", 2),
            ]


async def test_a_member_that_reads_nothing_slows_nobody(bus: EventCallers) -> None:
    await create(bus.admin)
    for number in range(20):
        await publish(bus.admin, event(str(number), data=bytes(1 << 20)))
    async with consuming(bus.admin.groups, start(5)) as stuck, consuming(bus.admin.groups, start(0)) as quick:

        async def stuck_has_its_share() -> bool:
            return (await get(bus.admin)).in_flight == 5

        await until(stuck_has_its_share)
        await quick.write(credit(100))
        found = await deliveries(quick, 15)
        await quick.write(settle(*(done(each.tag) for each in found)))
        assert await answer(quick) == ([each.tag for each in found], [])
        assert len(await deliveries(stuck, 5)) == 5


async def test_a_member_at_another_replica_hears_of_new_events(bus: EventCallers, other_bus: EventCallers) -> None:
    await create(bus.admin)
    async with consuming(other_bus.admin.groups, start()) as call:
        for name in "abc":
            await publish(bus.admin, event(name))
            assert ids(await deliveries(call, 1)) == [name]


async def test_a_member_that_says_no_more_gets_its_answers_and_gives_back_the_rest(bus: EventCallers) -> None:
    await create(bus.admin)
    await publish(bus.admin, event("1"), event("2"))
    async with consuming(bus.admin.groups, start()) as call:
        await deliveries(call, 2)
        await call.write(settle(done(1)))
        await call.done_writing()
        assert await answer(call) == ([1], [])
        async with asyncio.timeout(SECONDS):
            while await call.read() is not grpc.aio.EOF:
                pass
        assert await call.code() is grpc.StatusCode.OK
    async with consuming(bus.admin.groups, start()) as call:
        (again,) = await deliveries(call, 1)
        assert (again.event.position, again.attempt) == (2, 1)


async def test_dead_letters_are_listed_replayed_and_purged(bus: EventCallers) -> None:
    await create(bus.admin)
    await publish(bus.admin, *(event(str(number), data=b"x") for number in range(1, 5)))
    groups, parent = bus.admin.groups, "groups/workers"
    async with consuming(groups, start(credit=4)) as call:
        await deliveries(call, 4)
        await call.write(settle(*(rejected(tag) for tag in range(1, 5))))
        assert await answer(call) == ([1, 2, 3, 4], [])
        page = await groups.ListDeadLetters(pb.ListDeadLettersRequest(parent=parent, page_size=3), timeout=SECONDS)
        assert [letter.event.event.id for letter in page.dead_letters] == ["1", "2", "3"]
        second = pb.ListDeadLettersRequest(parent=parent, page_size=3, page_token=page.next_page_token)
        rest = await groups.ListDeadLetters(second, timeout=SECONDS)
        assert ([letter.event.event.id for letter in rest.dead_letters], rest.next_page_token) == (["4"], "")
        letter = page.dead_letters[0]
        assert letter.name == "groups/workers/deadLetters/1"
        assert (letter.reason, letter.message, letter.attempts, letter.event.event.data) == (
            resources_pb2.FAILURE_REASON_REJECTED,
            "not mine",
            1,
            b"x",
        )
        found = await groups.GetDeadLetter(pb.GetDeadLetterRequest(name=letter.name), timeout=SECONDS)
        assert found.dead_letter == letter
        replay = pb.ReplayDeadLettersRequest(parent=parent, positions=[1])
        assert (await groups.ReplayDeadLetters(replay, timeout=SECONDS)).replayed == 1
        await call.write(credit(4))
        (again,) = await deliveries(call, 1)
        assert (again.event, again.attempt, again.replayed) == (letter.event, 1, True)
        await call.write(settle(done(again.tag)))
        assert await answer(call) == ([again.tag], [])
        with refused(DeadLetterNotFoundError, letter.name):
            await groups.GetDeadLetter(pb.GetDeadLetterRequest(name=letter.name), timeout=SECONDS)
        purge = pb.PurgeDeadLettersRequest(parent=parent, before=Timestamp(seconds=1))
        assert (await groups.PurgeDeadLetters(purge, timeout=SECONDS)).purged == 0
        purge = pb.PurgeDeadLettersRequest(parent=parent, positions=[2, 3])
        assert (await groups.PurgeDeadLetters(purge, timeout=SECONDS)).purged == 2
    assert (await get(bus.admin)).dead == 1


async def test_a_stream_leaves_no_task_behind(bus: EventCallers) -> None:
    await create(bus.admin)
    await publish(bus.admin, event("1"))

    async def consume() -> None:
        async with consuming(bus.admin.groups, start()) as call:
            await deliveries(call, 1)

    await consume()
    before = len(asyncio.all_tasks())
    await consume()
    await until(lambda: len(asyncio.all_tasks()) <= before)
