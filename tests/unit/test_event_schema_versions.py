"""Which versions of schemas there are, from memory."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from mnemo_events.domain.schema_versions import SchemaVersions
from mnemocore.errors import StoreUnavailableError
from mnemocore.ids import Tenant
from mnemocore.testing.clock import ManualClock
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from collections.abc import Sequence

ACME, OTHER = Tenant("acme"), Tenant("other")
POLL_SECONDS = 5.0


class Store:
    """Implements `VersionStore` over a dictionary; counts who asks, and can hang or fail."""

    def __init__(self) -> None:
        self.uids_of = {("a", 1): 10, ("a", 2): 20}
        self.asked: list[Sequence[object]] = []
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.fails = False

    async def current(self, tenant: Tenant, types: Sequence[str]) -> dict[str, tuple[int, int]]:
        found = {type: (version, uid) for (type, version), uid in sorted(self.uids_of.items()) if type in types}
        await self._answer(types)
        return found if tenant == ACME else {}

    async def uids(self, tenant: Tenant, versions: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
        found = {key: self.uids_of[key] for key in versions if key in self.uids_of}
        await self._answer(versions)
        return found if tenant == ACME else {}

    async def _answer(self, asked: Sequence[object]) -> None:
        self.asked.append(asked)
        await self.goes_on.wait()
        if self.fails:
            raise StoreUnavailableError


class Room:
    """Versions over a store."""

    def __init__(self, **bounds: int) -> None:
        self.store = Store()
        self.clock = ManualClock()
        self.versions = SchemaVersions(self.store, self.clock, POLL_SECONDS, **bounds)

    async def current(self, *types: str, tenant: Tenant = ACME) -> dict[str, tuple[int, int]]:
        return await self.versions.current(tenant, types)


@pytest.fixture
async def room() -> Room:
    return Room()


async def test_the_store_is_asked_once_for_what_there_is_and_what_there_is_not(room: Room) -> None:
    for _ in range(3):
        assert await room.current("a", "b") == {"a": (2, 20)}
        assert await room.versions.uids(ACME, [("a", 1), ("a", 9)]) == {("a", 1): 10}
        assert await room.current("a", tenant=OTHER) == {}
    assert room.store.asked == [["a", "b"], [("a", 1), ("a", 9)], ["a"]]
    assert await room.current("a", "c") == {"a": (2, 20)}
    assert room.store.asked[3:] == [["c"]]
    assert await room.current() == {}
    assert len(room.store.asked) == 4


async def test_answers_count_until_the_next_look(room: Room) -> None:
    await room.current("a")
    await room.clock.advance(POLL_SECONDS / 2)
    await room.current("b")
    room.store.uids_of |= {("a", 3): 30, ("b", 1): 40}
    assert await room.current("a", "b") == {"a": (2, 20)}
    await room.clock.advance(POLL_SECONDS / 2)
    assert await room.current("a", "b") == {"a": (3, 30)}
    await room.clock.advance(POLL_SECONDS / 2)
    assert await room.current("a", "b") == {"a": (3, 30), "b": (1, 40)}


@pytest.mark.parametrize("forgotten", [ACME, None])
async def test_what_is_forgotten_is_asked_for_again(room: Room, forgotten: Tenant | None) -> None:
    await room.current("a")
    await room.versions.uids(ACME, [("a", 3)])
    room.store.uids_of |= {("a", 3): 30}
    room.versions.forget(OTHER)
    assert await room.current("a") == {"a": (2, 20)}
    room.versions.forget(forgotten)
    assert await room.current("a") == {"a": (3, 30)}
    assert await room.versions.uids(ACME, [("a", 3)]) == {("a", 3): 30}


async def test_what_is_read_while_it_changes_is_not_kept(room: Room) -> None:
    room.store.goes_on.clear()
    asking = asyncio.create_task(room.current("a"))
    await until(lambda: bool(room.store.asked))
    room.store.uids_of |= {("a", 3): 30}
    room.versions.forget(ACME)
    room.store.goes_on.set()
    assert await asking == {"a": (2, 20)}
    assert await room.current("a") == {"a": (3, 30)}


async def test_many_who_ask_at_once_ask_the_store_once(room: Room) -> None:
    answers = await asyncio.gather(*(room.current("a") for _ in range(20)))
    assert answers == [{"a": (2, 20)}] * 20
    assert room.store.asked == [["a"]]


async def test_a_failure_is_not_kept(room: Room) -> None:
    room.store.fails = True
    with pytest.raises(StoreUnavailableError):
        await room.current("a")
    room.store.fails = False
    assert await room.current("a") == {"a": (2, 20)}


async def test_so_many_answers_are_kept_and_no_more() -> None:
    room = Room(tenants=2, answers=3)
    assert await room.current("a", "b") == {"a": (2, 20)}
    assert await room.current("a", "c", "d") == {"a": (2, 20)}
    for tenant in ("one", "two"):
        await room.current("a", tenant=Tenant(tenant))
    room.store.asked.clear()
    assert await room.current("a") == {"a": (2, 20)}
    assert room.store.asked == [["a"]]
