"""Grants: made, listed, accepted, ended; which one counts; over the domain and over the wire."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.memory_house import ADA, BOB, EVE, GLOBEX, PRIVATE, ROOT, opened
from tests.memory_wire import Wire

from mnemo_memory.api.grant_service import GrantServicer
from mnemo_memory.domain.access import Share
from mnemo_memory.domain.grants import NewGrant, Part, widest
from mnemo_memory.domain.memory import Draft, Filter, Kind, Role, Space
from mnemo_memory.domain.ports import Author, Request
from mnemocore.calls import Identity
from mnemocore.errors import (
    GrantNotFoundError,
    InvalidFieldError,
    PageTokenMismatchError,
    RequestIdReusedError,
    RoleRequiredError,
    SpaceExistsError,
    SpaceNotFoundError,
)
from mnemocore.ids import SpaceUid, new_uuid
from mnemocore.memory.v1 import grant_service_pb2 as pb
from mnemocore.memory.v1 import grant_service_pb2_grpc
from mnemocore.server import Service
from mnemocore.testing.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.memory_house import House

    from mnemo_memory.domain.grants import Grant
    from mnemocore.testing.postgres import TestPostgres

TO_EVE = NewGrant("eve", Role.READ, GLOBEX)
ADA_AUTHOR = Author("ada", ManualClock().now())
MAX = Identity(GLOBEX, "max", EVE.scopes)


@pytest.fixture
async def house(postgres: TestPostgres) -> AsyncIterator[House]:
    async with opened(postgres) as started:
        yield started


async def contents(house: House, caller: Identity, slug: str = "notes") -> list[str]:
    """What a caller finds in a space, oldest first."""
    entered = await house.spaces.get(caller, slug)
    _, memories, _ = await house.memories.list_memories(caller, entered.space.slug, Filter(), (), 0, "")
    return [memory.content for memory in memories][::-1]


async def received(house: House, caller: Identity) -> list[Grant]:
    return (await house.grants.received(caller, 0, ""))[0]


async def of_space(house: House, caller: Identity = ADA, slug: str = "notes") -> list[Grant]:
    return (await house.grants.of_space(caller, slug, 0, ""))[0]


# Making


async def test_a_grant_is_what_was_asked_for(house: House) -> None:
    await house.make("notes")
    later = house.clock.now() + timedelta(days=1)
    new = NewGrant("eve", Role.ANNOTATE, GLOBEX, Part((Kind.FACT, Kind.SUMMARY), ("x", "y")), later)
    grant = await house.grants.create(ADA, "notes", new, None)
    assert (grant.slug, grant.tenant, grant.principal, grant.role) == ("notes", GLOBEX, "eve", Role.ANNOTATE)
    assert (grant.part, grant.expires_at, grant.created_at) == (new.part, later, house.clock.now())
    assert (grant.grantor, grant.grantor_tenant, grant.accepted_as) == ("ada", ADA.tenant, "")
    assert await of_space(house) == await received(house, EVE) == [grant]


@pytest.mark.parametrize("role", [Role.READ, Role.ANNOTATE, Role.WRITE])
async def test_only_owners_share(house: House, role: Role) -> None:
    await house.make("notes")
    await house.share("notes", EVE, role)
    for call in (
        house.grants.create(EVE, "notes", NewGrant("max", Role.READ), None),
        house.grants.of_space(EVE, "notes", 0, ""),
    ):
        with pytest.raises(RoleRequiredError):
            await call
    with pytest.raises(SpaceNotFoundError):
        await house.grants.create(MAX, "notes", NewGrant("max", Role.READ), None)
    with pytest.raises(SpaceNotFoundError):
        await house.grants.create(BOB, "other", NewGrant("max", Role.READ), None)


async def test_ownership_is_never_granted_and_nothing_is_granted_for_the_past(house: House) -> None:
    await house.make("notes")
    with pytest.raises(InvalidFieldError, match="role: OWNER is never granted"):
        await house.grants.create(ADA, "notes", replace(TO_EVE, role=Role.OWNER), None)
    for seconds in (0, -1):
        past = house.clock.now() + timedelta(seconds=seconds)
        with pytest.raises(InvalidFieldError, match="expire_time"):
            await house.grants.create(ADA, "notes", replace(TO_EVE, expires_at=past), None)


async def test_a_repeated_request_makes_one_grant(house: House) -> None:
    await house.make("notes")
    request = Request(new_uuid(house.clock.now()), b"one")
    made = await asyncio.gather(*[house.grants.create(ADA, "notes", TO_EVE, request) for _ in range(6)])
    assert len({grant.id for grant in made}) == 1
    assert await of_space(house) == [made[0]]
    with pytest.raises(RequestIdReusedError):
        await house.grants.create(ADA, "notes", TO_EVE, replace(request, digest=b"two"))
    await house.grants.delete(ADA, made[0].id)
    with pytest.raises(GrantNotFoundError):
        await house.grants.create(ADA, "notes", TO_EVE, request)
    assert await of_space(house) == []


async def test_lists_come_page_by_page(house: House) -> None:
    await house.make("notes")
    made = [await house.grants.create(ADA, "notes", TO_EVE, None) for _ in range(5)]
    for size in (1, 2, 5, 6):
        for page_of in (partial(house.grants.of_space, ADA, "notes", size), partial(house.grants.received, EVE, size)):
            found, token = await page_of("")
            while token:
                more, token = await page_of(token)
                found += more
            assert found == made
    _, token = await house.grants.received(EVE, 1, "")
    with pytest.raises(PageTokenMismatchError):
        await house.grants.received(MAX, 1, token)


# Within a tenant


async def test_a_private_space_is_shared_within_the_tenant_under_its_name(house: House) -> None:
    await house.make("notes", policy=PRIVATE)
    await house.keep("notes", Draft("x"))
    grant = await house.share("notes", BOB)
    assert await contents(house, BOB) == ["x"]
    assert (await house.spaces.get(BOB, "notes")).role is Role.READ
    with pytest.raises(InvalidFieldError, match="of your own tenant, which keeps its name 'notes'"):
        await house.grants.accept(BOB, grant.id, "other")


# Another tenant


async def test_another_tenant_finds_a_space_once_it_was_accepted(house: House) -> None:
    await house.make("notes")
    await house.keep("notes", Draft("x"))
    grant = await house.grants.create(ADA, "notes", TO_EVE, None)
    with pytest.raises(SpaceNotFoundError):
        await contents(house, EVE)
    accepted = await house.grants.accept(EVE, grant.id, "from-acme")
    assert accepted == replace(grant, accepted_as="from-acme")
    view = await house.spaces.get(EVE, "from-acme")
    assert (view.space.name, view.space.tenant) == ("spaces/from-acme", ADA.tenant)
    assert await contents(house, EVE, "from-acme") == ["x"]
    for caller, slug in ((EVE, "notes"), (MAX, "from-acme"), (ADA, "from-acme")):
        with pytest.raises(SpaceNotFoundError):
            await contents(house, caller, slug)


async def test_accepting_again_changes_nothing_or_the_name(house: House) -> None:
    await house.make("notes")
    grant = await house.grants.create(ADA, "notes", TO_EVE, None)
    first = await house.grants.accept(EVE, grant.id, "a")
    assert await house.grants.accept(EVE, grant.id, "a") == first
    await house.grants.accept(EVE, grant.id, "b")
    assert (await house.spaces.get(EVE, "b")).space.slug == "b"
    with pytest.raises(SpaceNotFoundError):
        await house.spaces.get(EVE, "a")


async def test_a_name_is_taken_by_spaces_of_the_tenant_and_by_what_was_accepted(house: House) -> None:
    await house.make("notes")
    one, two = [await house.grants.create(ADA, "notes", TO_EVE, None) for _ in range(2)]
    await house.make("hers", MAX, policy=PRIVATE)
    with pytest.raises(SpaceExistsError):
        await house.grants.accept(EVE, one.id, "hers")
    await house.grants.accept(EVE, one.id, "shared")
    with pytest.raises(SpaceExistsError):
        await house.grants.accept(EVE, two.id, "shared")
    assert [grant.accepted_as for grant in await received(house, EVE)] == ["shared", ""]
    to_max = await house.grants.create(ADA, "notes", replace(TO_EVE, principal="max"), None)
    await house.grants.accept(MAX, to_max.id, "shared")


async def test_a_name_of_an_expired_grant_is_free(house: House) -> None:
    await house.make("notes")
    soon = house.clock.now() + timedelta(seconds=10)
    old = await house.share("notes", EVE, expires_at=soon)
    await house.clock.advance(10)
    new = await house.share("notes", EVE)
    assert [grant.id for grant in await received(house, EVE)] == [new.id] != [old.id]


async def test_only_who_received_a_grant_accepts_it(house: House) -> None:
    await house.make("notes")
    grant = await house.grants.create(ADA, "notes", TO_EVE, None)
    for stranger in (ADA, BOB, ROOT, MAX, Identity(ADA.tenant, "eve", EVE.scopes)):
        with pytest.raises(GrantNotFoundError):
            await house.grants.accept(stranger, grant.id, "mine")
    with pytest.raises(GrantNotFoundError):
        await house.grants.accept(EVE, new_uuid(house.clock.now()), "mine")


async def test_a_space_of_ones_own_comes_before_an_accepted_one(house: House) -> None:
    await house.make("notes")
    await house.keep("notes", Draft("of acme"))
    grant = await house.share("notes", EVE)
    await house.make("notes", MAX, policy=PRIVATE)
    await house.keep("notes", Draft("of max"), caller=MAX)
    assert await contents(house, EVE) == ["of acme"]
    assert await contents(house, MAX) == ["of max"]
    await house.share("notes", EVE, by=MAX)
    assert await contents(house, EVE) == ["of max"]
    await house.grants.accept(EVE, grant.id, "other")
    assert await contents(house, EVE, "other") == ["of acme"]


async def test_it_is_the_principal_of_the_tenant_that_counts(house: House) -> None:
    await house.make("notes", policy=PRIVATE)
    await house.share("notes", EVE)
    with pytest.raises(SpaceNotFoundError):
        await contents(house, Identity(ADA.tenant, "eve", EVE.scopes))


# Ending


async def test_both_sides_end_the_sharing_and_nobody_else(house: House) -> None:
    await house.make("notes", policy=PRIVATE)
    for ender in (ADA, ROOT, EVE):
        grant = await house.share("notes", EVE)
        for stranger in (BOB, MAX, Identity(GLOBEX, "root", ROOT.scopes)):
            with pytest.raises(GrantNotFoundError):
                await house.grants.delete(stranger, grant.id)
        await contents(house, EVE)
        await house.grants.delete(ender, grant.id)
        with pytest.raises(SpaceNotFoundError):
            await contents(house, EVE)
        with pytest.raises(GrantNotFoundError):
            await house.grants.delete(ender, grant.id)


async def test_a_writer_ends_only_what_it_received(house: House) -> None:
    await house.make("notes", policy=PRIVATE)
    await house.share("notes", BOB, Role.WRITE)
    other = await house.share("notes", EVE)
    with pytest.raises(GrantNotFoundError):
        await house.grants.delete(BOB, other.id)


async def test_an_expired_grant_counts_for_nothing_at_once(house: House) -> None:
    await house.make("notes")
    soon = house.clock.now() + timedelta(seconds=10)
    grant = await house.share("notes", EVE, expires_at=soon)
    await house.clock.advance(9.999)
    assert await contents(house, EVE) == []
    await house.clock.advance(0.001)
    with pytest.raises(SpaceNotFoundError):
        await contents(house, EVE)
    assert await of_space(house) == await received(house, EVE) == []
    for call in (house.grants.accept(EVE, grant.id, "x"), house.grants.delete(EVE, grant.id)):
        with pytest.raises(GrantNotFoundError):
            await call
    assert [await house.grants.forget_expired() for _ in range(2)] == [1, 0]


# Several grants


async def test_the_widest_of_several_grants_counts_and_they_are_not_added_up(house: House) -> None:
    await house.make("notes", policy=PRIVATE)
    await house.keep("notes", Draft("x", tags=("x",)), Draft("y", tags=("y",)), Draft("none"))
    await house.share("notes", BOB, tags=("x",))
    assert await contents(house, BOB) == ["x"]
    whole = await house.share("notes", BOB)
    assert await contents(house, BOB) == ["x", "y", "none"]
    writing = await house.share("notes", BOB, Role.WRITE, tags=("y",))
    assert await contents(house, BOB) == ["y"]
    await house.grants.delete(ADA, writing.id)
    await house.grants.delete(ADA, whole.id)
    await house.share("notes", BOB, tags=("y",))
    assert await contents(house, BOB) == ["x"], "the oldest of equal ones"


_SPACE = Space(SpaceUid(""), ADA.tenant, "notes", "", 0, 0, 0, 0, ManualClock().now())
shares = st.builds(
    Share,
    st.just(_SPACE),
    st.sampled_from([Role.READ, Role.ANNOTATE, Role.WRITE]),
    st.lists(st.sampled_from(Kind), max_size=3, unique=True).map(tuple),
    st.lists(st.sampled_from(["a", "b", "c"]), max_size=3, unique=True).map(tuple),
)


@given(st.lists(shares, min_size=1, max_size=6))
def test_the_widest_share(found: list[Share]) -> None:
    chosen = widest(found)
    assert chosen is not None
    assert chosen.role == max(share.role for share in found)
    rivals = [share for share in found if share.role == chosen.role]
    wholes = [share for share in rivals if not share.kinds and not share.tags]
    if wholes:
        assert chosen is wholes[0]
    else:
        assert len(chosen.tags) == min(len(share.tags) for share in rivals)
    assert widest([]) is None


# Encrypted spaces


async def test_the_tags_of_a_grant_of_an_encrypted_space_are_sealed(house: House) -> None:
    space = await house.make("notes", encrypted=True)
    await house.keep("notes", Draft("x", tags=("secret-tag",)), Draft("y"))
    grant = await house.share("notes", EVE, tags=("secret-tag",))
    stored = str(await house.database.fetch("SELECT g::text FROM memory.grants g"))
    assert "secret-tag" not in stored
    assert await contents(house, EVE) == ["x"]
    await house.rotation.rotate(space, ADA_AUTHOR)
    house.vault.forget(space.uid)
    assert await contents(house, EVE) == ["x"]
    assert await of_space(house) == [grant]


async def test_keys_changed_by_another_replica_are_looked_up(house: House) -> None:
    space = await house.make("notes", encrypted=True)
    await house.keep("notes", Draft("x", tags=("tag",)))
    other = type(house)(house.database)
    await house.share("notes", EVE, tags=("tag",))
    assert await contents(other, EVE) == ["x"]
    await house.rotation.rotate(space, ADA_AUTHOR)
    assert await contents(other, EVE) == ["x"]
    await other.grants.create(ADA, "notes", replace(TO_EVE, part=Part((), ("other",))), None)


# The wire


class GrantWire(Wire):
    """GrantService on a real server."""

    def __init__(self, house: House) -> None:
        service = Service(
            GrantServicer(house.grants),
            grant_service_pb2_grpc.add_GrantServiceServicer_to_server,
            "mnemocore.memory.v1.GrantService",
        )
        super().__init__(service, grant_service_pb2_grpc.GrantServiceStub, pb)

    async def call(self, method: str, caller: Identity = ADA, **fields: Any) -> Any:
        return await super().call(method, caller, **fields)


@pytest.fixture
async def wired(house: House) -> AsyncIterator[GrantWire]:
    await house.make("notes")
    started = GrantWire(house)
    await started.start()
    yield started
    await started.stop()


async def test_a_grant_travels_unchanged(wired: GrantWire, house: House) -> None:
    fields: dict[str, Any] = {
        "principal": "eve",
        "tenant": "globex",
        "role": 2,
        "kinds": [2, 7],
        "tags": ["a", "b"],
        "request_id": new_uuid(house.clock.now()),
        "expire_time": house.clock.now() + timedelta(days=1),
    }
    made = (await wired.call("CreateGrant", parent="spaces/notes", **fields)).grant
    assert (await wired.call("CreateGrant", parent="spaces/notes", **fields)).grant == made
    assert (made.space, made.tenant, made.principal, made.role) == ("spaces/notes", "globex", "eve", 2)
    assert (list(made.kinds), list(made.tags), made.grantor, made.grantor_tenant) == ([2, 7], ["a", "b"], "ada", "acme")
    assert made.expire_time.ToDatetime() - made.create_time.ToDatetime() == timedelta(days=1)
    assert list((await wired.call("ListGrants", parent="spaces/notes")).grants) == [made]
    assert list((await wired.call("ListReceivedGrants", EVE)).grants) == [made]
    accepted = (await wired.call("AcceptGrant", EVE, id=made.id, space_id="theirs")).grant
    assert accepted.accepted_as == "spaces/theirs"
    await wired.call("DeleteGrant", EVE, id=made.id)
    assert list((await wired.call("ListGrants", parent="spaces/notes")).grants) == []


async def test_a_grant_without_a_tenant_is_for_ones_own(wired: GrantWire) -> None:
    made = (await wired.call("CreateGrant", parent="spaces/notes", principal="bob", role=1)).grant
    assert made.tenant == "acme"
    assert not made.HasField("expire_time")


@pytest.mark.parametrize(
    "fields",
    [
        {"role": 0},
        {"role": 4},
        {"role": 9},
        {"kinds": [0]},
        {"kinds": [2, 99]},
        {"kinds": [2, 2]},
        {"tags": ["a\x00"]},
        {"tags": ["a" * 65]},
        {"principal": ""},
        {"principal": "a\x00"},
        {"tenant": "a\x00"},
        {"request_id": "no uuid"},
    ],
)
async def test_what_a_grant_refuses(wired: GrantWire, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidFieldError):
        await wired.call("CreateGrant", ADA, **({"parent": "spaces/notes", "principal": "bob", "role": 1} | fields))
    assert list((await wired.call("ListGrants", parent="spaces/notes")).grants) == []
