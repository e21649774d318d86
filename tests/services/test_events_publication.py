"""Publishing by clients: whose events they are, and what they may not say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.event_callers import SECONDS, Caller, event, event_callers, refused

from mnemo_events.domain.platform_types import PLATFORM_TYPES, RESERVED_SEGMENTS, is_reserved
from mnemo_memory.wire import CHANGE_EVENTS
from mnemocore.errors import AccessDeniedError, InvalidFieldError, PermissionDeniedError
from mnemocore.events.v1 import access_service_pb2, resources_pb2, schema_service_pb2
from mnemocore.events.v1 import event_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.event_callers import EventCallers

    from mnemocore.postgres import Database

SPACE = "018f0000-0000-7000-8000-00000000000a"


@pytest.fixture
async def bus(database: Database) -> AsyncIterator[EventCallers]:
    async with event_callers(database) as running:
        allowed = resources_pb2.AccessPolicy(
            principal="alice",
            types=["**"],
            actions=[resources_pb2.ACCESS_ACTION_PUBLISH, resources_pb2.ACCESS_ACTION_SUBSCRIBE],
        )
        request = access_service_pb2.CreatePolicyRequest(policy_id="alice", policy=allowed)
        await running.admin.access.CreatePolicy(request, timeout=SECONDS)
        yield running


async def publish(caller: Caller, *events: resources_pb2.Event) -> list[int]:
    response = await caller.events.PublishEvents(pb.PublishEventsRequest(events=events), timeout=SECONDS)
    return list(response.positions)


async def stored(caller: Caller) -> list[resources_pb2.Event]:
    response = await caller.events.ReadEvents(pb.ReadEventsRequest(), timeout=SECONDS)
    return [each.event for each in response.events]


async def violations(caller: Caller, *events: resources_pb2.Event) -> dict[str, str]:
    request = schema_service_pb2.ValidateEventsRequest(events=events)
    response = await caller.schemas.ValidateEvents(request, timeout=SECONDS)
    return {each.field: each.description for each in response.violations}


async def test_what_a_client_publishes_is_its_tenants_and_its_own(bus: EventCallers) -> None:
    alice = bus.caller("alice")
    sent = event(
        "1",
        subject="orders/1",
        datacontenttype="text/plain",
        data=b"hello",
        correlation_id="c",
        causation_id="0",
        traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
    )
    assert await publish(alice, sent, event("2", tenant="acme", source="shop")) == [1, 2]
    first, second = await stored(alice)
    sent.tenant, sent.source = "acme", "principals/alice"
    assert first == sent
    assert (second.tenant, second.source) == ("acme", "shop")


async def test_an_event_is_stored_once_for_each_who_publishes_it(bus: EventCallers) -> None:
    alice = bus.caller("alice")
    assert await publish(alice, event("1"), event("1", source="principals/alice"), event("1", source="shop")) == [
        1,
        1,
        2,
    ]
    assert await publish(bus.admin, event("1")) == [3]
    assert await publish(alice, event("1")) == [1]


@pytest.mark.parametrize(
    ("attributes", "field"),
    [
        ({"tenant": "other"}, "tenant"),
        ({"source": "mnemocore/memory"}, "source"),
        ({"source": "principals/bob"}, "source"),
        ({"source": "principals/alice2"}, "source"),
        ({"space_uid": SPACE}, "space_uid"),
        ({"revision": 1}, "revision"),
        ({"type": "memory.created"}, "type"),
        ({"type": "task.mine.done"}, "type"),
        ({"subject": "a\x00"}, "subject"),
        ({"correlation_id": "a\x00"}, "correlation_id"),
        ({"causation_id": "a\x00"}, "causation_id"),
        ({"dataschema": "a\x00"}, "dataschema"),
    ],
)
async def test_what_a_client_may_not_say(bus: EventCallers, attributes: dict[str, Any], field: str) -> None:
    wrong = event("2", **({"type": "orders.created"} | attributes))
    for caller in (bus.caller("alice"), bus.admin):
        with refused(InvalidFieldError, f"events[1].{field}"):
            await publish(caller, event("1"), wrong)
    assert list(await violations(bus.caller("alice"), event("1"), wrong)) == [f"events[1].{field}"]
    assert await stored(bus.admin) == []


async def test_all_that_is_wrong_is_named_at_once(bus: EventCallers) -> None:
    with refused(InvalidFieldError, "events[0].tenant", "events[0].type", "events[2].source"):
        await publish(
            bus.caller("alice"),
            event("1", "space.erased", tenant="other"),
            event("2"),
            event("3", source="mnemocore/"),
        )


async def test_own_names_below_ones_own_are_sources(bus: EventCallers) -> None:
    assert await publish(bus.caller("alice"), event("1", source="principals/alice/laptop")) == [1]


async def test_publishing_needs_the_scope(bus: EventCallers) -> None:
    with refused(PermissionDeniedError, "events:write"):
        await publish(bus.caller("alice", scopes="events:read"), event("1"))


async def test_services_say_whose_events_they_are(bus: EventCallers) -> None:
    whole = event("1", "memory.created", tenant="other", source="mnemocore/memory", space_uid=SPACE, revision=7)
    assert await publish(bus.service, whole) == [1]
    for field in ("tenant", "source"):
        lacking = resources_pb2.Event()
        lacking.CopyFrom(whole)
        lacking.ClearField(field)
        with refused(InvalidFieldError, f"events[1].{field}"):
            await publish(bus.service, whole, lacking)


async def test_validating_says_what_publishing_would_refuse_and_records_nothing(bus: EventCallers) -> None:
    found = await violations(bus.caller("bob"), event("1", subject="orders/1"), event("2", "memory.created"))
    assert found["events[0].type"] == "no policy allows you to publish orders.created of orders/1"
    assert "of the platform" in found["events[1].type"]
    assert await violations(bus.caller("alice"), event("1")) == {}
    assert await stored(bus.admin) == []
    refusals = await bus.admin.access.ListRefusals(access_service_pb2.ListRefusalsRequest(), timeout=SECONDS)
    assert not refusals.refusals


async def test_a_batch_that_is_refused_in_part_is_refused_whole(bus: EventCallers) -> None:
    allowed = resources_pb2.AccessPolicy(
        principal="bob", types=["orders.*"], actions=[resources_pb2.ACCESS_ACTION_PUBLISH]
    )
    request = access_service_pb2.CreatePolicyRequest(policy_id="bob", policy=allowed)
    await bus.admin.access.CreatePolicy(request, timeout=SECONDS)
    with refused(AccessDeniedError, "bills.paid of bills/1"):
        await publish(bus.caller("bob"), event("1"), event("2", "bills.paid", subject="bills/1"))
    assert await stored(bus.admin) == []


def test_every_change_of_a_memory_has_a_type_in_the_table() -> None:
    assert set(CHANGE_EVENTS.values()) <= {each.type for each in PLATFORM_TYPES}


def test_types_of_the_platform_are_named_once_and_reserved() -> None:
    types = [each.type for each in PLATFORM_TYPES]
    assert len(set(types)) == len(types)
    assert all(is_reserved(type) for type in types)
    assert "cognitive" in RESERVED_SEGMENTS
    assert not is_reserved("memories.created")
