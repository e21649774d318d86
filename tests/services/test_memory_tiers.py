"""Tiers: the policy, moves on a real PostgreSQL, the cache of HOT memories and the notices between replicas."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.memory_room import ADA, EVE, opened

from mnemo_memory.domain.hot_cache import MAX_AGE_SECONDS, HotCache
from mnemo_memory.domain.memory import Change, Draft, Filter, Kind, Memory, Space, State, Tier
from mnemo_memory.domain.ports import Author, Kept
from mnemo_memory.domain.tiers import HOT_CAPACITY, ROUND_SECONDS, SLICE, Move, Standing, TierKeeper, wanted_tier
from mnemo_memory.domain.tiers import hot_moves as moves_to_capacity
from mnemo_memory.storage.change_notices import MOST_IDS, MOST_SPACES, ChangeNotices
from mnemo_memory.storage.postgres_tiers import BATCH, PostgresTiers
from mnemocore import calls
from mnemocore.errors import DeadlineExceededError
from mnemocore.ids import MemoryId, SpaceUid, new_uuid
from mnemocore.testing.clock import ManualClock
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tests.memory_room import Room

    from mnemocore.testing.postgres import TestPostgres

NOW = datetime(2026, 3, 1, tzinfo=UTC)
SPACE = SpaceUid("s")
LONG = "a long story about tea " * 50
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=300).map(
    lambda text: text * 9
)
HOT, WARM, COLD = Tier.HOT, Tier.WARM, Tier.COLD


def standing(tier: Tier = WARM, number: int = 1, **fields: object) -> Standing:
    values: dict[str, object] = {
        "id": MemoryId(f"{number:05}"),
        "revision": 1,
        "created_revision": number,
        "tier": tier,
        "importance": 0.5,
        "accesses": 1,
        "accessed_at": None,
        "alpha": 1.0,
        "beta": 1.0,
        "created_at": NOW,
        "updated_at": NOW,
        "active": True,
        "expires_at": None,
        **fields,
    }
    return Standing(**values)  # type: ignore[arg-type]


# The policy


@pytest.mark.parametrize(
    ("strength", "from_hot", "from_warm", "from_cold"),
    [
        (1.00, HOT, HOT, HOT),
        (0.86, HOT, HOT, HOT),
        (0.85, HOT, WARM, WARM),
        (0.70, HOT, WARM, WARM),
        (0.60, HOT, WARM, WARM),
        (0.59, WARM, WARM, WARM),
        (0.46, WARM, WARM, WARM),
        (0.45, WARM, WARM, COLD),
        (0.30, WARM, WARM, COLD),
        (0.20, WARM, WARM, COLD),
        (0.19, COLD, COLD, COLD),
        (0.00, COLD, COLD, COLD),
    ],
)
def test_tiers_change_with_hysteresis(strength: float, from_hot: Tier, from_warm: Tier, from_cold: Tier) -> None:
    later = NOW + timedelta(hours=1)
    for tier, expected in ((HOT, from_hot), (WARM, from_warm), (COLD, from_cold)):
        assert wanted_tier(standing(tier), strength, later) is expected
        assert wanted_tier(standing(tier), strength, later - timedelta(seconds=1)) is tier


def test_only_active_memories_are_hot() -> None:
    later = NOW + timedelta(hours=1)
    for tier in Tier:
        for idle in (standing(tier, active=False), standing(tier, expires_at=NOW)):
            assert wanted_tier(idle, 1.0, later) is WARM
            assert wanted_tier(idle, 0.1, later) is COLD


def test_the_weakest_leave_when_more_are_hot_than_there_is_room() -> None:
    later = NOW + timedelta(hours=1)
    hot = [standing(HOT, number, accesses=accesses) for number, accesses in enumerate((3, 5, 2, 2, 9))]
    rising = [standing(WARM, 10, accesses=4), standing(COLD, 11, accesses=1)]
    moves = moves_to_capacity(rising, hot, 3, later)
    assert {(move.id, move.origin, move.goal) for move in moves} == {
        (hot[0].id, HOT, WARM),
        (hot[2].id, HOT, WARM),
        (hot[3].id, HOT, WARM),
        (rising[0].id, WARM, HOT),
    }
    assert [move.id for move in moves_to_capacity((), hot[:4], 3, later)] == [hot[2].id]
    fresh = [replace(each, updated_at=later) for each in hot]
    assert moves_to_capacity((), fresh, 3, later) == []


# Moves


class Shelf:
    """The memories of a space and their tiers."""

    def __init__(self, room: Room, space: Space) -> None:
        self.room = room
        self.space = space
        self.tiers = PostgresTiers(room.database)
        self.told: list[tuple[SpaceUid, list[MemoryId]]] = []
        self.keeper = self.keeper_of(HOT_CAPACITY)

    def keeper_of(self, capacity: int) -> TierKeeper:
        return TierKeeper(self.tiers, self.room.clock, lambda uid, ids: self.told.append((uid, list(ids))), capacity)

    async def keep(self, *drafts: str | Draft) -> list[Memory]:
        items = [Draft(each) if isinstance(each, str) else each for each in drafts]
        created = await self.room.store.create(self.space, items, self.author, None, each=False)
        return [kept.memory for kept in created.outcomes if isinstance(kept, Kept)]

    @property
    def author(self) -> Author:
        return Author("ada", self.room.clock.now())

    async def read(self, *memories: Memory) -> list[Memory]:
        found = await self.room.store.get(self.space, [each.id for each in memories], self.room.clock.now())
        return [found[each.id] for each in memories]

    async def tiers_of(self, *memories: Memory) -> list[Tier]:
        return [each.tier for each in await self.read(*memories)]

    async def use(self, memory: Memory, times: int) -> None:
        await self.room.store.count_uses(self.space.uid, {memory.id: (times, self.room.clock.now())})

    async def move(self, memory: Memory, goal: Tier) -> bool:
        (now,) = await self.read(memory)
        return bool(await self.tiers.move(self.space, [Move(memory.id, now.revision, now.tier, goal)]))

    async def rewrite(self, memory: Memory, content: str) -> Memory:
        def alter(before: Memory) -> Memory:
            return replace(before, content=content)

        written = await self.room.store.mutate(self.space, memory.id, "", Change.UPDATED, alter, self.author, None)
        return written.memories[0]

    async def columns(self, memory: Memory) -> tuple[str, bool]:
        """The column `content`, and whether there is a compressed one."""
        row = await self.room.database.fetchrow(
            "SELECT content, packed IS NOT NULL AS packed FROM memory.memories WHERE id = $1::text::uuid", memory.id
        )
        assert row is not None
        return row["content"], row["packed"]


def hours(number: float) -> float:
    return number * 3600


@pytest.fixture
async def room(postgres: TestPostgres) -> AsyncIterator[Room]:
    async with opened(postgres) as made:
        yield made


@pytest.fixture(params=[False, True], ids=["open", "encrypted"])
async def shelf(room: Room, request: pytest.FixtureRequest) -> Shelf:
    return Shelf(room, await room.make("notes", encrypted=request.param))


def unplaced(memory: Memory) -> Memory:
    """A memory without what a move or a use may change."""
    return replace(memory, tier=WARM, accesses=1, accessed_at=None)


async def test_memories_go_where_their_strength_belongs(shelf: Shelf) -> None:
    weak, usual, strong, fresh = await shelf.keep(
        Draft(LONG, importance=0.2), "usual", Draft("strong", importance=0.9), "x"
    )
    await shelf.use(strong, 4)
    assert await shelf.keeper.keep(shelf.space) == 0
    await shelf.room.clock.advance(hours(2))
    await shelf.rewrite(fresh, LONG)
    assert await shelf.keeper.keep(shelf.space) == 2
    assert await shelf.tiers_of(weak, usual, strong, fresh) == [COLD, WARM, HOT, WARM]
    assert {memory_id for _, ids in shelf.told for memory_id in ids} == {weak.id, strong.id}
    assert {uid for uid, _ in shelf.told} == {shelf.space.uid}
    assert await shelf.keeper.keep(shelf.space) == 0
    await shelf.room.clock.advance(hours(24 * 60))
    assert await shelf.keeper.keep(shelf.space) == 2
    assert await shelf.tiers_of(weak, usual, strong, fresh) == [COLD, COLD, HOT, COLD]
    await shelf.use(weak, 20)
    assert await shelf.keeper.keep(shelf.space) == 1
    assert await shelf.tiers_of(weak) == [WARM]
    assert [unplaced(each) for each in await shelf.read(weak, usual, strong)] == [weak, usual, strong]


async def test_a_move_is_no_revision(shelf: Shelf) -> None:
    (memory,) = await shelf.keep(LONG)
    for goal in (COLD, HOT, WARM, COLD, WARM):
        assert await shelf.move(memory, goal)
        assert await shelf.tiers_of(memory) == [goal]
        assert [unplaced(each) for each in await shelf.read(memory)] == [memory]
    assert len(await shelf.room.store.list_revisions(shelf.space, None, 0, 10)) == 1


async def test_what_is_cold_is_compressed_where_that_makes_it_smaller(shelf: Shelf) -> None:
    long, short = await shelf.keep(LONG, "short")
    for memory in (long, short):
        assert await shelf.move(memory, COLD)
    if shelf.space.encrypted:
        assert {await shelf.columns(each) for each in (long, short)} == {("", False)}
        return
    assert await shelf.columns(long) == ("", True)
    assert await shelf.columns(short) == ("short", False)
    found = await shelf.room.store.search_words(
        shelf.space, "story", Filter(), [State.ACTIVE], 10, shelf.room.clock.now()
    )
    assert [memory.content for memory, _ in found] == [LONG]
    for memory in (long, short):
        assert await shelf.move(memory, WARM)
    assert await shelf.columns(long) == (LONG, False)


async def test_what_was_written_or_moved_since_is_not_moved(shelf: Shelf) -> None:
    (memory,) = await shelf.keep(LONG)
    stale = Move(memory.id, memory.revision, WARM, COLD)
    assert await shelf.tiers.move(shelf.space, [stale]) == [memory.id]
    assert await shelf.tiers.move(shelf.space, [stale]) == []
    await shelf.rewrite(memory, LONG + "!")
    assert await shelf.tiers_of(memory) == [WARM]
    assert await shelf.tiers.move(shelf.space, [stale, replace(stale, origin=COLD, goal=WARM)]) == []
    assert (await shelf.read(memory))[0].content == LONG + "!"
    gone = replace(stale, id=MemoryId(new_uuid(NOW)))
    assert await shelf.tiers.move(shelf.space, [gone]) == []


async def test_a_memory_that_a_writer_has_locked_is_left_for_later(shelf: Shelf) -> None:
    locked, free = await shelf.keep(LONG, LONG)
    moves = [Move(each.id, each.revision, WARM, COLD) for each in (locked, free)]
    async with shelf.room.database.transaction() as connection:
        await connection.execute("SELECT FROM memory.memories WHERE id = $1::text::uuid FOR UPDATE", locked.id)
        assert await shelf.tiers.move(shelf.space, moves) == [free.id]
    assert await shelf.tiers.move(shelf.space, moves) == [locked.id]


async def test_moves_and_writes_at_the_same_time_lose_nothing(shelf: Shelf) -> None:
    memories = await shelf.keep(*(f"{number} {LONG}" for number in range(40)))
    contents = {each.id: each.content for each in memories}
    chance = random.Random(7)

    async def write() -> None:
        for number in range(30):
            memory = chance.choice(memories)
            contents[memory.id] = (await shelf.rewrite(memory, f"{number} of {memory.id} {LONG}")).content
            await shelf.use(chance.choice(memories), 1)

    async def place() -> None:
        for _ in range(30):
            some = await shelf.read(*chance.sample(memories, 20))
            await shelf.tiers.move(
                shelf.space,
                [
                    Move(each.id, each.revision, each.tier, chance.choice([t for t in Tier if t is not each.tier]))
                    for each in some
                ],
            )

    await asyncio.gather(write(), place(), place())
    found = await shelf.read(*memories)
    assert {each.id: each.content for each in found} == contents
    revisions = await shelf.room.store.list_revisions(shelf.space, None, 0, 1000)
    assert len(revisions) == len(memories) + 30


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    contents=st.lists(TEXTS, min_size=1, max_size=4),
    steps=st.lists(st.tuples(st.integers(0, 3), st.sampled_from(Tier)), max_size=12),
)
async def test_after_any_moves_every_memory_is_what_it_was(
    shelf: Shelf, contents: list[str], steps: Sequence[tuple[int, Tier]]
) -> None:
    memories = await shelf.keep(*contents)
    for number, goal in steps:
        memory = memories[number % len(memories)]
        (now,) = await shelf.read(memory)
        if now.tier is not goal:
            assert await shelf.move(memory, goal)
    assert [unplaced(each) for each in await shelf.read(*memories)] == memories


async def test_many_memories_are_moved_in_slices_and_batches(room: Room) -> None:
    shelf = Shelf(room, await room.make("notes"))
    memories = await shelf.keep(*(Draft(str(number), importance=0.1) for number in range(SLICE + BATCH + 1)))
    await room.clock.advance(hours(2))
    assert await shelf.keeper.keep(shelf.space) == len(memories)
    assert set(await shelf.tiers_of(*memories)) == {COLD}


async def test_a_space_has_no_more_hot_memories_than_its_capacity(shelf: Shelf) -> None:
    memories = await shelf.keep(*(Draft(str(number), importance=0.9) for number in range(6)))
    for number, memory in enumerate(memories):
        await shelf.use(memory, number + 3)
    await shelf.room.clock.advance(hours(2))
    keeper = shelf.keeper_of(4)
    assert await keeper.keep(shelf.space) == 4
    assert await shelf.tiers_of(*memories) == [WARM] * 2 + [HOT] * 4
    assert await keeper.keep(shelf.space) == 0
    assert await shelf.keeper_of(1).keep(shelf.space) == 3
    assert await shelf.tiers_of(*memories) == [WARM] * 5 + [HOT]


async def test_the_keeper_goes_through_all_spaces_of_all_tenants_again_and_again(room: Room) -> None:
    shelves = [Shelf(room, await room.make(slug, caller)) for slug, caller in (("a", ADA), ("b", ADA), ("a", EVE))]
    kept = [(shelf, (await shelf.keep(Draft(LONG, importance=0.1)))[0]) for shelf in shelves]
    await room.clock.advance(hours(2))
    task = asyncio.create_task(shelves[0].keeper.run())

    async def all_are(tier: Tier) -> bool:
        await room.clock.advance(1)
        return all([await shelf.tiers_of(memory) == [tier] for shelf, memory in kept])

    await until(lambda: all_are(COLD))
    for shelf, memory in kept:
        await shelf.use(memory, 10_000)
    await until(lambda: room.clock.sleepers == 1)
    await room.clock.advance(ROUND_SECONDS)
    await until(lambda: all_are(HOT))
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


# The cache


class Cached:
    """A cache, and what it announced."""

    def __init__(self, **bounds: int) -> None:
        self.clock = ManualClock(NOW)
        self.announced: list[tuple[SpaceUid, Sequence[MemoryId] | None]] = []
        self.cache = HotCache(self.clock, lambda uid, ids: self.announced.append((uid, ids)), **bounds)

    def put(self, *memories: Memory, space: SpaceUid = SPACE) -> None:
        for memory in memories:
            self.cache.put(space, memory, self.cache.mark)

    def has(self, memory: Memory, space: SpaceUid = SPACE) -> bool:
        return self.cache.get(space, memory.id, self.clock.now()) is not None


_BASE = Memory(
    *(MemoryId("m"), Kind.FACT, "tea", {}, (), "", "", None, NOW, 0.5, 1.0, State.ACTIVE, 1, 1, NOW, NOW),
)


def hot(number: int, **fields: object) -> Memory:
    values: dict[str, object] = {
        "id": MemoryId(f"{number:05}"),
        "content": "tea",
        "revision": 1,
        "created_revision": number,
        "importance": 0.5,
        "tier": HOT,
        **fields,
    }
    return replace(_BASE, **values)  # type: ignore[arg-type]


def test_the_cache_holds_hot_memories_of_a_space() -> None:
    made = Cached()
    memory = hot(1)
    made.put(memory, hot(2, tier=WARM))
    assert made.cache.get(SPACE, memory.id, NOW) == memory
    assert not made.has(hot(2))
    assert not made.has(memory, SpaceUid("t"))
    made.put(replace(memory, content="newer"))
    found = made.cache.get(SPACE, memory.id, NOW)
    assert found is not None
    assert (found.content, made.cache.memories) == ("newer", 1)


async def test_entries_expire_with_their_memories_and_with_time() -> None:
    made = Cached()
    memory = hot(1, expires_at=NOW + timedelta(seconds=10))
    made.put(memory)
    await made.clock.advance(10)
    found = made.cache.get(SPACE, memory.id, made.clock.now())
    assert found is not None
    assert found.state is State.EXPIRED
    await made.clock.advance(MAX_AGE_SECONDS)
    assert not made.has(memory)
    assert (made.cache.memories, made.cache.bytes) == (0, 0)


def test_what_is_dropped_is_announced_and_gone_at_once() -> None:
    made = Cached()
    made.put(hot(1), hot(2))
    made.put(hot(1), space=SpaceUid("t"))
    made.cache.drop(SPACE, [hot(1).id, hot(9).id])
    made.cache.drop(SPACE, [])
    assert [made.has(hot(1)), made.has(hot(2)), made.has(hot(1), SpaceUid("t"))] == [False, True, True]
    made.cache.drop_space(SPACE)
    assert [made.has(hot(2)), made.has(hot(1), SpaceUid("t"))] == [False, True]
    assert made.announced == [("s", [hot(1).id, hot(9).id]), ("s", None)]
    made.cache.forget_all()
    assert made.cache.memories == made.cache.bytes == 0
    assert len(made.announced) == 2


def test_a_memory_that_was_read_before_it_changed_is_not_kept() -> None:
    made = Cached()
    for everything in (False, True):
        before = made.cache.mark
        if everything:
            made.cache.forget_all()
        else:
            made.cache.drop(SPACE, [hot(1).id])
        made.cache.put(SPACE, hot(1), before)
        assert not made.has(hot(1))
        made.put(hot(1))
        assert made.has(hot(1))
    before = made.cache.mark
    made.cache.drop(SpaceUid("t"), [hot(1).id])
    made.cache.put(SPACE, hot(2), before)
    assert made.has(hot(2))


def test_the_weakest_leave_a_full_cache() -> None:
    made = Cached(max_memories=3)
    made.put(hot(1, accesses=5), hot(2, accesses=1), hot(3, accesses=9), hot(4, accesses=2))
    assert [made.has(hot(number)) for number in (1, 2, 3, 4)] == [True, False, True, True]
    made.put(hot(5, accesses=2))
    assert [made.has(hot(number)) for number in (1, 3, 4, 5)] == [True, True, False, True]


def test_the_cache_is_bounded_by_bytes_and_forgets_where_things_were() -> None:
    made = Cached(max_bytes=100_000)
    for number in range(2000):
        made.put(hot(number % 50, content="x" * 5000, accesses=number + 1))
    assert made.cache.bytes <= 100_000
    assert 5 < made.cache.memories < 20
    assert made.has(hot(1999 % 50))


# Notices between replicas


class Replica:
    """A cache with its notices on a shared database."""

    def __init__(self, room: Room) -> None:
        self.notices = ChangeNotices(room.database)
        self.cache = HotCache(room.clock, self.notices.announce)
        self.tasks = [
            asyncio.create_task(self.notices.send()),
            asyncio.create_task(self.notices.listen(self.cache)),
        ]

    def put(self, *numbers: int) -> None:
        for number in numbers:
            self.cache.put(SPACE, hot(number), self.cache.mark)

    def has(self, number: int) -> bool:
        return self.cache.get(SPACE, hot(number).id, NOW) is not None

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)


LISTENERS = "FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()"


@pytest.fixture
async def replicas(room: Room) -> AsyncIterator[tuple[Replica, Replica]]:
    made = (Replica(room), Replica(room))
    await until(lambda: all(replica.cache.mark for replica in made))  # listening begins with a gap
    yield made
    for replica in made:
        await replica.stop()


async def test_what_one_replica_drops_the_others_drop(replicas: tuple[Replica, Replica]) -> None:
    here, there = replicas
    there.put(1, 2, 3)
    here.cache.drop(SPACE, [hot(1).id, hot(2).id])
    await until(lambda: not there.has(1) and not there.has(2))
    assert there.has(3)
    here.cache.drop_space(SPACE)
    await until(lambda: not there.has(3))
    there.put(4)
    here.cache.drop(SPACE, [hot(number).id for number in range(100, 101 + MOST_IDS)])
    await until(lambda: not there.has(4))


async def test_very_many_changes_are_one_notice(replicas: tuple[Replica, Replica]) -> None:
    here, there = replicas
    there.put(1)
    for number in range(MOST_SPACES + 1):
        here.notices.announce(SpaceUid(f"space {number}"), None)
    await until(lambda: not there.has(1))


async def test_after_a_gap_in_listening_everything_is_dropped(room: Room, replicas: tuple[Replica, Replica]) -> None:
    here, _ = replicas
    here.put(1)
    await room.database.execute(f"SELECT pg_terminate_backend(pid) {LISTENERS}")
    await until(lambda: not here.has(1))


async def test_notices_that_could_not_be_sent_are_sent_by_the_next_run(
    room: Room, replicas: tuple[Replica, Replica]
) -> None:
    _, there = replicas
    there.put(1, 2)
    notices = ChangeNotices(room.database)
    notices.announce(SPACE, [hot(1).id])
    too_late = calls.deadline.set(0.0)
    with pytest.raises(DeadlineExceededError):
        await notices.send()
    calls.deadline.reset(too_late)
    assert there.has(1)
    task = asyncio.create_task(notices.send())
    await until(lambda: not there.has(1))
    task.cancel()
    await asyncio.wait([task])
    assert there.has(2)
