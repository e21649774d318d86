"""Policies of event-bus: who is allowed what, what is refused, and what is recorded of it."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.event_callers import SECONDS, Caller, event, event_callers, refused

from mnemo_events.domain.access import MAX_POLICIES, Access, Action, Policy
from mnemo_events.domain.refusals import KEPT, KEPT_FOR, MAX_WAITING, Refusal, RefusalKey, Refusals
from mnemo_events.storage.postgres_policies import PostgresPolicies, PostgresRefusals
from mnemocore.calls import Identity
from mnemocore.errors import (
    AccessDeniedError,
    InvalidFieldError,
    PageTokenMismatchError,
    PermissionDeniedError,
    PolicyExistsError,
    QuotaExceededError,
    StoreUnavailableError,
)
from mnemocore.events.v1 import access_service_pb2 as pb
from mnemocore.events.v1 import event_service_pb2, resources_pb2
from mnemocore.ids import Tenant
from mnemocore.postgres import migrate
from mnemocore.testing.clock import ManualClock
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tests.event_callers import EventCallers

    from mnemocore.postgres import Database
    from mnemocore.testing.postgres import TestPostgres

ACME, OTHER = Tenant("acme"), Tenant("other")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
PUBLISH, SUBSCRIBE = resources_pb2.ACCESS_ACTION_PUBLISH, resources_pb2.ACCESS_ACTION_SUBSCRIBE


@pytest.fixture
async def bus(database: Database) -> AsyncIterator[EventCallers]:
    async with event_callers(database) as running:
        yield running


def policy(
    id: str, principal: str = "alice", types: Sequence[str] = ("orders.*",), subjects: Sequence[str] = (), **more: Any
) -> pb.CreatePolicyRequest:
    allowed = resources_pb2.AccessPolicy(
        principal=principal, types=types, subjects=subjects, actions=more.get("actions", [PUBLISH])
    )
    return pb.CreatePolicyRequest(policy_id=id, policy=allowed)


async def create(caller: Caller, request: pb.CreatePolicyRequest) -> resources_pb2.AccessPolicy:
    response: pb.CreatePolicyResponse = await caller.access.CreatePolicy(request, timeout=SECONDS)
    return response.policy


async def publish(caller: Caller, *events: resources_pb2.Event) -> list[int]:
    request = event_service_pb2.PublishEventsRequest(events=events)
    return list((await caller.events.PublishEvents(request, timeout=SECONDS)).positions)


async def refusals(caller: Caller, **query: Any) -> pb.ListRefusalsResponse:
    response: pb.ListRefusalsResponse = await caller.access.ListRefusals(
        pb.ListRefusalsRequest(**query), timeout=SECONDS
    )
    return response


async def allowed(caller: Caller, principal: str, type: str, subject: str = "", action: int = PUBLISH) -> str:
    """The policy that allows it; "" if none does."""
    request = pb.CheckAccessRequest(principal=principal, action=action, type=type, subject=subject)  # type: ignore[arg-type]
    response = await caller.access.CheckAccess(request, timeout=SECONDS)
    assert response.allowed == bool(response.policy.name)
    return str(response.policy.name)


async def test_nothing_is_allowed_until_a_policy_allows_it_and_after_it_is_gone(bus: EventCallers) -> None:
    alice = bus.caller("alice")
    with refused(AccessDeniedError, "publish orders.created of orders/1"):
        await publish(alice, event("1", subject="orders/1"))
    made = await create(bus.admin, policy("writers"))
    assert (made.name, made.principal, list(made.types)) == ("policies/writers", "alice", ["orders.*"])
    assert await publish(alice, event("1", subject="orders/1")) == [1]
    for other, tenant in (("bob", "acme"), ("alice", "other")):
        with refused(AccessDeniedError):
            await publish(bus.caller(other, tenant), event("1"))
    deleted = pb.DeletePolicyRequest(name="policies/writers")
    assert (await bus.admin.access.DeletePolicy(deleted, timeout=SECONDS)).deleted
    assert not (await bus.admin.access.DeletePolicy(deleted, timeout=SECONDS)).deleted
    with refused(AccessDeniedError):
        await publish(alice, event("2"))


async def test_who_administers_needs_no_policy(bus: EventCallers) -> None:
    assert await publish(bus.admin, event("1"), event("2", type="a.b.c")) == [1, 2]
    with refused(PermissionDeniedError, "events:admin"):
        await create(bus.caller("alice"), policy("own"))


async def test_one_policy_must_cover_a_type_and_its_subject(bus: EventCallers) -> None:
    alice = bus.caller("alice")
    await create(bus.admin, policy("one", types=["orders.created"], subjects=["orders/1/**"]))
    await create(bus.admin, policy("two", types=["orders.paid"], subjects=["orders/2"]))
    await publish(alice, event("1", subject="orders/1/a"), event("2", "orders.paid", subject="orders/2"))
    for refused_event in (
        event("3", subject="orders/2"),
        event("3", "orders.paid", subject="orders/1/a"),
        event("3"),
        event("3", subject="orders/1"),
        event("3", subject="orders/1/"),
        event("3", subject="orders/1//a"),
    ):
        with refused(AccessDeniedError):
            await publish(alice, event("4", subject="orders/1/a"), refused_event)


async def test_a_policy_for_everybody_and_for_any_subject(bus: EventCallers) -> None:
    await create(bus.admin, policy("all", principal="*", types=["**"], subjects=["**"]))
    assert await publish(bus.caller("alice"), event("1"), event("2", subject="a//b")) == [1, 2]
    with refused(AccessDeniedError):
        await publish(bus.caller("alice", "other"), event("1"))
    assert await allowed(bus.admin, "anybody", "x.y") == "policies/all"
    assert await allowed(bus.admin, "anybody", "x.y", action=SUBSCRIBE) == ""


async def test_asking_what_is_allowed(bus: EventCallers) -> None:
    await create(bus.admin, policy("b", types=["orders.*", "x.**"], subjects=["orders/*"]))
    await create(bus.admin, policy("a", types=["orders.paid"], actions=[SUBSCRIBE, PUBLISH]))
    assert await allowed(bus.admin, "alice", "orders.paid") == "policies/a"
    assert await allowed(bus.admin, "alice", "orders.paid", action=SUBSCRIBE) == "policies/a"
    assert await allowed(bus.admin, "alice", "orders.*", "orders/7") == "policies/b"
    assert await allowed(bus.admin, "alice", "x.y.*", "orders/*") == "policies/b"
    for type, subject in (("orders.**", "orders/7"), ("orders.new", ""), ("orders.new", "orders/**"), ("**", "")):
        assert await allowed(bus.admin, "alice", type, subject) == ""
    with refused(InvalidFieldError, "type"):
        await allowed(bus.admin, "alice", "a..b")


async def test_the_same_policy_again_changes_nothing_another_is_refused(bus: EventCallers) -> None:
    first = await create(bus.admin, policy("one", types=["a.*", "b.*"], actions=[PUBLISH, SUBSCRIBE]))
    assert await create(bus.admin, policy("one", types=["b.*", "a.*"], actions=[SUBSCRIBE, PUBLISH])) == first
    for other in (policy("one", types=["a.*"]), policy("one", principal="bob", types=["a.*", "b.*"])):
        with refused(PolicyExistsError, "one"):
            await create(bus.admin, other)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (policy("Up"), "policy_id"),
        (policy("one", principal=""), "policy.principal"),
        (policy("one", principal="a\x00"), "policy.principal"),
        (policy("one", types=[]), "policy.types"),
        (policy("one", types=["a.*", "a..b"]), "policy.types[1]"),
        (policy("one", subjects=["a//b"]), "policy.subjects[0]"),
        (policy("one", actions=[]), "policy.actions"),
        (policy("one", actions=[0]), "policy.actions[0]"),
        (policy("one", actions=[PUBLISH, PUBLISH]), "policy.actions"),
    ],
)
async def test_malformed_policies_are_refused(bus: EventCallers, request_: pb.CreatePolicyRequest, field: str) -> None:
    with refused(InvalidFieldError, field):
        await create(bus.admin, request_)


async def test_policies_are_listed_by_name_in_pages(bus: EventCallers) -> None:
    for number in range(5):
        await create(bus.admin, policy(f"p{number}", principal="alice" if number % 2 else "*"))
    await create(bus.caller(tenant="other", scopes="*"), policy("theirs"))

    async def names(**query: Any) -> tuple[list[str], str]:
        response = await bus.admin.access.ListPolicies(pb.ListPoliciesRequest(**query), timeout=SECONDS)
        return [each.name.removeprefix("policies/") for each in response.policies], response.next_page_token

    assert await names() == (["p0", "p1", "p2", "p3", "p4"], "")
    page, token = await names(page_size=3)
    assert page == ["p0", "p1", "p2"]
    assert await names(page_size=3, page_token=token) == (["p3", "p4"], "")
    assert await names(principal="alice") == (["p1", "p3"], "")
    with refused(PageTokenMismatchError):
        await names(page_token=token, principal="alice")


async def test_a_tenant_has_so_many_policies_and_no_more(bus: EventCallers, database: Database) -> None:
    await database.execute(
        "INSERT INTO events.policies SELECT 'acme', 'p' || n, 'bob', '{1}', '{a.*}', '{}', now() "
        f"FROM generate_series(2, {MAX_POLICIES}) AS n"
    )
    await create(bus.admin, policy("last"))
    with refused(QuotaExceededError, str(MAX_POLICIES)):
        await create(bus.admin, policy("more"))
    assert (await create(bus.admin, policy("last"))).name == "policies/last"
    assert await publish(bus.caller("alice"), event("1")) == [1]


async def test_what_another_replica_changes_takes_effect_here(bus: EventCallers, database: Database) -> None:
    alice = bus.caller("alice")
    with refused(AccessDeniedError):
        await publish(alice, event("1"))
    async with event_callers(database) as other:
        await create(other.admin, policy("writers"))
        await until(lambda: _succeeds(alice), SECONDS)
        await other.admin.access.DeletePolicy(pb.DeletePolicyRequest(name="policies/writers"), timeout=SECONDS)
        await until(lambda: _fails(alice), SECONDS)


async def _succeeds(caller: Caller) -> bool:
    return not await _fails(caller)


async def _fails(caller: Caller) -> bool:
    try:
        with refused(AccessDeniedError):
            await publish(caller, event("again"))
    except pytest.fail.Exception:
        return False
    return True


class Room:
    """Access without a wire, on a clock of its own."""

    def __init__(self, database: Database) -> None:
        self.clock = ManualClock(NOW)
        self.store = PostgresRefusals(database)
        self.refusals = Refusals(self.store, self.clock)
        self.policies = PostgresPolicies(database)
        self.access = Access(self.policies, self.refusals, self.clock, poll_seconds=5.0)

    async def allows(self, type: str = "a.b", *subjects: str) -> bool:
        return await self.access.allows(ACME, "alice", Action.PUBLISH, (type,), subjects)

    async def refuse(self, type: str, principal: str = "alice", tenant: Tenant = ACME) -> None:
        identity = Identity(tenant, principal, frozenset({"events:write"}))
        with pytest.raises(AccessDeniedError):
            await self.access.check(identity, Action.PUBLISH, (type,), (), "PublishEvents")


async def prepared(database: Database) -> None:
    await migrate(database, "mnemo_events.storage.migrations", schema="events")


@pytest.fixture
async def room(postgres: TestPostgres) -> AsyncIterator[Room]:
    url = await postgres.create(prepared)
    database = await postgres.open(url)
    yield Room(database)
    await database.close()
    await postgres.drop(url)


def allowing(id: str, tenant: Tenant = ACME, **more: Any) -> Policy:
    return Policy(tenant, id, "alice", (Action.PUBLISH,), more.get("types", ("a.*",)), more.get("subjects", ()), NOW)


async def test_lost_news_are_found_after_a_while(room: Room) -> None:
    assert not await room.allows()
    await room.policies.create(allowing("p"), MAX_POLICIES)
    assert not await room.allows()
    await room.clock.advance(5)
    assert await room.allows()
    await room.policies.delete(ACME, "p")
    assert await room.allows()
    room.access.forget(OTHER)
    assert await room.allows()
    room.access.forget(ACME)
    assert not await room.allows()


async def test_without_the_store_nothing_is_allowed_by_policies_that_may_be_gone(
    postgres: TestPostgres, database_url: str
) -> None:
    database = await postgres.open(database_url)
    await prepared(database)
    room = Room(database)
    await room.policies.create(allowing("p"), MAX_POLICIES)
    assert await room.allows()
    await database.close()
    assert await room.allows()
    await room.clock.advance(5)
    with pytest.raises(StoreUnavailableError):
        await room.allows()


async def test_asking_for_no_types_or_subjects_means_any(room: Room) -> None:
    await room.policies.create(allowing("p", types=("a.*", "b.*")), MAX_POLICIES)
    await room.policies.create(allowing("q", types=("c.*",), subjects=("x/*",)), MAX_POLICIES)

    async def ask(types: Sequence[str], subjects: Sequence[str]) -> bool:
        return await room.access.allows(ACME, "alice", Action.PUBLISH, types, subjects)

    assert await ask(("a.b", "b.*"), ())
    assert await ask(("c.d",), ("x/1", "x/*"))
    assert not await ask((), ())
    assert not await ask(("c.d",), ())
    assert not await ask(("a.b", "c.d"), ("y/1",))
    await room.policies.create(allowing("r", types=("**",), subjects=("**",)), MAX_POLICIES)
    room.access.forget()
    assert await ask((), ())


class Turns:
    """Counts the turns that others have."""

    def __init__(self) -> None:
        self.number = 0
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(0)
            self.number += 1

    def stop(self) -> None:
        self._task.cancel()


async def test_a_decision_by_many_policies_gives_others_their_turn(room: Room) -> None:
    types, subjects = tuple(f"a{n}.**" for n in range(31)), tuple(f"*/x/{n}" for n in range(32))
    for number in range(100):
        await room.policies.create(allowing(f"p{number}", types=(*types, "**"), subjects=subjects), MAX_POLICIES)
    assert not await room.allows("z.z", "a/x/y")
    turns = Turns()
    assert not await room.allows("z.y", "a/x/y")
    assert turns.number > 10
    turns.stop()


async def test_what_is_decided_while_policies_change_is_not_kept(room: Room) -> None:
    for number in range(20):
        await room.policies.create(allowing(f"p{number:02}", types=("x.*",)), MAX_POLICIES)
    await room.policies.create(allowing("z"), MAX_POLICIES)
    await room.allows("x.y")
    deciding = asyncio.create_task(room.allows())
    await asyncio.sleep(0)
    await room.policies.delete(ACME, "z")
    room.access.forget(ACME)
    await deciding
    assert not await room.allows()


async def test_refusals_are_counted_by_the_hour(bus: EventCallers) -> None:
    for principal in ("alice", "alice", "bob"):
        with refused(AccessDeniedError):
            await publish(bus.caller(principal), event("1", subject="orders/1"))
    found = (await refusals(bus.admin)).refusals
    assert {(each.principal, each.count) for each in found} == {("alice", 2), ("bob", 1)}
    assert {(each.target, each.method, each.action) for each in found} == {
        ("orders.created of orders/1", "PublishEvents", PUBLISH)
    }
    assert all(each.first_time.ToNanoseconds() <= each.last_time.ToNanoseconds() for each in found)
    assert [each.principal for each in (await refusals(bus.admin, principal="bob")).refusals] == ["bob"]
    assert not (await refusals(bus.caller(tenant="other", scopes="*"))).refusals


async def test_refusals_are_listed_in_pages_newest_hours_first(room: Room) -> None:
    for number in range(5):
        await room.refuse(f"t.{number}")
        await room.clock.advance(3600)
        await room.refuse("t.same", tenant=OTHER)

    async def page(size: int, token: str = "") -> tuple[list[str], str]:
        found, next_token = await room.refusals.list_refusals(ACME, "", size, token)
        return [each.key.target for each in found], next_token

    assert await page(0) == (["t.4", "t.3", "t.2", "t.1", "t.0"], "")
    first, token = await page(2)
    second, token = await page(2, token)
    assert (first, second, await page(2, token)) == (["t.4", "t.3"], ["t.2", "t.1"], (["t.0"], ""))
    found, _ = await room.refusals.list_refusals(OTHER, "", 0, "")
    assert [each.count for each in found] == [1] * 5
    assert found[0].key.hour == NOW + timedelta(hours=5)


async def test_refusals_are_kept_for_thirty_days_and_so_many(room: Room) -> None:
    await room.refuse("old.one")
    await room.refusals.write()
    await room.clock.advance(KEPT_FOR.total_seconds() + 3601)
    await room.refuse("new.one")
    found, _ = await room.refusals.list_refusals(ACME, "", 0, "")
    assert [each.key.target for each in found] == ["new.one"]
    assert await room.store.list_refusals(ACME, "", NOW, None, 10) == found
    now = room.clock.now()
    rows = [
        Refusal(RefusalKey(ACME, "bob", Action.PUBLISH, f"t.{number}", "m", now), 1, now, now)
        for number in range(KEPT + 5)
    ]
    await room.store.add(rows, KEPT)
    kept = await room.store.list_refusals(ACME, "", NOW, None, KEPT * 2)
    assert len(kept) == KEPT
    assert "new.one" not in {each.key.target for each in kept}


class Interrupted(PostgresRefusals):
    """A store that takes nothing while it is down."""

    down = False

    async def add(self, refusals: Sequence[Refusal], keep: int) -> None:
        if self.down:
            raise StoreUnavailableError
        await super().add(refusals, keep)


async def test_a_store_that_is_down_delays_what_is_recorded_and_nothing_else(
    postgres: TestPostgres, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    database = await postgres.open(database_url)
    await prepared(database)
    room, store = Room(database), Interrupted(database)
    refusals = Refusals(store, room.clock)
    room.access = Access(room.policies, refusals, room.clock, poll_seconds=5.0)
    await room.refuse("a.b")
    await refusals.write()
    store.down = True
    await room.refuse("a.b")
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            await refusals.write()
        assert not caplog.records  # that the store does not answer is said by whoever asks it
        await refusals.finish()
    assert "refusals that were not recorded: 1" in caplog.text
    await room.refuse("a.b")
    store.down = False
    found, _ = await refusals.list_refusals(ACME, "", 0, "")
    assert [each.count for each in found] == [3]
    await database.close()


async def test_what_waits_to_be_recorded_is_bounded(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(MAX_WAITING + 3):
        room.refusals.note(ACME, "alice", Action.PUBLISH, f"t.{number}", "m")
    with caplog.at_level(logging.WARNING):
        await room.refusals.write()
    assert "3 refusals were not recorded" in caplog.text


async def test_a_refusal_names_so_much_and_no_more(room: Room) -> None:
    identity = Identity(ACME, "alice", frozenset())
    subjects = [f"orders/{number}" for number in range(1000)]
    with pytest.raises(AccessDeniedError) as caught:
        await room.access.check(identity, Action.SUBSCRIBE, ("a.*",), subjects, "ReadEvents")
    assert len(caught.value.metadata["target"]) == 500
    wide = ["\U0001f600" * 400, "\x00" * 400]
    with pytest.raises(AccessDeniedError):
        await room.access.check(identity, Action.SUBSCRIBE, ("a.*",), wide, "ReadEvents")
    found, _ = await room.refusals.list_refusals(ACME, "", 0, "")
    assert {len(each.key.target) for each in found} == {500, 409}
    assert str(caught.value).startswith("no policy allows you to read a.* of orders/0, orders/1")


async def test_refusals_are_written_by_themselves(bus: EventCallers, database: Database) -> None:
    with refused(AccessDeniedError):
        await publish(bus.caller("alice"), event("1"))

    async def written() -> bool:
        return bool(await database.fetchval("SELECT count(*) = 1 FROM events.refusals"))

    await until(written, SECONDS)
