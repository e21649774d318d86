"""Memories under many writers: every change is built on the one before it, and no follower of a space misses one."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from tests.memory_room import Room, migrated

from mnemo_memory.domain.memory import Change, Draft
from mnemo_memory.domain.ports import Author, Kept
from mnemocore.errors import EtagMismatchError
from mnemocore.testing.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mnemo_memory.domain.memory import Memory, Space
    from mnemocore.testing.postgres import TestPostgres

ALICE = Author("alice", ManualClock().now())
WRITERS = 8
CHANGES_A_WRITER = 12


@pytest.fixture
async def rooms(postgres: TestPostgres) -> AsyncIterator[list[Room]]:
    """Two replicas of memory-core: pools of their own on one database."""
    url = await postgres.create(migrated)
    databases = [await postgres.open(url) for _ in range(2)]
    yield [Room(database) for database in databases]
    for database in databases:
        await database.close()
    await postgres.drop(url)


async def create(room: Room, space: Space, *drafts: Draft) -> list[Memory]:
    created = await room.store.create(space, drafts, ALICE, None, each=False)
    return [outcome.memory for outcome in created.outcomes if isinstance(outcome, Kept)]


async def append_word(room: Room, space: Space, memory: Memory, word: str, etag: str) -> Memory:
    def alter(before: Memory) -> Memory:
        return replace(before, content=f"{before.content} {word}")

    written = await room.store.mutate(space, memory.id, etag, Change.UPDATED, alter, ALICE, None)
    return written.memories[0]


@pytest.mark.parametrize("encrypted", [False, True], ids=["open", "encrypted"])
async def test_changes_by_etag_make_a_chain_and_none_is_lost(rooms: list[Room], encrypted: bool) -> None:
    space = await rooms[0].make("notes", encrypted=encrypted)
    (memory,) = await create(rooms[0], space, Draft("start"))
    refused = 0

    async def write(number: int) -> None:
        nonlocal refused
        room, seen = rooms[number % 2], memory
        for step in range(CHANGES_A_WRITER):
            while True:
                try:
                    seen = await append_word(room, space, seen, f"{number}.{step}", seen.etag)
                    break
                except EtagMismatchError:
                    refused += 1
                    seen = (await room.store.get(space, [memory.id], ALICE.at))[memory.id]

    async with asyncio.TaskGroup() as writers:
        for number in range(WRITERS):
            writers.create_task(write(number))
    history = await rooms[0].store.list_revisions(space, memory.id, 0, 1000)
    contents = [each.memory.content for each in history if each.memory is not None]
    assert [each.revision for each in history] == list(range(1, WRITERS * CHANGES_A_WRITER + 2))
    for before, after in pairwise(contents):
        assert after.startswith(f"{before} ")
    words = contents[-1].split()[1:]
    assert sorted(words) == sorted(f"{number}.{step}" for number in range(WRITERS) for step in range(CHANGES_A_WRITER))
    for number in range(WRITERS):
        mine = [word for word in words if word.startswith(f"{number}.")]
        assert mine == [f"{number}.{step}" for step in range(CHANGES_A_WRITER)]
    assert refused > 0


async def test_what_is_acknowledged_is_read_by_everybody_at_once(rooms: list[Room]) -> None:
    space = await rooms[0].make("notes")
    (memory,) = await create(rooms[0], space, Draft("start"))
    for number in range(30):
        writer, reader = rooms[number % 2], rooms[(number + 1) % 2]
        changed = await append_word(writer, space, memory, str(number), "")
        assert await reader.store.get(space, [memory.id], ALICE.at) == {memory.id: changed}


async def test_a_follower_sees_every_revision_while_transactions_stay_open(rooms: list[Room]) -> None:
    """Two writers hold their transactions open in turn; whoever asks for what is after n is never given a gap."""
    space = await rooms[0].make("notes")
    chance = random.Random(3)
    done = asyncio.Event()
    looked = asyncio.Condition()

    async def pause(_: object) -> None:
        """Hold the transaction open until the follower has looked a few times more."""
        for _each in range(chance.randrange(4)):
            async with looked:
                await asyncio.wait_for(looked.wait(), 60)

    async def write(room: Room) -> None:
        for _ in range(20):
            drafts = [Draft("x") for _ in range(chance.randrange(1, 5))]
            await room.store.create(space, drafts, ALICE, None, each=False, guard=pause)

    async def follow() -> list[int]:
        seen: list[int] = []
        while True:
            finished = done.is_set()
            found = await rooms[0].store.list_revisions(space, None, seen[-1] if seen else 0, 1000)
            seen += [each.revision for each in found]
            async with looked:
                looked.notify_all()
            if finished and not found:
                return seen

    follower = asyncio.create_task(follow())
    async with asyncio.TaskGroup() as writers:
        for room in rooms:
            writers.create_task(write(room))
    done.set()
    seen = await follower
    counted = await rooms[0].spaces.get_space(space.tenant, space.slug)
    assert seen == list(range(1, counted.revision + 1))
