"""Taking a space back to an earlier revision."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.memory_room import Room, opened

from mnemo_memory.domain.memory import Change, Draft, Memory, State, Tier
from mnemo_memory.domain.ports import Author
from mnemo_memory.storage.postgres_vault import PostgresVault
from mnemo_memory.storage.rewind import PRINCIPAL, find_space, rewind
from mnemocore.errors import InvalidFieldError, KeyUnavailableError, MnemoError, SpaceNotFoundError
from mnemocore.ids import Tenant
from mnemocore.master_keys import FixedMasterKeys
from mnemocore.sealing import MasterKeys

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mnemo_memory.domain.memory import Space
    from mnemocore.testing.postgres import TestPostgres


@pytest.fixture
async def room(postgres: TestPostgres) -> AsyncIterator[Room]:
    async with opened(postgres) as made:
        yield made


def comparable(memory: Memory) -> Memory:
    """What a rewind brings back: all but the numbers of revisions and what counts uses."""
    return replace(memory, revision=0, created_revision=0, accesses=0, accessed_at=None, tier=Tier.WARM)


async def picture(room: Room, space: Space) -> dict[str, Memory]:
    return {memory.id: comparable(memory) for memory in await room.memories(space)}


class History:
    """Random changes to a space, and what it held after each revision."""

    def __init__(self, room: Room, space: Space, seed: int) -> None:
        self.room = room
        self.space = space
        self.pictures: dict[int, dict[str, Memory]] = {0: {}}
        self.erased_at: dict[str, int] = {}
        self._random = random.Random(seed)

    async def grow(self, steps: int) -> None:
        for _ in range(steps):
            try:
                await self._step()
            except MnemoError:
                continue  # such as an archived memory that is to be archived
            revision = (await find_space(self.room.database, self.space.tenant, self.space.slug)).revision
            self.pictures[revision] = await picture(self.room, self.space)

    async def _step(self) -> None:
        author = Author("ada", self.room.clock.now(), "")
        await self.room.clock.advance(1)
        store, chosen = self.room.store, self._random.choice([*(await self.room.memories(self.space)), None])
        text = f"text {self._random.random()}"
        if chosen is None or self._random.random() < 0.3:
            drafts = [Draft(f"{text} {n}", tags=("t",), metadata={"n": n}) for n in range(self._random.randint(1, 3))]
            await store.create(self.space, drafts, author, None, each=False)
            return
        what = self._random.choice(["edit", "archive", "restore", "protect", "supersede", "erase"])
        if what == "erase":
            await store.erase(self.space, chosen.id, "", author, None)
            self.erased_at[chosen.id] = max(self.pictures) + 1
        elif what == "supersede":
            await store.supersede(self.space, chosen.id, "", Draft(text), lambda old, draft: (old, draft), author, None)
        else:
            change, alter = {
                "edit": (Change.UPDATED, lambda m: replace(m, content=text, importance=0.9)),
                "archive": (Change.ARCHIVED, lambda m: replace(m, archived_at=author.at)),
                "restore": (Change.RESTORED, lambda m: replace(m, archived_at=None)),
                "protect": (Change.PROTECTED, lambda m: replace(m, protected=not m.protected)),
            }[what]
            await store.mutate(self.space, chosen.id, "", change, alter, author, None)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("encrypted", [False, True], ids=["open", "sealed"])
async def test_every_memory_is_as_it_was(room: Room, seed: int, encrypted: bool) -> None:
    space = await room.make("s", encrypted=encrypted)
    other = await room.make("other", encrypted=encrypted)
    await History(room, other, 99).grow(5)
    untouched = await picture(room, other)
    history = History(room, space, seed)
    await history.grow(40)
    newest = max(history.pictures)
    target = random.Random(seed).choice(sorted(history.pictures))

    result = await rewind(room.database, room.vault, space, target, room.clock.now())

    lost = {each for each in history.pictures[target] if history.erased_at.get(each, 0) > target}
    expected = {each: memory for each, memory in history.pictures[target].items() if each not in lost}
    assert await picture(room, space) == expected
    assert result.lost == len(lost)
    assert await picture(room, other) == untouched
    await assert_consistent(room, space, newest, result.revision)


async def assert_consistent(room: Room, space: Space, before: int, newest: int) -> None:
    """Counts, rows and revisions say the same, and no revision is missing or was given twice."""
    now = await find_space(room.database, space.tenant, space.slug)
    memories = await room.memories(space)
    active = sum(memory.state is State.ACTIVE for memory in memories)
    assert (now.revision, now.active, now.archived) == (newest, active, len(memories) - active)
    revisions = await room.store.list_revisions(space, None, 0, 10_000)
    assert [each.revision for each in revisions] == list(range(1, newest + 1))
    last = {each.memory_id: each for each in revisions}
    told = {each.memory_id: comparable(each.memory) for each in last.values() if each.memory is not None}
    assert {memory.id: replace(comparable(memory), state=told[memory.id].state) for memory in memories} == told
    assert {each.principal for each in revisions if each.revision > before} <= {PRINCIPAL}
    assert await room.database.fetchval(
        "SELECT s.bytes = coalesce(sum(m.bytes), 0) FROM memory.spaces s LEFT JOIN memory.memories m "
        "ON m.space_uid = s.uid WHERE s.slug = $1 GROUP BY s.uid",
        space.slug,
    )


async def test_what_was_used_since_stays_counted(room: Room) -> None:
    space = await room.make("s")
    author = Author("ada", room.clock.now(), "")
    made = await room.store.create(space, [Draft("kettle")], author, None, each=False)
    memory = (await room.memories(space))[0]
    await room.store.mutate(space, memory.id, "", Change.UPDATED, lambda m: replace(m, content="pot"), author, None)
    await room.store.count_uses(space.uid, {memory.id: (7, room.clock.now())})
    await rewind(room.database, room.vault, space, made.revision, room.clock.now())
    (found,) = await room.memories(space)
    assert (found.content, found.accesses, found.accessed_at) == ("kettle", memory.accesses + 7, room.clock.now())
    assert found.etag != memory.etag


async def test_more_than_one_batch(room: Room) -> None:
    space = await room.make("s")
    author = Author("ada", room.clock.now(), "")
    await room.store.create(space, [Draft(f"kept {n}") for n in range(3)], author, None, each=False)
    for _ in range(2):
        await room.store.create(space, [Draft(f"later {n}") for n in range(600)], author, None, each=False)
    result = await rewind(room.database, room.vault, space, 3, room.clock.now())
    assert (result.changed, result.erased, result.lost) == (0, 1200, 0)
    assert {memory.content for memory in await room.memories(space)} == {"kept 0", "kept 1", "kept 2"}
    await assert_consistent(room, space, 1203, 2403)


async def test_what_cannot_be_is_refused_and_changes_nothing(room: Room) -> None:
    space = await room.make("s", encrypted=True)
    author = Author("ada", room.clock.now(), "")
    await room.store.create(space, [Draft("kettle"), Draft("pot")], author, None, each=False)
    before = await picture(room, space)
    for revision in (-1, 3):
        with pytest.raises(InvalidFieldError, match=f"{revision}; spaces/s has the revisions 0 to 2"):
            await rewind(room.database, room.vault, space, revision, room.clock.now())
    keyless = PostgresVault(room.database, FixedMasterKeys(MasterKeys([])))
    with pytest.raises(KeyUnavailableError):
        await rewind(room.database, keyless, space, 1, room.clock.now())
    with pytest.raises(SpaceNotFoundError):
        await find_space(room.database, Tenant("acme"), "nowhere")
    assert await picture(room, space) == before
