"""Working memory on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.memory_room import ADA, EVE, opened

from mnemo_memory.domain.memory import (
    Draft,
    Kind,
    Limits,
    Media,
    Modality,
    NoveltyGate,
    OnDuplicate,
    Origin,
    Policy,
    Provenance,
    Role,
    Space,
)
from mnemo_memory.domain.ports import Request
from mnemo_memory.domain.working_memory import CAPACITY, CONSOLIDATOR, MOST_KEPT, WorkingMemory, score
from mnemo_memory.storage import rows, working_items
from mnemocore.errors import (
    InvalidFieldError,
    KeyUnavailableError,
    MemoryExistsError,
    QuotaExceededError,
    RequestIdReusedError,
    RoleRequiredError,
    SpaceNotFoundError,
    StoreFullError,
    WorkingItemNotFoundError,
    WorkingMemoryFullError,
)
from mnemocore.ids import MemoryId, new_uuid
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.memory_room import Room

    from mnemo_memory.domain.memory import Memory
    from mnemo_memory.domain.working_memory import Pushed, WorkingItem
    from mnemocore.calls import Identity
    from mnemocore.testing.postgres import TestPostgres

SECRET = "xyzzy"
FULL = Draft(
    content="'; DROP TABLE memory.working_items; -- 🦊",
    kind=Kind.DECISION,
    metadata={"a": {"b": [1, 2.5, None, True]}},
    tags=("x", "y"),
    actor="Ada",
    session="elsewhere",
    ordinal=7,
    occurred_at=datetime(1, 1, 1, tzinfo=UTC),
    importance=0.25,
    confidence=0.75,
    valid_from=datetime(2020, 1, 1, tzinfo=UTC),
    valid_to=datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    expires_at=datetime(2030, 1, 1, tzinfo=UTC),
    provenance=Provenance(Origin.TOOL, ("spaces/a", "https://example.org"), "crawler"),
    protected=True,
    on_duplicate=OnDuplicate.REINFORCE,
    novelty_gate=NoveltyGate.OFF,
)


class Desk:
    """The working memory of agent `a` in session `s` of the space `notes`."""

    def __init__(self, room: Room, space: Space) -> None:
        self.room = room
        self.space = space

    async def push(
        self,
        what: str | Draft,
        *,
        protected: bool = False,
        life: float | None = None,
        request: Request | None = None,
        caller: Identity = ADA,
        agent: str = "a",
        session: str = "s",
    ) -> Pushed:
        draft = Draft(what) if isinstance(what, str) else what
        return await self.room.working.push(
            caller,
            self.space.slug,
            agent,
            session,
            draft,
            protected=protected,
            life=None if life is None else timedelta(seconds=life),
            request=request,
        )

    async def items(self, agent: str = "a", session: str = "s") -> list[WorkingItem]:
        return await self.room.working.list_items(ADA, self.space.slug, agent, session)

    async def texts(self) -> list[str]:
        return [item.draft.content for item in await self.items()]

    async def promote(self, item_id: str, request: Request | None = None) -> Memory:
        _, memory = await self.room.working.promote(ADA, self.space.slug, item_id, request)
        return memory

    async def clear(self, *ids: str) -> int:
        return await self.room.working.clear(ADA, self.space.slug, "a", "s", ids)

    async def advance(self, seconds: float) -> None:
        await self.room.clock.advance(seconds)

    async def consolidate(self) -> int:
        return await self.room.working.consolidate(self.room.clock.now())

    async def memories(self) -> list[str]:
        return [memory.content for memory in await self.room.memories(self.space)]


@pytest.fixture
async def room(postgres: TestPostgres) -> AsyncIterator[Room]:
    async with opened(postgres) as made:
        yield made


@pytest.fixture(params=[False, True], ids=["open", "encrypted"])
async def desk(room: Room, request: pytest.FixtureRequest) -> Desk:
    return Desk(room, await room.make("notes", encrypted=request.param))


def a_request(digest: bytes = b"one") -> Request:
    return Request(new_uuid(datetime(2026, 1, 1, tzinfo=UTC)), digest)


# Pushing and listing


async def test_what_was_pushed_is_listed_unchanged_the_last_one_first(desk: Desk) -> None:
    first = (await desk.push(FULL)).item
    second = (await desk.push("tea")).item
    assert await desk.items() == [second, first]
    assert first.draft == FULL
    assert (first.accesses, first.created_at, first.expires_at) == (
        1,
        desk.room.clock.now(),
        desk.room.clock.now() + timedelta(seconds=600),
    )
    assert await desk.items() == [second, first], "listing is no access"


async def test_agents_and_sessions_do_not_see_one_another(desk: Desk) -> None:
    for agent, session in (("a", "s"), ("a", ""), ("b", "s"), ("A", "s")):
        await desk.push(f"{agent} {session}", agent=agent, session=session)
    assert [item.draft.content for item in await desk.items("a", "")] == ["a "]
    assert [item.draft.content for item in await desk.items("b")] == ["b s"]
    assert await desk.items("b", "") == []


async def test_an_item_lives_ten_minutes_unless_it_is_said_otherwise(desk: Desk) -> None:
    usual, short = (await desk.push("usual")).item, (await desk.push("short", life=1)).item
    protected = (await desk.push("protected", protected=True, life=1)).item
    long = (await desk.push("long", life=86400)).item
    assert (protected.expires_at, long.expires_at) == (None, desk.room.clock.now() + timedelta(days=1))
    await desk.advance(0.999999)
    assert len(await desk.items()) == 4
    await desk.advance(0.000001)
    assert await desk.texts() == ["long", "protected", "usual"]
    with pytest.raises(WorkingItemNotFoundError):
        await desk.promote(short.id)
    await desk.advance(599)
    assert await desk.texts() == ["long", "protected"]
    with pytest.raises(WorkingItemNotFoundError):
        await desk.promote(usual.id)
    assert await desk.clear(usual.id, short.id) == 0
    await desk.advance(86400)
    assert await desk.texts() == ["protected"]


@pytest.mark.parametrize("life", [0, -1, 86400.000001])
async def test_a_life_out_of_bounds_is_refused(room: Room, life: float) -> None:
    desk = Desk(room, await room.make("notes"))
    with pytest.raises(InvalidFieldError, match="86400"):
        await desk.push("tea", life=life)


async def test_media_are_refused(room: Room) -> None:
    desk = Desk(room, await room.make("notes"))
    with pytest.raises(InvalidFieldError, match="media"):
        await desk.push(Draft("a picture", media=Media(new_uuid(room.clock.now()), "image/png", 1, "00")))


async def test_an_equal_text_is_the_same_item(desk: Desk) -> None:
    first = (await desk.push(Draft("tea", importance=0.1), protected=True)).item
    await desk.push("coffee")
    await desk.advance(100)
    again = await desk.push(Draft("tea", importance=0.9, tags=("hot",)), life=50)
    assert again.evicted_id == ""
    assert again.item == replace(first, draft=Draft("tea", importance=0.9, tags=("hot",)), accesses=2, expires_at=None)
    other = (await desk.push(Draft("tea", kind=Kind.FACT))).item
    assert (other.id != first.id, await desk.texts()) == (True, ["tea", "tea", "coffee"])
    renewed = (await desk.push("coffee", life=60)).item
    assert renewed.expires_at == desk.room.clock.now() + timedelta(seconds=60)
    assert await desk.texts() == ["coffee", "tea", "tea"]
    assert (await desk.push("coffee", protected=True)).item.expires_at is None


async def test_an_expired_item_is_not_the_same_any_more(desk: Desk) -> None:
    first = (await desk.push("tea", life=10)).item
    await desk.advance(10)
    second = (await desk.push("tea")).item
    assert (second.id != first.id, second.accesses, len(await desk.items())) == (True, 1, 1)


# Room for 100


async def test_the_one_pushed_longest_ago_makes_room(desk: Desk) -> None:
    pushed = [(await desk.push(str(number), protected=number == 0)).item for number in range(CAPACITY)]
    await desk.push("1")
    more = await desk.push("one more")
    assert more.evicted_id == pushed[2].id
    assert (await desk.push("and one")).evicted_id == pushed[3].id
    texts = await desk.texts()
    assert texts == ["and one", "one more", "1", *(str(number) for number in range(99, 3, -1)), "0"]
    assert (await desk.push("elsewhere", session="t")).evicted_id == ""


async def test_expired_items_take_no_room(desk: Desk) -> None:
    for number in range(CAPACITY):
        await desk.push(str(number), life=10 if number else 600)
    await desk.advance(10)
    assert (await desk.push("new")).evicted_id == ""
    assert await desk.texts() == ["new", "0"]


async def test_a_memory_full_of_protected_items_takes_no_more(desk: Desk) -> None:
    for number in range(CAPACITY):
        await desk.push(str(number), protected=True)
    for protected in (False, True):
        with pytest.raises(WorkingMemoryFullError) as caught:
            await desk.push("one more", protected=protected)
    assert caught.value.metadata == {"agent": "a", "session": "s"}
    assert (await desk.push("7")).item.accesses == 2
    assert len(await desk.items()) == CAPACITY


async def test_pushes_at_once_never_exceed_the_room(desk: Desk) -> None:
    for number in range(CAPACITY - 10):
        await desk.push(str(number))
    outcomes = await asyncio.gather(*(desk.push(f"new {number}") for number in range(50)))
    assert len({outcome.evicted_id for outcome in outcomes} - {""}) == 40
    assert len(await desk.items()) == CAPACITY
    assert await desk.room.database.fetchval("SELECT count(*) FROM memory.working_items") == CAPACITY


async def test_equal_pushes_at_once_are_one_item(desk: Desk) -> None:
    outcomes = await asyncio.gather(*(desk.push("tea") for _ in range(20)))
    assert sorted(outcome.item.accesses for outcome in outcomes) == list(range(1, 21))
    assert len({outcome.item.id for outcome in outcomes}) == len(await desk.items()) == 1


async def test_clearing(desk: Desk) -> None:
    items = [(await desk.push(str(number), protected=number == 2)).item for number in range(4)]
    await desk.push("kept", session="t")
    assert await desk.clear(items[0].id, items[2].id, new_uuid(desk.room.clock.now())) == 2
    assert await desk.texts() == ["3", "1"]
    assert await desk.clear() == 2
    assert await desk.clear() == 0
    assert len(await desk.items(session="t")) == 1


# Requests


async def test_a_repeated_push_returns_the_first_answer(desk: Desk) -> None:
    request = a_request()
    for number in range(CAPACITY):
        await desk.push(str(number))
    first = await desk.push("tea", request=request)
    assert first.evicted_id
    await desk.advance(5)
    assert await desk.push("tea", request=request) == first
    assert (await desk.items())[0].accesses == 1
    await desk.push("tea")
    await desk.promote(first.item.id)
    assert await desk.push("tea", request=request) == first
    assert len(await desk.items()) == CAPACITY - 1
    with pytest.raises(RequestIdReusedError):
        await desk.push("tea", request=replace(request, digest=b"two"))


async def test_the_same_push_at_the_same_time_takes_effect_once(desk: Desk) -> None:
    request = a_request()
    outcomes = await asyncio.gather(*(desk.push("tea", request=request) for _ in range(8)))
    assert len({outcome.item.id for outcome in outcomes}) == 1
    assert (await desk.items())[0].accesses == 1


# Promoting


async def test_a_promoted_item_is_a_memory_of_its_agent_and_session(desk: Desk) -> None:
    item = (await desk.push("tea")).item
    pushed_at = desk.room.clock.now()
    await desk.advance(60)
    memory = await desk.promote(item.id)
    assert await desk.room.memories(desk.space) == [memory]
    assert (memory.content, memory.session, memory.ordinal, memory.provenance) == (
        "tea",
        "s",
        0,
        Provenance(Origin.AGENT, (), "a"),
    )
    assert (memory.occurred_at, memory.created_at) == (pushed_at, desk.room.clock.now())
    assert (await desk.items(), desk.room.commits) == ([], 1)
    with pytest.raises(WorkingItemNotFoundError, match=item.id):
        await desk.promote(item.id)


async def test_what_the_item_says_is_what_the_memory_says(desk: Desk) -> None:
    memory = await desk.promote((await desk.push(replace(FULL, id=MemoryId(new_uuid(desk.room.clock.now()))))).item.id)
    assert (memory.session, memory.ordinal, memory.provenance) == ("elsewhere", 7, FULL.provenance)
    assert (memory.occurred_at, memory.valid_to, memory.protected) == (FULL.occurred_at, FULL.valid_to, True)


async def test_promotions_at_once_leave_one_memory(desk: Desk) -> None:
    item = (await desk.push("tea")).item
    outcomes = await asyncio.gather(
        *(desk.promote(item.id, a_request(b"%d" % number)) for number in range(20)), return_exceptions=True
    )
    assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, WorkingItemNotFoundError) for outcome in outcomes) == 19
    assert (await desk.memories(), await desk.items()) == (["tea"], [])


async def test_a_repeated_promotion_returns_the_first_answer(desk: Desk) -> None:
    item, request = (await desk.push("tea")).item, a_request()
    outcomes = await asyncio.gather(*(desk.promote(item.id, request) for _ in range(20)))
    await desk.push("tea")
    again = await desk.promote(item.id, request)
    assert all(outcome == again for outcome in outcomes)
    assert await desk.memories() == ["tea"]
    with pytest.raises(RequestIdReusedError):
        await desk.promote(item.id, replace(request, digest=b"two"))


async def test_an_item_that_cannot_become_a_memory_stays(desk: Desk) -> None:
    taken = MemoryId(new_uuid(desk.room.clock.now()))
    await desk.promote((await desk.push(Draft("first", id=taken))).item.id)
    item = (await desk.push(Draft("second", id=taken))).item
    with pytest.raises(MemoryExistsError):
        await desk.promote(item.id)
    assert await desk.items() == [item]


async def test_the_limits_of_the_space_hold_for_promotions(room: Room) -> None:
    desk = Desk(room, await room.make("notes", policy=Policy(limits=Limits(max_memories=1))))
    for text in ("one", "two"):
        await desk.push(text)
    first, second = await desk.items()
    await desk.promote(second.id)
    with pytest.raises(QuotaExceededError):
        await desk.promote(first.id)
    assert await desk.items() == [first]


async def test_a_push_and_a_promotion_at_once_lose_nothing(desk: Desk) -> None:
    """Whatever comes first: the newest description is in the memory or in working memory."""
    for round_ in range(15):
        item = (await desk.push(Draft(f"tea {round_}", importance=0.1))).item
        _, memory = await asyncio.gather(desk.push(Draft(f"tea {round_}", importance=0.9)), desk.promote(item.id))
        left = [each for each in await desk.items() if each.draft.content == f"tea {round_}"]
        assert (memory.importance, [each.draft.importance for each in left]) in ((0.9, []), (0.1, [0.9]))


async def test_a_promotion_that_is_cut_off_happened_or_did_not(desk: Desk) -> None:
    chance = random.Random(1)
    for number in range(20):
        item = (await desk.push(str(number))).item
        task = asyncio.create_task(desk.promote(item.id))
        await asyncio.wait([task], timeout=chance.random() * 0.02)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

        async def in_one_place(text: str = str(number)) -> bool:
            return (text in await desk.texts()) != (text in await desk.memories())

        await until(in_one_place)
        if item in await desk.items():
            await desk.promote(item.id)
    assert sorted(await desk.memories(), key=int) == [str(number) for number in range(20)]
    assert await desk.items() == []


# Consolidation


@pytest.mark.parametrize(
    ("importance", "accesses", "novelty", "age", "expected"),
    [
        (0.0, 0, 0.0, 0, 0.0),
        (1.0, 10, 1.0, 300, 1.0),
        (1.0, 1000, 1.0, 3000, 1.0),
        (0.5, 1, 0.0, 30, 0.24),
        (0.5, 1, 1.0, 30, 0.44),
        (0.5, 5, 0.5, 150, 0.5),
        (0.25, 2, 0.1, 60, 0.2),
    ],
)
def test_the_score(importance: float, accesses: int, novelty: float, age: float, expected: float) -> None:
    assert score(importance, accesses, novelty, timedelta(seconds=age)) == pytest.approx(expected, abs=1e-12)


async def test_what_deserves_it_becomes_a_memory_by_itself(desk: Desk) -> None:
    await desk.push(Draft("important", importance=1.0))
    await desk.push(Draft("trifle", importance=0.0))
    await desk.push(Draft("protected", importance=1.0), protected=True)
    await desk.advance(30)
    assert await desk.consolidate() == 0, "not older than 30 s"
    await desk.push(Draft("young", importance=1.0))
    await desk.advance(0.000001)
    assert await desk.consolidate() == 1
    assert await desk.texts() == ["young", "protected", "trifle"]
    (memory,) = await desk.room.memories(desk.space)
    assert (memory.content, memory.session, memory.provenance) == (
        "important",
        "s",
        Provenance(Origin.AGENT, (), "a"),
    )
    (revision,) = await desk.room.store.list_revisions(desk.space, None, 0, 10)
    assert (revision.principal, revision.reason) == (CONSOLIDATOR, "consolidated from working memory")
    assert desk.room.commits == 1


async def test_novelty_is_asked_for_when_it_decides(room: Room) -> None:
    desk = Desk(room, await room.make("notes"))
    await desk.push("usual")  # .2 + .03 + .01 at 31 s
    await desk.push(Draft("trifle", importance=0.0))  # below the threshold whatever its novelty
    await desk.advance(31)
    for answer, kept in ((None, 0), (0.0, 0), (0.2, 0), (0.4, 1)):
        room.novelty.answer = answer
        assert await desk.consolidate() == kept
    assert room.novelty.asked == 4
    assert await desk.memories() == ["usual"]


async def test_an_item_of_usual_importance_is_kept_before_it_expires(room: Room) -> None:
    desk = Desk(room, await room.make("notes"))
    await desk.push("usual")
    await desk.advance(209)
    assert await desk.consolidate() == 0
    await desk.advance(2)
    assert await desk.consolidate() == 1


async def test_one_run_keeps_fifty_and_the_next_goes_on(room: Room) -> None:
    desk = Desk(room, await room.make("notes"))
    for number in range(120):
        await desk.push(Draft(str(number), importance=1.0 if number % 2 else 0.0), session=f"s{number % 3}")
    await desk.advance(60)
    runs = [await desk.consolidate() for _ in range(4)]
    assert runs == [MOST_KEPT, 10, 0, 0]
    assert sorted(await desk.memories(), key=int) == [str(number) for number in range(1, 120, 2)]


async def test_replicas_consolidate_an_item_once(desk: Desk) -> None:
    for number in range(30):
        await desk.push(Draft(str(number), importance=1.0))
    await desk.advance(60)
    now, room = desk.room.clock.now(), desk.room
    replicas = [
        WorkingMemory(room.working_store, room.access, room.clock, room.novelty, lambda: None, lambda: None)
        for _ in range(4)
    ]
    assert sum(await asyncio.gather(*(replica.consolidate(now) for replica in replicas))) == 30
    assert len(await desk.memories()) == 30


async def test_consolidation_does_not_write_a_known_text_again(desk: Desk) -> None:
    for _ in range(2):
        await desk.push(Draft("tea", importance=1.0))
        await desk.advance(60)
        assert await desk.consolidate() == 1
    assert (await desk.memories(), await desk.items()) == (["tea"], [])


async def test_a_space_that_takes_no_more_does_not_hold_up_the_others(room: Room) -> None:
    full = Desk(room, await room.make("full", policy=Policy(limits=Limits(max_memories=1))))
    for number in range(3):
        await full.push(Draft(str(number), importance=1.0))
    locked = Desk(room, await room.make("locked", encrypted=True))
    await locked.push(Draft("secret", importance=1.0))
    desk = Desk(room, await room.make("notes"))
    await desk.push(Draft("tea", importance=1.0))
    await desk.advance(60)
    await room.database.execute("UPDATE memory.space_keys SET master_key_id = 'lost'")
    with pytest.raises(KeyUnavailableError):
        await room.vault.renewed(locked.space)
    assert await desk.consolidate() == 2
    assert (await desk.memories(), len(await full.items())) == (["tea"], 2)


async def test_a_full_disk_stops_writing(room: Room) -> None:
    space = await room.make("notes")

    def no_room() -> None:
        raise StoreFullError

    working = WorkingMemory(room.working_store, room.access, room.clock, room.novelty, lambda: None, no_room)
    with pytest.raises(StoreFullError):
        await working.push(ADA, "notes", "a", "s", Draft("x"), protected=False, life=None, request=None)
    with pytest.raises(StoreFullError):
        await working.promote(ADA, "notes", new_uuid(room.clock.now()), None)
    with pytest.raises(StoreFullError):
        await working.consolidate(room.clock.now())
    assert await working.list_items(ADA, space.slug, "a", "s") == []


async def test_the_clock_drives_consolidation_and_cleaning(room: Room) -> None:
    desk = Desk(room, await room.make("notes"))
    await desk.push(Draft("tea", importance=1.0))
    await desk.push(Draft("trifle", importance=0.0), life=45)
    tasks = [
        asyncio.create_task(room.working.keep_consolidating(60)),
        asyncio.create_task(room.working.keep_clean(60)),
    ]
    try:
        await until(lambda: room.clock.sleepers == 2)
        await desk.advance(59)
        assert await room.database.fetchval("SELECT count(*) FROM memory.working_items") == 2
        await desk.advance(1)

        async def done() -> bool:
            return not await room.database.fetch("SELECT id FROM memory.working_items")

        await until(done)
        await until(lambda: room.clock.sleepers == 2)
        assert await desk.memories() == ["tea"]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_the_cleaner_removes_what_has_expired(desk: Desk) -> None:
    await desk.push("short", life=10)
    await desk.push("kept", life=20)
    await desk.push("protected", protected=True, life=1)
    await desk.advance(10)
    assert await desk.room.working_store.remove_expired(desk.room.clock.now()) == 1
    assert await desk.room.working_store.remove_expired(desk.room.clock.now()) == 0
    assert await desk.texts() == ["protected", "kept"]


# Walls


async def test_no_tenant_reaches_the_working_memory_of_another(room: Room) -> None:
    desk = Desk(room, await room.make("notes"))
    item = (await desk.push("tea")).item
    with pytest.raises(SpaceNotFoundError):
        await room.working.list_items(EVE, "notes", "a", "s")
    await room.make("notes", EVE)
    assert await room.working.list_items(EVE, "notes", "a", "s") == []
    assert await room.working.clear(EVE, "notes", "a", "s", [item.id]) == 0
    with pytest.raises(WorkingItemNotFoundError):
        await room.working.promote(EVE, "notes", item.id, None)
    request = a_request()
    await desk.push("one", request=request)
    other = await room.working.push(EVE, "notes", "a", "s", Draft("two"), protected=False, life=None, request=request)
    assert other.item.draft.content == "two"
    assert await desk.texts() == ["one", "tea"]


async def test_roles_and_parts_of_a_shared_space(room: Room) -> None:
    desk = Desk(room, await room.make("notes"))
    item = (await desk.push("tea")).item
    room.shares.share(desk.space, "theirs", Role.ANNOTATE)
    assert await room.working.list_items(EVE, "theirs", "a", "s") == [item]

    async def refused(slug: str) -> None:
        for call in (
            room.working.push(EVE, slug, "a", "s", Draft("x"), protected=False, life=None, request=None),
            room.working.clear(EVE, slug, "a", "s", []),
            room.working.promote(EVE, slug, item.id, None),
        ):
            with pytest.raises(RoleRequiredError):
                await call

    await refused("theirs")
    room.shares.share(desk.space, "part", Role.WRITE, kinds=(Kind.FACT,))
    await refused("part")
    with pytest.raises(RoleRequiredError, match="in part"):
        await room.working.list_items(EVE, "part", "a", "s")
    room.shares.share(desk.space, "all", Role.WRITE)
    shared, memory = await room.working.promote(EVE, "all", item.id, None)
    assert (shared.name, memory.content) == ("spaces/all", "tea")
    (revision,) = await room.store.list_revisions(desk.space, None, 0, 10)
    assert revision.principal == "globex/eve"


async def test_an_encrypted_space_shows_nothing(room: Room) -> None:
    desk = Desk(room, await room.make("notes", encrypted=True))
    draft = Draft(
        f"content {SECRET}",
        metadata={f"key {SECRET}": SECRET},
        tags=(SECRET,),
        actor=SECRET,
        provenance=Provenance(Origin.TOOL, (SECRET,), SECRET),
    )
    request = a_request()
    item = (await desk.push(draft, agent=SECRET, session=SECRET, request=request)).item
    await desk.push(draft, agent=SECRET, session=SECRET)
    tables = ("working_items", "requests", "memories", "revisions")
    assert SECRET not in await room.dump(*tables)
    assert SECRET.encode().hex() not in await room.dump(*tables)
    found = await desk.items(SECRET, SECRET)
    assert [(each.draft, each.agent, each.session, each.accesses) for each in found] == [(draft, SECRET, SECRET, 2)]
    await desk.promote(item.id, a_request())
    assert SECRET not in await room.dump(*tables)
    assert SECRET.encode().hex() not in await room.dump(*tables)


# Laws


@pytest.mark.parametrize("seed", range(8))
async def test_it_does_what_a_list_would_do(room: Room, seed: int) -> None:
    """Random pushes, clearings and passing time against a plain list of 100 places."""
    chance = random.Random(seed)
    desk = Desk(room, await room.make("notes", encrypted=seed % 2 == 0))
    model: list[tuple[str, bool, float | None, int]] = []
    now = 0.0
    texts = [str(number) for number in range(130)]
    for _ in range(200):
        if chance.random() < 0.05:
            step = chance.choice([1, 5, 20])
            now += step
            await desk.advance(step)
        model = [each for each in model if each[2] is None or each[2] > now]
        if chance.random() < 0.02:
            assert await desk.clear() == len(model)
            model = []
            continue
        text, protected, life = chance.choice(texts), chance.random() < 0.1, chance.choice([3, 30, 300])
        same = next((each for each in model if each[0] == text), None)
        await desk.push(text, protected=protected, life=life)
        if same is not None:
            model.remove(same)
            protected = protected or same[1]
        elif len(model) == CAPACITY:
            model.remove(next(each for each in model if not each[1]))
        model.append((text, protected, None if protected else now + life, 1 + (same[3] if same else 0)))
    start = room.clock.now() - timedelta(seconds=now)
    found = [
        (
            item.draft.content,
            item.protected,
            None if item.expires_at is None else (item.expires_at - start).total_seconds(),
            item.accesses,
        )
        for item in reversed(await desk.items())
    ]
    assert found == [each for each in model if each[2] is None or each[2] > now]


MOMENTS = st.datetimes(timezones=st.just(UTC))
TEXTS = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
DRAFTS = st.builds(
    Draft,
    content=TEXTS,
    id=st.none() | st.uuids().map(lambda each: MemoryId(str(each))),
    kind=st.sampled_from(Kind),
    metadata=st.dictionaries(TEXTS, JSON, max_size=3),
    tags=st.lists(TEXTS, max_size=3).map(tuple),
    actor=TEXTS,
    session=TEXTS,
    ordinal=st.none() | st.integers(0, 2**53),
    occurred_at=st.none() | MOMENTS,
    importance=st.floats(0, 1),
    confidence=st.floats(0, 1),
    modality=st.sampled_from(Modality),
    media=st.none(),
    valid_from=st.none() | MOMENTS,
    valid_to=st.none() | MOMENTS,
    expires_at=st.none() | MOMENTS,
    provenance=st.builds(Provenance, st.sampled_from(Origin), st.lists(TEXTS, max_size=2).map(tuple), TEXTS),
    protected=st.booleans(),
    on_duplicate=st.sampled_from(OnDuplicate),
    novelty_gate=st.sampled_from(NoveltyGate),
)


@settings(max_examples=200)
@given(draft=DRAFTS)
def test_a_draft_survives_being_stored(draft: Draft) -> None:
    assert working_items.to_draft(json.loads(rows.to_json(working_items.from_draft(draft)))) == draft


def test_every_field_of_a_draft_is_stored() -> None:
    assert {each.name for each in fields(Draft)} - {"media"} == set(working_items.from_draft(FULL))
