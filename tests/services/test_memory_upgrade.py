"""What memory-core does about rows and replicas of release 0.1."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from tests.memory_room import Room, opened

from mnemo_memory.domain.memory import Draft
from mnemo_memory.domain.ports import Author, Kept
from mnemo_memory.domain.tiers import UPGRADING, TierKeeper
from mnemo_memory.storage import outdated_rows
from mnemo_memory.storage.outdated_rows import OutdatedRows
from mnemo_memory.storage.postgres_tiers import PostgresTiers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mnemo_memory.domain.memory import Space
    from mnemocore.testing.postgres import TestPostgres

COLUMNS = "SELECT id, content_hash, bytes, words::text FROM memory.memories ORDER BY id"


@pytest.fixture
async def room(postgres: TestPostgres) -> AsyncIterator[Room]:
    async with opened(postgres) as it:
        yield it


async def keep(room: Room, space: Space, count: int) -> None:
    author = Author("ada", room.clock.now())
    drafts = [Draft(f"bottle {number} on the wall") for number in range(count)]
    created = await room.store.create(space, drafts, author, None, each=False)
    assert all(isinstance(outcome, Kept) for outcome in created.outcomes)


async def make_old(room: Room, space: Space) -> None:
    """Leave the rows of a space as release 0.1 would have written them."""
    await room.database.execute(
        "UPDATE memory.memories SET content_hash = NULL, bytes = 0, words = NULL WHERE space_uid = $1", space.uid
    )
    await room.database.execute("UPDATE memory.spaces SET bytes = 0 WHERE uid = $1", space.uid)


async def test_old_rows_become_what_this_release_writes(room: Room) -> None:
    spaces = [await room.make(slug) for slug in ("one", "two")]
    sealed = await room.make("sealed", encrypted=True)
    await keep(room, spaces[0], outdated_rows.BATCH + 20)
    await keep(room, spaces[1], 3)
    await keep(room, sealed, 1)
    before = await room.database.fetch(COLUMNS)
    sizes = await room.database.fetch("SELECT bytes FROM memory.spaces ORDER BY slug")
    for space in spaces:
        await make_old(room, space)
    outdated = OutdatedRows(room.database, room.clock)
    updated = [await outdated.update() for _ in range(4)]
    assert sorted(updated) == [0, 3, 20, outdated_rows.BATCH]
    assert await room.database.fetch(COLUMNS) == before
    assert await room.database.fetch("SELECT bytes FROM memory.spaces ORDER BY slug") == sizes


async def test_tiers_rest_for_a_day_after_an_upgrade(room: Room) -> None:
    space = await room.make("one")
    await keep(room, space, 1)
    tiers = PostgresTiers(room.database)
    assert await tiers.upgraded_at() is None
    upgraded_at = room.clock.now()
    await room.database.execute("UPDATE memory.migrations SET applied_at = $1 WHERE number > 1", upgraded_at)
    await room.database.execute(
        "UPDATE memory.migrations SET applied_at = $1 WHERE number = 1", upgraded_at - timedelta(days=90)
    )
    assert await tiers.upgraded_at() == upgraded_at
    await room.database.execute(
        "UPDATE memory.memories SET created_at = $1, updated_at = $1", upgraded_at - timedelta(days=900)
    )
    moved = asyncio.Event()
    running = asyncio.create_task(TierKeeper(tiers, room.clock, lambda *_: moved.set()).run())
    await room.clock.advance((UPGRADING - timedelta(minutes=1)).total_seconds())
    assert not moved.is_set()
    await room.clock.advance(120)
    await asyncio.wait_for(moved.wait(), 60)
    running.cancel()
    await asyncio.wait([running])
    assert await room.database.fetchval("SELECT tier FROM memory.memories") == 3
