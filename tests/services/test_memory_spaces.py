"""Spaces: made, read, changed, listed, counted; over the domain and over the wire."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from tests.memory_house import ADA, BOB, EVE, PRIVATE, ROOT, opened
from tests.memory_wire import Wire

from mnemo_memory.api.space_service import UPDATABLE, SpaceServicer
from mnemo_memory.domain.media import MediaInput
from mnemo_memory.domain.memories import Edit, New
from mnemo_memory.domain.memory import Draft, Kind, Limits, NoveltyGate, Policy, Role, SpaceAccess, State, Tier
from mnemo_memory.domain.ports import Request
from mnemo_memory.domain.spaces import NewSpace
from mnemocore.errors import (
    InvalidFieldError,
    PageTokenMismatchError,
    PermissionDeniedError,
    QuotaExceededError,
    RequestIdReusedError,
    RoleRequiredError,
    SpaceEtagMismatchError,
    SpaceExistsError,
    SpaceNotEncryptedError,
    SpaceNotFoundError,
)
from mnemocore.ids import new_uuid
from mnemocore.memory.v1 import resources_pb2, space_service_pb2_grpc
from mnemocore.memory.v1 import space_service_pb2 as pb
from mnemocore.server import Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.memory_house import House

    from mnemocore.calls import Identity
    from mnemocore.testing.postgres import TestPostgres


@pytest.fixture
async def house(postgres: TestPostgres) -> AsyncIterator[House]:
    async with opened(postgres) as started:
        yield started


def a_request(house: House, digest: bytes = b"one") -> Request:
    return Request(new_uuid(house.clock.now()), digest)


# Making


async def test_a_space_belongs_to_who_made_it(house: House) -> None:
    policy = Policy(SpaceAccess.OWNER, NoveltyGate.ON, timedelta(days=1), timedelta(0), Limits(1, 2, 3))
    made = await house.spaces.create(ADA, NewSpace("notes", "what I heard", policy, encrypted=True), None)
    assert made.role is Role.OWNER
    assert (made.space.owner, made.space.description, made.space.policy) == ("ada", "what I heard", policy)
    assert made.space.encrypted
    assert await house.spaces.get(ADA, "notes") == made


async def test_names_are_unique_in_a_tenant(house: House) -> None:
    await house.make("notes")
    with pytest.raises(SpaceExistsError):
        await house.make("notes", BOB)
    assert (await house.make("notes", EVE)).tenant == EVE.tenant


async def test_a_repeated_request_makes_one_space(house: House) -> None:
    request = a_request(house)
    first = await house.spaces.create(ADA, NewSpace("notes"), request)
    assert await house.spaces.create(ADA, NewSpace("notes"), request) == first
    with pytest.raises(RequestIdReusedError):
        await house.spaces.create(ADA, NewSpace("other"), replace(request, digest=b"two"))


async def test_one_request_sent_many_times_at_once_makes_one_space(house: House) -> None:
    request = a_request(house)
    made = await asyncio.gather(*[house.spaces.create(ADA, NewSpace("notes"), request) for _ in range(8)])
    assert len({view.space.uid for view in made}) == 1


# Who sees which


async def test_a_private_space_does_not_exist_for_others_of_the_tenant(house: House) -> None:
    await house.make("diary", policy=PRIVATE)
    assert (await house.spaces.get(ADA, "diary")).role is Role.OWNER
    assert (await house.spaces.get(ROOT, "diary")).role is Role.OWNER
    for stranger in (BOB, EVE):
        with pytest.raises(SpaceNotFoundError):
            await house.spaces.get(stranger, "diary")
    with pytest.raises(SpaceNotFoundError):
        await house.spaces.republish(BOB, "diary")


async def test_lists_show_what_the_caller_may_use_as_its_own(house: House) -> None:
    for slug in ("c", "a"):
        await house.make(slug)
    await house.make("b", policy=PRIVATE)
    await house.make("d", BOB, policy=PRIVATE)
    await house.make("e", EVE)
    await house.share("b", BOB)

    async def listed(caller: Identity, size: int = 0) -> list[str]:
        slugs, token = [], ""
        while True:
            views, token = await house.spaces.of_tenant(caller, size, token)
            slugs += [view.space.slug for view in views]
            if not token:
                return slugs

    for size in (0, 1, 2):
        assert await listed(ADA, size) == ["a", "b", "c"]
    assert await listed(BOB) == ["a", "c", "d"]
    assert await listed(ROOT, 2) == ["a", "b", "c", "d"]
    assert await listed(EVE) == ["e"]


async def test_a_page_token_is_good_for_its_caller(house: House) -> None:
    for slug in "abc":
        await house.make(slug)
    _, token = await house.spaces.of_tenant(ADA, 1, "")
    with pytest.raises(PageTokenMismatchError):
        await house.spaces.of_tenant(BOB, 1, token)


async def test_memories_whose_time_is_over_count_as_archived_before_they_are_swept(house: House) -> None:
    await house.make("notes")
    soon = house.clock.now() + timedelta(seconds=10)
    _, archived, *_ = await house.keep(
        "notes", Draft("stays"), Draft("archived"), Draft("expires", expires_at=soon), Draft("too", expires_at=soon)
    )
    await house.memories.archive(ADA, "notes", archived.id, Edit())
    counts = []
    for _ in range(3):
        space = (await house.spaces.get(ADA, "notes")).space
        (listed,), _ = await house.spaces.of_tenant(ADA, 0, "")
        assert listed.space == space
        counts.append((space.active, space.archived))
        if len(counts) == 2:
            await house.store.sweep(house.clock.now(), 100)
        await house.clock.advance(10)
    assert counts == [(3, 1), (1, 3), (1, 3)]


async def test_who_sees_a_part_gets_no_counts(house: House) -> None:
    await house.make("notes")
    await house.keep("notes", Draft("one"), Draft("two", tags=("shared",)))
    await house.share("notes", EVE, Role.WRITE, tags=("shared",))
    seen = await house.spaces.get(EVE, "notes")
    assert seen.role is Role.WRITE
    space = seen.space
    assert (space.active, space.archived, space.revision, space.published_revision, space.bytes) == (0, 0, 0, 0, 0)
    whole = await house.make("whole")
    await house.keep("whole", Draft("one"))
    await house.share("whole", EVE)
    assert (await house.spaces.get(EVE, "whole")).space.active == 1
    assert (await house.spaces.get(EVE, "whole")).space.uid == whole.uid


# Changing


def set_all(description: str, policy: Policy) -> Any:
    return lambda _description, _policy: (description, policy)


async def test_an_update_changes_the_etag_and_nothing_else_does(house: House) -> None:
    made = await house.make("notes")
    await house.keep("notes", Draft("x"))
    assert (await house.spaces.get(ADA, "notes")).space.etag == made.etag
    changed = await house.spaces.update(ADA, "notes", set_all("new", made.policy), made.etag)
    assert (changed.space.description, changed.space.active) == ("new", 1)
    assert changed.space.etag != made.etag
    with pytest.raises(SpaceEtagMismatchError):
        await house.spaces.update(ADA, "notes", set_all("newer", made.policy), made.etag)
    same = await house.spaces.update(ADA, "notes", set_all("new", made.policy), changed.space.etag)
    assert same == changed


async def test_updates_of_different_fields_at_once_all_count(house: House) -> None:
    await house.make("notes")

    def limit(field: str, value: int) -> Any:
        return lambda text, policy: (text, replace(policy, limits=replace(policy.limits, **{field: value})))

    fields = ("max_memories", "max_bytes", "max_content_bytes")
    async with asyncio.TaskGroup() as group:
        for number, field in enumerate(fields, 1):
            group.create_task(house.spaces.update(ADA, "notes", limit(field, number * 100), ""))
        group.create_task(house.spaces.update(ADA, "notes", lambda _, policy: ("new", policy), ""))
    space = (await house.spaces.get(ADA, "notes")).space
    assert (space.description, space.policy.limits) == ("new", Limits(100, 200, 300))
    assert space.policy_revision == 4


async def test_a_new_limit_counts_at_once(house: House) -> None:
    made = await house.make("notes")
    await house.spaces.update(ADA, "notes", set_all("", replace(made.policy, limits=Limits(max_memories=1))), "")
    await house.keep("notes", Draft("one"))
    with pytest.raises(QuotaExceededError):
        await house.keep("notes", Draft("two"))


async def test_who_may_use_a_space_is_for_its_keeper_to_say(house: House) -> None:
    made = await house.make("notes")
    with pytest.raises(PermissionDeniedError):
        await house.spaces.update(BOB, "notes", set_all("", PRIVATE), "")
    assert (await house.spaces.update(BOB, "notes", set_all("by bob", made.policy), "")).space.description == "by bob"
    await house.spaces.update(ADA, "notes", set_all("", PRIVATE), "")
    with pytest.raises(SpaceNotFoundError):
        await house.spaces.get(BOB, "notes")
    await house.spaces.update(ROOT, "notes", set_all("", Policy()), "")
    await house.spaces.get(BOB, "notes")


async def test_only_owners_change_and_republish(house: House) -> None:
    made = await house.make("notes")
    await house.keep("notes", Draft("x"), Draft("y"))
    await house.share("notes", EVE, Role.WRITE)
    for call in (
        house.spaces.update(EVE, "notes", set_all("", made.policy), ""),
        house.spaces.republish(EVE, "notes"),
        house.spaces.rotate_key(EVE, "notes"),
    ):
        with pytest.raises(RoleRequiredError):
            await call
    assert await house.spaces.republish(ADA, "notes") == 2
    with pytest.raises(SpaceNotEncryptedError):
        await house.spaces.rotate_key(ADA, "notes")


# Counting


@pytest.mark.parametrize("encrypted", [False, True])
async def test_stats(house: House, encrypted: bool) -> None:
    await house.make("notes", encrypted=encrypted)
    day = house.clock.now()
    soon = day + timedelta(seconds=60)
    text = b"plain text in a file"
    await house.keep("notes", Draft("old" * 10, metadata={"k": "v"}), Draft("fact", kind=Kind.FACT))
    await house.clock.advance(3 * 86_400)
    written = await house.keep(
        "notes",
        Draft("archived", kind=Kind.FACT, tags=("shared",)),
        Draft("superseded", tags=("shared",)),
        Draft("expires", expires_at=soon + timedelta(days=3)),
    )
    await house.memories.archive(ADA, "notes", written[0].id, Edit())
    _, new, _, _ = await house.memories.supersede(
        ADA, "notes", written[1].id, New(Draft("new", tags=("shared",))), Edit()
    )
    image = New(Draft("image", kind=Kind.FACT), MediaInput(data=text))
    _, with_media, _ = await house.memories.create_one(ADA, "notes", image, None)
    await house.clock.advance(60)
    stats = await house.stats.of(ADA, "notes", 0)
    assert stats.kinds == {Kind.OBSERVATION: 4, Kind.FACT: 3}
    assert stats.states == {State.ACTIVE: 4, State.ARCHIVED: 1, State.SUPERSEDED: 1, State.EXPIRED: 1}
    assert stats.tiers == {Tier.WARM: 7}
    sizes = [len("old" * 10) + len('{"k":"v"}'), 4, 8, 10, 7, 3, 5]
    assert stats.content_bytes == sum(sizes)
    assert with_media.memory.media is not None
    assert stats.media_bytes == len(text)
    assert [(each.start, each.memories, each.content_bytes) for each in stats.growth] == [
        (day, 2, sum(sizes[:2])),
        (day + timedelta(days=3), 5, sum(sizes[2:])),
    ]
    assert [each.memories for each in (await house.stats.of(ADA, "notes", 3)).growth] == [5]
    await house.share("notes", EVE, tags=("shared",))
    part = await house.stats.of(EVE, "notes", 366)
    assert part.kinds == {Kind.OBSERVATION: 2, Kind.FACT: 1}
    assert part.states == {State.ACTIVE: 1, State.ARCHIVED: 1, State.SUPERSEDED: 1}
    assert (part.content_bytes, part.media_bytes, [each.memories for each in part.growth]) == (21, 0, [3])
    assert new.id != written[1].id


async def test_days_are_those_of_utc(house: House) -> None:
    await house.make("notes")
    for hours in (23.5, 0.5, 24):
        await house.clock.advance(hours * 3600 - 0.001)
        await house.keep("notes", Draft("x"))
        await house.clock.advance(0.001)
    await house.clock.advance(3600)
    growth = (await house.stats.of(ADA, "notes", 3)).growth
    assert [(each.start.astimezone(UTC), each.memories) for each in growth] == [
        (datetime(2026, 1, 1, tzinfo=UTC), 2),
        (datetime(2026, 1, 2, tzinfo=UTC), 1),
    ]


async def test_an_empty_space_has_empty_stats(house: House) -> None:
    await house.make("notes")
    stats = await house.stats.of(ADA, "notes", 1)
    assert not (stats.kinds or stats.states or stats.tiers or stats.growth)
    assert (stats.content_bytes, stats.media_bytes, stats.associations) == (0, 0, 0)


# The wire


class SpaceWire(Wire):
    """SpaceService on a real server."""

    def __init__(self, house: House) -> None:
        service = Service(
            SpaceServicer(house.spaces, house.stats, house.erasures),
            space_service_pb2_grpc.add_SpaceServiceServicer_to_server,
            "mnemocore.memory.v1.SpaceService",
        )
        super().__init__(service, space_service_pb2_grpc.SpaceServiceStub, pb)

    async def call(self, method: str, caller: Identity = ROOT, **fields: Any) -> Any:
        return await super().call(method, caller, **fields)


@pytest.fixture
async def wired(house: House) -> AsyncIterator[SpaceWire]:
    started = SpaceWire(house)
    await started.start()
    yield started
    await started.stop()


def a_policy() -> resources_pb2.SpacePolicy:
    return resources_pb2.SpacePolicy(
        access=resources_pb2.SPACE_ACCESS_OWNER,
        novelty_gate=resources_pb2.NOVELTY_GATE_ON,
        retention=resources_pb2.RetentionPolicy(
            erase_expired_after=Duration(seconds=1, nanos=500_000), erase_archived_after=Duration()
        ),
        limits=resources_pb2.SpaceLimits(max_memories=2**62, max_bytes=5, max_content_bytes=6),
    )


async def test_a_space_travels_unchanged(wired: SpaceWire) -> None:
    made = (await wired.call("CreateSpace", space_id="notes", description="x", policy=a_policy(), encrypted=True)).space
    assert (await wired.call("GetSpace", name="spaces/notes")).space == made
    assert (await wired.call("ListSpaces")).spaces == [made]
    assert made.policy == a_policy()
    assert (made.name, made.owner, made.role, made.encrypted) == ("spaces/notes", "root", 4, True)


async def test_what_a_policy_does_not_name_has_its_default(wired: SpaceWire) -> None:
    made = (await wired.call("CreateSpace", space_id="notes")).space
    assert (made.policy.access, made.policy.novelty_gate) == (1, 1)
    assert not made.policy.retention.HasField("erase_expired_after")


def _value(message: Any, path: str) -> Any:
    for field in path.split("."):
        message = getattr(message, field)
    return message


@pytest.mark.parametrize("path", UPDATABLE)
async def test_a_mask_changes_what_it_names_and_nothing_else(wired: SpaceWire, path: str) -> None:
    before = (await wired.call("CreateSpace", space_id="notes", description="old")).space
    new = a_policy()
    after = (
        await wired.call(
            "UpdateSpace",
            name="spaces/notes",
            description="new",
            policy=new,
            update_mask=FieldMask(paths=[path]),
            etag=before.etag,
        )
    ).space
    assert _value(after, path) == _value(pb.UpdateSpaceRequest(description="new", policy=new), path)
    for other in UPDATABLE:
        if not (other.startswith(path) or path.startswith(other)):
            assert _value(after, other) == _value(before, other), other
    emptied = (
        await wired.call("UpdateSpace", name="spaces/notes", update_mask=FieldMask(paths=[path]), etag=after.etag)
    ).space
    before.etag, before.description = emptied.etag, "" if path == "description" else before.description
    assert emptied == before


@pytest.mark.parametrize(
    "fields",
    [
        {"update_mask": FieldMask(paths=["slug"])},
        {"update_mask": FieldMask(paths=["description", "policy.limits.max_everything"])},
        {"update_mask": FieldMask(paths=["policy."])},
        {"update_mask": FieldMask()},
        {"update_mask": FieldMask(paths=["description"]), "description": "a\x00b"},
        {
            "update_mask": FieldMask(paths=["policy"]),
            "policy": resources_pb2.SpacePolicy(
                retention=resources_pb2.RetentionPolicy(erase_expired_after=Duration(seconds=-1))
            ),
        },
        {
            "update_mask": FieldMask(paths=["policy"]),
            "policy": resources_pb2.SpacePolicy(
                retention=resources_pb2.RetentionPolicy(erase_archived_after=Duration(seconds=10**12))
            ),
        },
        {
            "update_mask": FieldMask(paths=["policy"]),
            "policy": resources_pb2.SpacePolicy(limits=resources_pb2.SpaceLimits(max_bytes=-1)),
        },
        {"update_mask": FieldMask(paths=["policy"]), "policy": resources_pb2.SpacePolicy(access=7)},  # type: ignore[arg-type]
    ],
)
async def test_what_an_update_refuses(wired: SpaceWire, fields: dict[str, Any]) -> None:
    await wired.call("CreateSpace", space_id="notes")
    with pytest.raises(InvalidFieldError):
        await wired.call("UpdateSpace", name="spaces/notes", **fields)


async def test_stats_and_keys_over_the_wire(wired: SpaceWire, house: House) -> None:
    await wired.call("CreateSpace", space_id="notes", encrypted=True)
    await house.keep("notes", Draft("x", kind=Kind.FACT), Draft("yy"))
    stats = (await wired.call("GetSpaceStats", name="spaces/notes")).stats
    assert [(each.kind, each.memories) for each in stats.kinds] == [(1, 1), (2, 1)]
    assert [(each.state, each.memories) for each in stats.states] == [(1, 2)]
    assert [(each.tier, each.memories) for each in stats.tiers] == [(2, 2)]
    assert [(each.day.seconds, each.memories, each.content_bytes) for each in stats.growth] == [
        (int(house.clock.now().timestamp()), 2, 3)
    ]
    with pytest.raises(InvalidFieldError):
        await wired.call("GetSpaceStats", name="spaces/notes", growth_days=367)
    rotated = await wired.call("RotateSpaceKey", name="spaces/notes")
    assert rotated.sealed_again == 4
    assert rotated.key_id
    assert (await wired.call("RepublishSpace", name="spaces/notes")).memories == 2


@pytest.mark.parametrize("method", ["EraseSpace", "ListErasures", "RotateSpaceKey", "RepublishSpace"])
async def test_some_methods_need_the_scope_of_an_administrator(wired: SpaceWire, method: str) -> None:
    fields: dict[str, Any] = {} if method == "ListErasures" else {"name": "spaces/notes"}
    await wired.call("CreateSpace", caller=ADA, space_id="notes")
    with pytest.raises(PermissionDeniedError):
        await wired.call(method, caller=ADA, **fields)
