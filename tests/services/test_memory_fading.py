"""Links that fade with the days on which a space is used, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.memory_room import ADA, Room, migrated, opened

from mnemo_memory.domain import hebbian
from mnemo_memory.domain.access import Access
from mnemo_memory.domain.associations import Associations, AssociationType, Link, LinkFilter, Strength
from mnemo_memory.domain.fading import ROUND_SECONDS, Faded, Fading
from mnemo_memory.domain.memory import Draft, Memory, Space
from mnemo_memory.domain.ports import Author, Kept
from mnemo_memory.storage.postgres_active_days import PostgresActiveDays
from mnemo_memory.storage.postgres_associations import PostgresAssociations
from mnemo_memory.storage.postgres_erasure import PostgresErasures
from mnemo_memory.storage.postgres_fading import PostgresFading
from mnemo_memory.storage.rewind import rewind
from mnemocore.errors import MnemoError, SpaceNotFoundError
from mnemocore.ids import new_uuid
from mnemocore.postgres.dump import dump, restore
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

    from mnemo_memory.domain.associations import Association
    from mnemocore.testing.postgres import TestPostgres

DAY = 86_400.0
FIRST = date(2026, 1, 1)
"""The day on which the clock of the tests stands."""
LEARNT = AssociationType.CO_RECALLED
STATED = [type for type in AssociationType if type is not LEARNT]


class Web:
    """A space with memories, the links between them, and the days on which it is used."""

    def __init__(self, room: Room, space: Space) -> None:
        self.room = room
        self.space = space
        store = PostgresAssociations(room.database, room.vault)
        self.associations = Associations(
            store, room.store, Access(room.spaces, room.shares, room.clock), room.clock, lambda: None
        )
        self.store = PostgresFading(room.database)
        self.fading = Fading(self.store, room.clock)

    async def keep(self, count: int) -> list[Memory]:
        author = Author("ada", self.room.clock.now())
        drafts = [Draft(f"memory {number}") for number in range(count)]
        created = await self.room.store.create(self.space, drafts, author, None, each=False)
        return [kept.memory for kept in created.outcomes if isinstance(kept, Kept)]

    async def link(
        self, source: Memory, target: Memory, weight: float | None = None, type: AssociationType = LEARNT
    ) -> Association:
        strength = Strength(weight) if weight else Strength(reinforce=True)
        link = Link(source.id, target.id, type)
        return (await self.associations.associate(ADA, self.space.slug, link, strength, None))[1]

    async def links(self) -> list[Association]:
        return (await self.associations.list_associations(ADA, self.space.slug, LinkFilter(), 1000, ""))[1]

    async def weights(self) -> list[float]:
        return [each.weight for each in await self.links()]

    async def use(self, days: Iterable[int]) -> None:
        """Note uses on days, counted from the first."""
        used = [(self.space.uid, FIRST + timedelta(days=day)) for day in days]
        await PostgresActiveDays(self.room.database).record(used)

    async def go_to(self, day: int) -> None:
        """Move the clock to the noon of a day."""
        noon = datetime(2026, 1, 1, 12, tzinfo=UTC) + timedelta(days=day)
        await self.room.clock.advance((noon - self.room.clock.now()).total_seconds())

    async def many_links(self, count: int) -> None:
        """Links of weight 0.8 between two memories each."""
        hub = await self.keep(count + 1)
        now = self.room.clock.now()
        await self.room.database.execute(
            "INSERT INTO memory.associations (space_uid, source, target, type, weight, created_at, updated_at, "
            "principal) "
            "SELECT $1, source, target, 9, 0.8, $4, $4, 'ada' FROM unnest($2::uuid[], $3::uuid[]) AS t(source, target)",
            UUID(self.space.uid),
            [UUID(each.id) for each in hub[:-1]],
            [UUID(each.id) for each in hub[1:]],
            now,
        )

    async def undone(self) -> int:
        """Active days that have not faded."""
        query = "SELECT count(*) FROM memory.active_days WHERE space_uid = $1 AND NOT faded"
        return int(await self.room.database.fetchval(query, UUID(self.space.uid)))


@pytest.fixture
async def room(postgres: TestPostgres) -> AsyncIterator[Room]:
    async with opened(postgres) as made:
        yield made


@pytest.fixture(params=[False, True], ids=["open", "encrypted"])
async def web(room: Room, request: pytest.FixtureRequest) -> Web:
    return Web(room, await room.make("notes", encrypted=request.param))


# The law


async def test_a_link_that_was_learnt_halves_in_thirty_active_days(web: Web) -> None:
    tea, cup = await web.keep(2)
    steps = [await web.link(tea, cup) for _ in range(3)]
    assert [each.weight for each in steps] == pytest.approx([0.3, 0.335, 0.36825])
    await web.use(range(31))
    await web.go_to(31)
    assert await web.fading.fade(web.space) == 1
    (faded,) = await web.links()
    assert faded.weight == pytest.approx(0.36825 / 2)
    assert (faded.activations, faded.updated_at, faded.created_at, faded.principal) == (
        3,
        steps[2].updated_at,
        steps[0].created_at,
        "ada",
    )
    again = await web.link(tea, cup)
    assert again.weight == pytest.approx(hebbian.reinforced(0.36825 / 2))


async def test_what_is_stated_does_not_fade(web: Web) -> None:
    tea, cup = await web.keep(2)
    for type in STATED:
        await web.link(tea, cup, 0.4, type)
    before = await web.links()
    await web.use(range(200))
    await web.go_to(200)
    assert await web.fading.fade(web.space) == 0
    assert await web.links() == before
    assert await web.undone() == 0


async def test_a_month_in_which_the_space_was_not_used_fades_nothing(web: Web) -> None:
    tea, cup = await web.keep(2)
    before = await web.link(tea, cup, 0.8)
    await web.use([0])
    await web.go_to(31)
    assert await web.fading.fade(web.space) == 0
    assert await web.links() == [before]


async def test_the_day_of_a_step_and_those_before_it_weaken_nothing_nor_does_today(web: Web) -> None:
    tea, cup = await web.keep(2)
    await web.use(range(11))
    await web.go_to(7)
    await web.link(tea, cup, 0.8)
    await web.go_to(10)
    assert await web.fading.fade(web.space) == 1
    assert await web.weights() == pytest.approx([hebbian.decayed(0.8, 2)])
    assert await web.undone() == 1
    await web.go_to(11)
    await web.fading.fade(web.space)
    assert await web.weights() == pytest.approx([hebbian.decayed(0.8, 3)])


async def test_a_link_that_has_become_too_weak_is_removed(web: Web) -> None:
    a, b, c = await web.keep(3)
    await web.link(a, b, 0.0501)
    await web.link(b, c, 0.06)
    await web.link(c, a, 0.04, AssociationType.RELATED)
    await web.use([1])
    await web.go_to(2)
    day = web.room.clock.now().date()
    assert await web.store.fade(web.space, day, 10) == Faded(weakened=1, pruned=1, more=False)
    assert await web.weights() == pytest.approx([hebbian.decayed(0.06, 1), 0.04])


async def test_every_day_weakens_once_however_often_the_keeper_comes(web: Web) -> None:
    tea, cup = await web.keep(2)
    await web.link(tea, cup, 0.8)
    await web.use([1, 2])
    await web.go_to(3)
    assert [await web.fading.fade(web.space) for _ in range(3)] == [1, 0, 0]
    assert await web.weights() == pytest.approx([hebbian.decayed(0.8, 2)])


DAYS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)
"""Of each day whether the space is used on it, and whether the keeper comes on the day after."""


@given(DAYS, st.floats(0.01, 1.0))
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
async def test_fading_in_one_go_is_fading_day_by_day(room: Room, days: list[tuple[bool, bool]], weight: float) -> None:
    """The database agrees with the law, whenever the keeper comes."""
    webs = [Web(room, await room.make(f"s{new_uuid(room.clock.now())}")) for _ in range(3)]
    start = (room.clock.now().date() - FIRST).days
    for web in webs:
        source, target = await web.keep(2)
        await web.link(source, target, weight)
    daily, now_and_then, late = webs
    for day, (used, comes) in enumerate(days, start + 1):
        for web in webs:
            await web.use([day] if used else [])
        await late.go_to(day + 1)
        await daily.fading.fade(daily.space)
        if comes:
            await now_and_then.fading.fade(now_and_then.space)
    await now_and_then.fading.fade(now_and_then.space)
    await late.fading.fade(late.space)
    active = sum(used for used, _ in days)
    faded = hebbian.decayed(weight, active)
    expected = [] if active and hebbian.is_pruned(faded) else [faded]
    assert [await web.weights() for web in webs] == [pytest.approx(expected)] * 3


# Slices, replicas, ends in between


async def test_slices_come_to_every_link_once(web: Web) -> None:
    await web.many_links(25)
    await web.use(range(1, 4))
    await web.go_to(4)
    day = web.room.clock.now().date()
    slices = [await web.store.fade(web.space, day, 10) for _ in range(4)]
    assert slices == [Faded(10, 0, True), Faded(10, 0, True), Faded(5, 0, False), Faded(0, 0, False)]
    assert await web.weights() == pytest.approx([hebbian.decayed(0.8, 3)] * 25)


async def test_a_day_that_comes_late_catches_up(web: Web) -> None:
    await web.many_links(25)
    await web.use([1, 3])
    await web.go_to(4)
    day = web.room.clock.now().date()
    await web.store.fade(web.space, day, 10)
    await web.use([2])  # another replica writes late
    await web.go_to(6)
    await web.use([5])
    while (await web.store.fade(web.space, web.room.clock.now().date(), 10)).more:
        pass
    assert await web.weights() == pytest.approx([hebbian.decayed(0.8, 4)] * 25)
    assert await web.undone() == 0


async def test_links_that_are_made_changed_and_removed_meanwhile(web: Web) -> None:
    await web.many_links(25)
    await web.use([1])
    await web.go_to(2)
    day = web.room.clock.now().date()
    await web.store.fade(web.space, day, 10)
    reached, *_, last = sorted(await web.links(), key=lambda each: (each.weight, each.link.source))
    fresh, other = await web.keep(2)
    await web.link(fresh, other, 0.9)
    for link in (reached.link, last.link):
        await web.associations.dissociate(ADA, "notes", link.source, link.target, None)
    while (await web.store.fade(web.space, day, 10)).more:
        pass
    assert await web.weights() == pytest.approx([0.9, *([hebbian.decayed(0.8, 1)] * 23)])


async def test_two_keepers_fade_what_one_would(web: Web) -> None:
    await web.many_links(60)
    await web.use(range(1, 6))
    await web.go_to(6)
    keepers = [Fading(PostgresFading(web.room.database), web.room.clock, slice=7) for _ in range(4)]
    done = await asyncio.gather(*(keeper.fade(web.space) for keeper in keepers))
    assert sum(done) == 60
    assert await web.weights() == pytest.approx([hebbian.decayed(0.8, 5)] * 60)


async def test_a_keeper_that_is_ended_in_between_loses_and_repeats_nothing(web: Web) -> None:
    await web.many_links(60)
    await web.use(range(1, 3))
    await web.go_to(3)
    day = web.room.clock.now().date()
    for turn in range(12):  # some end before, some in, some after a transaction
        running = asyncio.create_task(web.store.fade(web.space, day, 5))
        for _ in range(turn * 3):
            await asyncio.sleep(0)
        running.cancel()
        with suppress(asyncio.CancelledError, MnemoError):
            await running
    while (await web.store.fade(web.space, day, 5)).more:
        pass
    assert await web.weights() == pytest.approx([hebbian.decayed(0.8, 2)] * 60)


async def test_reinforcements_at_the_same_time_are_lost_neither_by_them_nor_by_fading(web: Web) -> None:
    a, b, c = await web.keep(3)
    await web.link(a, b, 0.8)
    await web.link(b, c, 0.8)
    await web.use([1])
    await web.go_to(2)
    await asyncio.gather(*(web.link(a, b) for _ in range(10)), web.fading.fade(web.space))
    reinforced, faded = await web.links()
    assert reinforced.activations == 11
    orders = []
    for before in range(11):
        weight = 0.8
        for step in range(10):
            weight = hebbian.reinforced(hebbian.decayed(weight, 1) if step == before == 0 else weight)
        orders.append(weight)
    assert any(reinforced.weight == pytest.approx(weight) for weight in orders)
    assert faded.weight == pytest.approx(hebbian.decayed(0.8, 1))


# The keeper


async def test_the_keeper_goes_through_all_spaces_and_rests_between_slices(room: Room) -> None:
    webs = [Web(room, await room.make(f"s{number}")) for number in range(5)]
    idle = Web(room, await room.make("idle"))
    for web in (*webs, idle):
        await web.many_links(2)
    for web in webs:
        await web.use([1])
    await webs[0].go_to(2)
    running = asyncio.create_task(webs[0].fading.run())

    async def all_done() -> bool:
        await room.clock.advance(1)
        return not any([await web.undone() for web in webs])

    await until(all_done)
    expected = [hebbian.decayed(0.8, 1)] * 2
    assert [await web.weights() for web in webs] == [pytest.approx(expected)] * 5
    assert await idle.weights() == [0.8, 0.8]
    await webs[3].use([2])
    await webs[0].go_to(3)
    await room.clock.advance(ROUND_SECONDS)
    await until(all_done)
    assert await webs[3].weights() == pytest.approx([hebbian.decayed(0.8, 2)] * 2)
    running.cancel()
    await asyncio.wait([running])


async def test_spaces_with_days_that_are_over_are_found_page_by_page(room: Room) -> None:
    webs = [Web(room, await room.make(f"s{number}")) for number in range(7)]
    for web in webs:
        await web.use([0, 1])
    await webs[0].go_to(1)
    await webs[3].fading.fade(webs[3].space)
    today, found, last = room.clock.now().date(), [], None
    while page := await webs[0].store.spaces_to_fade(today, last, 4):
        found += page
        last = page[-1].uid
    assert [each.uid for each in found] == sorted(web.space.uid for web in webs if web is not webs[3])


async def test_a_space_that_is_erased_meanwhile_ends_nothing(room: Room) -> None:
    web = Web(room, await room.make("notes"))
    await web.many_links(3)
    await web.use([1])
    await web.go_to(2)
    author = Author("ada", room.clock.now())
    await PostgresErasures(room.database).erase_space(web.space, new_uuid(author.at), author, "")
    assert await web.fading.fade(web.space) == 0
    with pytest.raises(SpaceNotFoundError):
        await web.store.fade(web.space, author.at.date(), 10)
    assert await web.store.spaces_to_fade(author.at.date(), None, 10) == []


# The table among the others


async def test_a_release_that_does_not_know_the_table_can_remove_a_space(room: Room) -> None:
    web = Web(room, await room.make("notes"))
    await web.use([0, 1])
    await room.database.execute("DELETE FROM memory.spaces WHERE uid = $1", UUID(web.space.uid))
    assert await web.undone() == 0


async def test_a_rewound_space_keeps_its_days_and_links(web: Web) -> None:
    tea, cup = await web.keep(2)
    await web.link(tea, cup, 0.8)
    await web.use([1, 2])
    await web.go_to(2)
    await web.fading.fade(web.space)
    await rewind(web.room.database, web.room.vault, web.space, 2, web.room.clock.now())
    assert await web.weights() == pytest.approx([hebbian.decayed(0.8, 1)])
    assert await web.undone() == 1


async def test_a_restored_backup_goes_on_where_the_saved_one_was(
    web: Web, postgres: TestPostgres, tmp_path: Path
) -> None:
    await web.many_links(25)
    await web.use([1, 2])
    await web.go_to(3)
    today = web.room.clock.now().date()
    await web.store.fade(web.space, today, 10)
    saved = await dump(web.room.database, tmp_path / "a.mbk", web.room.clock.now())
    assert saved.tables["memory.active_days"] == 2
    url = await postgres.create()
    restored = await postgres.open(url)
    await restore(restored, tmp_path / "a.mbk", {"memory": "mnemo_memory.storage.migrations"})
    store = PostgresFading(restored)
    assert [await store.fade(web.space, today, 10) for _ in range(2)] == [Faded(10, 0, True), Faded(5, 0, False)]
    weights = await restored.fetch("SELECT weight FROM memory.associations")
    assert [row["weight"] for row in weights] == pytest.approx([hebbian.decayed(0.8, 2)] * 25)
    await restored.close()
    await postgres.drop(url)


async def test_a_schema_of_the_release_before_becomes_one_of_this_with_its_links(postgres: TestPostgres) -> None:
    async with opened(postgres) as room:
        web = Web(room, await room.make("notes"))
        tea, cup = await web.keep(2)
        await web.link(tea, cup, 0.8)
        await room.database.execute(
            "DROP TABLE memory.active_days; DROP INDEX memory.associations_co_recalled; "
            "DELETE FROM memory.migrations WHERE number = 3"
        )
        await web.go_to(100)
        await migrated(room.database)
        assert await web.fading.fade(web.space) == 0
        await web.use([100])
        await web.go_to(101)
        assert await web.fading.fade(web.space) == 1
        assert await web.weights() == pytest.approx([hebbian.decayed(0.8, 1)])


async def test_what_stands_in_the_table_says_nothing_but_days(room: Room) -> None:
    web = Web(room, await room.make("notes", encrypted=True))
    await web.many_links(3)
    await web.use([1])
    columns = await room.database.fetch("SELECT to_json(d)::text AS row FROM memory.active_days d")
    assert [set(json.loads(row["row"])) for row in columns] == [
        {"space_uid", "day", "faded", "reached_at", "reached_source", "reached_target"}
    ]
