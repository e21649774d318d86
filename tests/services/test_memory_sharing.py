"""The wall around shared spaces: what each role may do, and that nothing outside of a shared part is ever seen."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.memory_house import ADA, BOB, EVE, PRIVATE, ROOT, House, opened

from mnemo_memory.domain.access import Access
from mnemo_memory.domain.associations import AssociationType, Link, LinkFilter, Strength
from mnemo_memory.domain.changes import Update
from mnemo_memory.domain.extensions import Extensions
from mnemo_memory.domain.grants import NewGrant
from mnemo_memory.domain.hot_cache import HotCache
from mnemo_memory.domain.memories import Edit, Memories, New
from mnemo_memory.domain.memory import Draft, Filter, Kind, Memory, OnDuplicate, Policy, Profile, Role, State
from mnemo_memory.domain.novelty import Novelty
from mnemo_memory.domain.recall import Inquiry
from mnemo_memory.domain.uses import Uses
from mnemo_memory.storage.postgres_associations import PostgresAssociations
from mnemo_memory.storage.postgres_store import PostgresStore
from mnemocore.errors import (
    EtagMismatchError,
    InvalidFieldError,
    MemoryNotFoundError,
    MnemoError,
    PermissionDeniedError,
    RoleRequiredError,
    SpaceNotFoundError,
)
from mnemocore.ids import MemoryId, new_uuid

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from mnemo_memory.domain.ports import Written
    from mnemocore.calls import Identity
    from mnemocore.testing.postgres import TestPostgres

EDIT = Edit()
LINKS: Final = LinkFilter()
EVERY_STATE: Final = tuple(State)
VISIBLE: Final = Draft("what may be seen", tags=("shared", "x"), kind=Kind.FACT, actor="ada", session="s")
HIDDEN: Final = Draft("the hidden secret", tags=("x",), kind=Kind.FACT, actor="spy", session="s")


@pytest.fixture
async def house(postgres: TestPostgres) -> AsyncIterator[House]:
    async with opened(postgres) as started:
        yield started


# Roles

CALLS: Final[dict[str, tuple[Role, Any]]] = {
    "get space": (Role.READ, lambda h, who, _: h.spaces.get(who, "notes")),
    "stats": (Role.READ, lambda h, who, _: h.stats.of(who, "notes", 0)),
    "get": (Role.READ, lambda h, who, id: h.memories.get_one(who, "notes", id)),
    "get at once": (Role.READ, lambda h, who, id: h.memories.get_one(who, "notes", id, at_once=True)),
    "get as of": (Role.READ, lambda h, who, id: h.memories.get_one(who, "notes", id, as_of=h.clock.now())),
    "batch get": (Role.READ, lambda h, who, id: h.memories.get(who, "notes", [id])),
    "list": (Role.READ, lambda h, who, _: h.memories.list_memories(who, "notes", Filter(), (), 0, "")),
    "recall": (Role.READ, lambda h, who, _: h.recall.recall(who, "notes", Inquiry("what"))),
    "history": (Role.READ, lambda h, who, _: h.memories.history(who, "notes", None, None, 0, "")),
    "history of one": (Role.READ, lambda h, who, id: h.memories.history(who, "notes", id, None, 0, "")),
    "list associations": (Role.READ, lambda h, who, _: h.associations.list_associations(who, "notes", LINKS, 0, "")),
    "neighbourhood": (Role.READ, lambda h, who, id: h.associations.neighbourhood(who, "notes", [id])),
    "feedback": (Role.ANNOTATE, lambda h, who, id: h.memories.record_feedback(who, "notes", id, True, 1.0, EDIT)),
    "associate": (Role.ANNOTATE, lambda h, who, id: associate(h, who, id)),
    "dissociate": (Role.ANNOTATE, lambda h, who, id: h.associations.dissociate(who, "notes", id, id, None)),
    "create": (Role.WRITE, lambda h, who, _: h.memories.create_one(who, "notes", New(Draft("y")), None)),
    "create batch": (Role.WRITE, lambda h, who, _: h.memories.create(who, "notes", [New(Draft("y"))], None)),
    "ingest": (Role.WRITE, lambda h, who, _: h.memories.create_each(who, "notes", [New(Draft("y"))], None)),
    "update": (Role.WRITE, lambda h, who, id: h.memories.update(who, "notes", id, Update({"content": "z"}), EDIT)),
    "supersede": (Role.WRITE, lambda h, who, id: h.memories.supersede(who, "notes", id, New(Draft("y")), EDIT)),
    "protect": (Role.WRITE, lambda h, who, id: h.memories.protect(who, "notes", id, True, EDIT)),
    "archive": (Role.WRITE, lambda h, who, id: h.memories.archive(who, "notes", id, EDIT)),
    "restore": (Role.WRITE, lambda h, who, id: h.memories.restore(who, "notes", id, EDIT)),
    "purge": (Role.OWNER, lambda h, who, id: h.memories.erase(who, "notes", id, EDIT)),
    "update space": (Role.OWNER, lambda h, who, _: h.spaces.update(who, "notes", lambda text, rule: (text, rule), "")),
    "republish": (Role.OWNER, lambda h, who, _: h.spaces.republish(who, "notes")),
    "rotate key": (Role.OWNER, lambda h, who, _: h.spaces.rotate_key(who, "notes")),
    "share": (Role.OWNER, lambda h, who, _: h.grants.create(who, "notes", NewGrant("max", Role.READ), None)),
    "list grants": (Role.OWNER, lambda h, who, _: h.grants.of_space(who, "notes", 0, "")),
    "delete space": (Role.OWNER, lambda h, who, _: h.erasures.delete(who, "notes")),
    "erase space": (Role.OWNER, lambda h, who, _: h.erasures.erase(who, "notes", "notes", "", "")),
}


async def associate(house: House, caller: Identity, memory_id: MemoryId) -> None:
    (other,) = await house.keep("notes", Draft("another"))
    link = Link(memory_id, other.id, AssociationType.RELATED)
    await house.associations.associate(caller, "notes", link, Strength(), None)


@pytest.mark.parametrize("name", CALLS)
async def test_a_role_allows_what_it_includes_and_nothing_else(house: House, name: str) -> None:
    need, call = CALLS[name]
    await house.make("notes", policy=PRIVATE, encrypted=True)
    for reader in (EVE, BOB):
        for role in (Role.READ, Role.ANNOTATE, Role.WRITE):
            (memory,) = await house.keep("notes", Draft("x"))
            grant = await house.share("notes", reader, role)
            if role >= need:
                await call(house, reader, memory.id)
            else:
                with pytest.raises(RoleRequiredError, match=f"is not shared with you as {need.name}"):
                    await call(house, reader, memory.id)
                assert await house.store.get(
                    (await house.spaces.get(ADA, "notes")).space, [memory.id], house.clock.now()
                ) == {memory.id: memory}
            await house.grants.delete(reader, grant.id)
            with pytest.raises(SpaceNotFoundError):
                await call(house, reader, memory.id)


@pytest.mark.parametrize("name", CALLS)
async def test_a_private_space_does_not_exist_for_others(house: House, name: str) -> None:
    _, call = CALLS[name]
    await house.make("notes", policy=PRIVATE, encrypted=True)
    (memory,) = await house.keep("notes", Draft("x"))
    for stranger in (BOB, EVE, replace(EVE, scopes=ROOT.scopes)):
        with pytest.raises(SpaceNotFoundError):
            await call(house, stranger, memory.id)
    if name != "delete space":
        await call(house, ROOT, memory.id)


@pytest.mark.parametrize("name", CALLS)
async def test_an_expired_grant_ends_every_call_at_once(house: House, name: str) -> None:
    need, call = CALLS[name]
    await house.make("notes", policy=PRIVATE, encrypted=True)
    (memory,) = await house.keep("notes", Draft("x"))
    await house.share("notes", EVE, Role.WRITE, expires_at=house.clock.now() + timedelta(seconds=1))
    await house.clock.advance(0.5)
    if need < Role.OWNER:
        await call(house, EVE, memory.id)
    await house.clock.advance(0.5)
    with pytest.raises(SpaceNotFoundError):
        await call(house, EVE, memory.id)


async def test_what_another_tenant_wrote_is_named_with_it(house: House) -> None:
    await house.make("notes")
    await house.share("notes", EVE, Role.WRITE)
    (memory,) = await house.keep("notes", Draft("hers"), caller=EVE)
    _, (revision,), _ = await house.memories.history(ADA, "notes", memory.id, None, 0, "")
    assert revision.principal == "globex/eve"


# Parts


async def make_parted(
    house: House, role: Role = Role.WRITE, *, encrypted: bool = False, reader: Identity = EVE
) -> tuple[Memory, Memory]:
    """A space of which memories with the tag `shared` are shared; one that may be seen, and one that may not."""
    await house.make("notes", policy=PRIVATE, encrypted=encrypted)
    visible, hidden = await house.keep("notes", VISIBLE, HIDDEN)
    await house.share("notes", reader, role, tags=("shared",))
    return visible, hidden


@pytest.mark.parametrize("encrypted", [False, True])
async def test_reading_shows_what_lies_in_the_part(house: House, encrypted: bool) -> None:
    visible, hidden = await make_parted(house, Role.READ, encrypted=encrypted)
    assert (await house.memories.get_one(EVE, "notes", visible.id))[1] == visible
    _, found, missing = await house.memories.get(EVE, "notes", [hidden.id, visible.id])
    assert (found, missing) == ([visible], [hidden.id])
    for where in (Filter(), Filter(tags=("x",)), Filter(kinds=(Kind.FACT,)), Filter(sessions=("s",))):
        _, listed, token = await house.memories.list_memories(EVE, "notes", where, EVERY_STATE, 1, "")
        assert ([memory.id for memory in listed], token) == ([visible.id], "")
    _, listed, _ = await house.memories.list_memories(EVE, "notes", Filter(actors=("spy",)), EVERY_STATE, 0, "")
    assert listed == []


@pytest.mark.parametrize("profile", Profile)
@pytest.mark.parametrize("known", [False, True])
async def test_recall_shows_what_lies_in_the_part(house: House, profile: Profile, known: bool) -> None:
    visible, hidden = await make_parted(house, Role.READ)
    link = Link(visible.id, hidden.id, AssociationType.RELATED)
    await house.associations.associate(ADA, "notes", link, Strength(), None)
    inquiry = Inquiry("secret", profile=profile, known_at=house.clock.now() if known else None)
    answer = await house.recall.recall(EVE, "notes", inquiry)
    assert [each.memory.id for each in answer.recalled] == [visible.id]
    if not known:
        assert all(where.tags == ("shared",) for where in house.index.filters)


class LateStore(PostgresStore):
    """Something happens right before a memory is superseded."""

    act: Callable[[], Awaitable[object]]

    async def supersede(self, *args: Any) -> Written:
        await self.act()
        return await super().supersede(*args)


async def test_what_leaves_the_part_while_it_is_superseded_is_not(house: House) -> None:
    visible, _ = await make_parted(house)
    store = LateStore(house.database, house.vault)
    await store.open()
    store.act = lambda: house.memories.update(ADA, "notes", visible.id, Update({"tags": ("x",)}), EDIT)
    late = Memories(
        store,
        Access(house.space_store, house.grant_store, house.clock),
        house.media,
        Novelty(house.index, store, Extensions(PostgresAssociations(house.database, house.vault)), house.clock),
        Uses(store, house.clock),
        HotCache(house.clock, lambda *_: None),
        house.clock,
        lambda: None,
        lambda: None,
    )
    with pytest.raises(MemoryNotFoundError):
        await late.supersede(EVE, "notes", visible.id, New(VISIBLE), EDIT)
    _, now = await house.memories.get_one(ADA, "notes", visible.id)
    assert (now.state, now.tags) == (State.ACTIVE, ("x",))


UNSEEN: Final[dict[str, Callable[[House, MemoryId, Edit], Awaitable[Any]]]] = {
    "get": lambda h, id, edit: h.memories.get_one(EVE, "notes", id),
    "get at once": lambda h, id, edit: h.memories.get_one(EVE, "notes", id, at_once=True),
    "get as of": lambda h, id, edit: h.memories.get_one(EVE, "notes", id, as_of=h.clock.now()),
    "history": lambda h, id, edit: h.memories.history(EVE, "notes", id, None, 1, ""),
    "feedback": lambda h, id, edit: h.memories.record_feedback(EVE, "notes", id, True, 1.0, edit),
    "update": lambda h, id, edit: h.memories.update(EVE, "notes", id, Update({"content": "z"}), edit),
    "take in": lambda h, id, edit: h.memories.update(EVE, "notes", id, Update({"tags": ("shared",)}), edit),
    "supersede": lambda h, id, edit: h.memories.supersede(EVE, "notes", id, New(VISIBLE), edit),
    "protect": lambda h, id, edit: h.memories.protect(EVE, "notes", id, True, edit),
    "archive": lambda h, id, edit: h.memories.archive(EVE, "notes", id, edit),
    "restore": lambda h, id, edit: h.memories.restore(EVE, "notes", id, edit),
    "neighbourhood": lambda h, id, edit: h.associations.neighbourhood(EVE, "notes", [id]),
    "associate": lambda h, id, edit: link_to(h, id),
    "dissociate": lambda h, id, edit: h.associations.dissociate(
        EVE, "notes", id, MemoryId(new_uuid(h.clock.now())), None
    ),
}


async def link_to(house: House, memory_id: MemoryId) -> None:
    (mine,) = await house.keep("notes", VISIBLE)
    link = Link(mine.id, memory_id, AssociationType.RELATED)
    await house.associations.associate(EVE, "notes", link, Strength(), None)


async def outcome(call: Awaitable[Any]) -> str:
    """What a caller gets, its ids left out."""
    try:
        found = await call
    except MnemoError as error:
        return f"{type(error).__name__}: {list(error.metadata)}"
    return repr(found[1:] if isinstance(found, tuple) else found)


@pytest.mark.parametrize("etag", ["", "1", "ffff"])
@pytest.mark.parametrize("name", UNSEEN)
async def test_what_lies_outside_cannot_be_told_from_what_does_not_exist(house: House, name: str, etag: str) -> None:
    _, hidden = await make_parted(house)
    call, edit = UNSEEN[name], Edit(etag=etag)
    unknown = MemoryId(new_uuid(house.clock.now()))
    assert await outcome(call(house, hidden.id, edit)) == await outcome(call(house, unknown, edit))
    space = (await house.spaces.get(ADA, "notes")).space
    assert await house.store.get(space, [hidden.id], house.clock.now()) == {hidden.id: hidden}


async def test_a_history_shows_a_memory_while_it_lay_in_the_part(house: House) -> None:
    visible, hidden = await make_parted(house, Role.READ)
    change = Update({"content": "told later", "tags": ("shared",)})
    await house.memories.update(ADA, "notes", hidden.id, change, EDIT)
    gone = Update({"tags": ()})
    await house.memories.update(ADA, "notes", visible.id, gone, EDIT)
    for memory_id in (None, hidden.id):
        revisions, token = [], ""
        while True:
            _, page, token = await house.memories.history(EVE, "notes", memory_id, None, 1, token)
            revisions += page
            if not token:
                break
        assert [each.revision for each in revisions] == [3]
    with pytest.raises(MemoryNotFoundError):
        await house.memories.get_one(EVE, "notes", hidden.id, as_of=house.clock.now() - timedelta(seconds=1))
    assert (await house.memories.get_one(EVE, "notes", hidden.id))[1].content == "told later"


async def test_pages_are_as_long_as_what_may_be_seen(house: House) -> None:
    """A page is full, or the last one: how much there is outside cannot be counted by paging."""
    await house.make("notes")
    for number in range(9):
        await house.keep("notes", *[Draft(f"{number}", tags=("shared",) if number % 4 == 0 else ())] * 2)
    await house.share("notes", EVE, tags=("shared",))
    for read in (
        lambda token: house.memories.list_memories(EVE, "notes", Filter(), EVERY_STATE, 2, token),
        lambda token: house.memories.history(EVE, "notes", None, None, 2, token),
    ):
        pages, token = [], ""
        while True:
            _, page, token = await read(token)
            pages.append(len(page))
            if not token:
                break
        assert pages == [2, 2, 2]


async def test_what_is_written_must_lie_in_the_part(house: House) -> None:
    visible, _ = await make_parted(house)
    for call in (
        house.memories.create_one(EVE, "notes", New(HIDDEN), None),
        house.memories.create(EVE, "notes", [New(VISIBLE), New(HIDDEN)], None),
        house.memories.supersede(EVE, "notes", visible.id, New(HIDDEN), EDIT),
    ):
        with pytest.raises(PermissionDeniedError):
            await call
    with pytest.raises(InvalidFieldError, match="outside of the part"):
        await house.memories.update(EVE, "notes", visible.id, Update({"tags": ("x",)}), EDIT)
    _, outcomes, _ = await house.memories.create_each(EVE, "notes", [New(HIDDEN), New(VISIBLE)], None)
    assert [isinstance(each, PermissionDeniedError) for each in outcomes] == [True, False]
    with pytest.raises(EtagMismatchError):
        await house.memories.archive(EVE, "notes", visible.id, Edit(etag="ffff"))


@pytest.mark.parametrize("on_duplicate", [OnDuplicate.KEEP, OnDuplicate.REINFORCE, OnDuplicate.REJECT])
async def test_a_duplicate_outside_of_the_part_is_none(house: House, on_duplicate: OnDuplicate) -> None:
    _, hidden = await make_parted(house)
    draft = replace(HIDDEN, tags=("shared",), on_duplicate=on_duplicate)
    _, remembered, _ = await house.memories.create_one(EVE, "notes", New(draft), None)
    assert not remembered.duplicate
    assert remembered.memory.id != hidden.id
    space = (await house.spaces.get(ADA, "notes")).space
    assert await house.store.get(space, [hidden.id], house.clock.now()) == {hidden.id: hidden}


async def test_associations_with_what_lies_outside_are_not_shown(house: House) -> None:
    visible, hidden = await make_parted(house, Role.READ)
    (other,) = await house.keep("notes", VISIBLE)
    for source, target in ((visible, hidden), (hidden, other), (visible, other)):
        link = Link(source.id, target.id, AssociationType.SUPPORTS)
        await house.associations.associate(ADA, "notes", link, Strength(), None)
    _, found, token = await house.associations.list_associations(EVE, "notes", LINKS, 1, "")
    assert ([each.link.target for each in found], token) == ([other.id], "")
    _, neighbours, links = await house.associations.neighbourhood(EVE, "notes", [visible.id])
    assert [each.memory.id for each in neighbours] == [other.id]
    assert [(each.link.source, each.link.target) for each in links] == [(visible.id, other.id)]
    _, paths = await house.associations.find_paths(EVE, "notes", visible.id, other.id, limit=10)
    assert len(paths) == 1
    assert (await house.stats.of(EVE, "notes", 0)).associations == 1
    assert (await house.stats.of(ADA, "notes", 0)).associations == 3


async def test_counts_are_those_of_the_part(house: House) -> None:
    visible, _ = await make_parted(house, Role.READ)
    stats = await house.stats.of(EVE, "notes", 0)
    assert stats.kinds == {Kind.FACT: 1}
    assert stats.content_bytes == len(visible.content)
    space = (await house.spaces.get(EVE, "notes")).space
    assert (space.active, space.revision, space.bytes) == (0, 0, 0)


# By chance

KINDS: Final = [Kind.OBSERVATION, Kind.FACT, Kind.SUMMARY]
TAGS: Final = ["a", "b", "c"]
parts = st.tuples(
    st.lists(st.sampled_from(KINDS), max_size=2, unique=True).map(tuple),
    st.lists(st.sampled_from(TAGS), max_size=2, unique=True).map(tuple),
)
drafts = st.lists(
    st.builds(
        Draft,
        st.just("x"),
        kind=st.sampled_from(KINDS),
        tags=st.lists(st.sampled_from(TAGS), unique=True).map(tuple),
    ),
    min_size=1,
    max_size=12,
)


@given(drafts, parts, parts, st.integers(1, 4))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
async def test_whatever_the_part_and_the_filter_nothing_else_is_seen(
    postgres: TestPostgres,
    written: list[Draft],
    part: tuple[tuple[Kind, ...], tuple[str, ...]],
    asked: tuple[tuple[Kind, ...], tuple[str, ...]],
    size: int,
) -> None:
    async with opened(postgres) as house:
        await house.make("notes")
        kept = await house.keep("notes", *written)
        await house.share("notes", EVE, kinds=part[0], tags=part[1])
        seen = [memory for memory in kept if Filter(kinds=part[0], tags=part[1]).matches(memory)]
        where = Filter(kinds=asked[0], tags=asked[1])
        found, token = [], ""
        while True:
            _, page, token = await house.memories.list_memories(EVE, "notes", where, (), size, token)
            found += page
            if not token:
                break
        assert found == [memory for memory in reversed(seen) if where.matches(memory)]
        _, got, _ = await house.memories.get(EVE, "notes", [memory.id for memory in kept])
        assert got == seen
        answer = await house.recall.recall(EVE, "notes", Inquiry("x", limit=100, where=where))
        assert {each.memory.id for each in answer.recalled} == {memory.id for memory in found}
        assert sum((await house.stats.of(EVE, "notes", 0)).kinds.values()) == len(seen)
        assert Policy() == (await house.spaces.get(EVE, "notes")).space.policy
