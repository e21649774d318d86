"""Erased spaces: nothing of them is left, here or in the event log, whoever is at work meanwhile."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import replace
from datetime import UTC
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from tests.event_bus import started
from tests.memory_house import ADA, BOB, EVE, PRIVATE, ROOT, House, opened

from mnemo_memory.api.space_service import SpaceServicer
from mnemo_memory.clients.event_log_client import SOURCE, SPACE_ERASED
from mnemo_memory.domain.associations import AssociationType, Link, Strength
from mnemo_memory.domain.erasure import RECEIPTS_A_ROUND, ErasureRelay
from mnemo_memory.domain.grants import NewGrant
from mnemo_memory.domain.media import MediaInput
from mnemo_memory.domain.memories import Edit, New
from mnemo_memory.domain.memory import Draft, Role
from mnemo_memory.domain.ports import Author, Request
from mnemo_memory.domain.relay import Relay
from mnemo_memory.domain.sessions import Checkpoint, Session
from mnemo_memory.domain.working_memory import WorkingItem
from mnemo_memory.storage.postgres_erasure import TABLES
from mnemo_memory.storage.postgres_sessions import PostgresSessions
from mnemo_memory.storage.postgres_working_memory import PostgresWorkingMemory
from mnemocore.calls import identity
from mnemocore.clock import SystemClock
from mnemocore.errors import (
    InvalidFieldError,
    MnemoError,
    PeerUnavailableError,
    RequestIdReusedError,
    RoleRequiredError,
    SpaceEtagMismatchError,
    SpaceNotEmptyError,
    SpaceNotFoundError,
)
from mnemocore.ids import new_uuid
from mnemocore.memory.v1 import space_service_pb2 as pb
from mnemocore.server import BackgroundTask
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from datetime import datetime

    from tests.event_bus import EventBus

    from mnemo_memory.domain.erasure import Receipt
    from mnemo_memory.domain.memory import Memory, Space
    from mnemo_memory.domain.ports import EventLog, Run
    from mnemocore.ids import SpaceUid, Tenant
    from mnemocore.testing.postgres import TestPostgres

CLOCK = SystemClock()
GRANT = NewGrant("eve", Role.READ, EVE.tenant)


@pytest.fixture
async def house(postgres: TestPostgres) -> AsyncIterator[House]:
    async with opened(postgres) as found:
        yield found


@pytest.fixture
async def bus(house: House) -> AsyncIterator[EventBus]:
    async with started(house.database, house.vault) as running:
        yield running


async def erase(house: House, slug: str = "notes", reason: str = "asked to") -> Receipt:
    return await house.erasures.erase(ROOT, slug, slug, "", reason)


def erasure_relay(house: House, log: EventLog, poll_seconds: float = 60.0) -> ErasureRelay:
    return ErasureRelay(house.erasure_store, log, CLOCK, poll_seconds)


def relay_of(house: House, log: EventLog, poll_seconds: float = 60.0) -> Relay:
    return Relay(house.space_store, house.store, log, CLOCK, poll_seconds, lambda _: None)


async def rows_of(house: House, uid: SpaceUid) -> dict[str, int]:
    """Rows of every table of the schema that name a space, by table; those that do are looked up in the catalogue."""
    tables = await house.database.fetch(
        "SELECT DISTINCT c.table_name FROM information_schema.columns c JOIN information_schema.tables t "
        "USING (table_schema, table_name) WHERE c.table_schema = 'memory' AND t.table_type = 'BASE TABLE' "
        "AND (c.column_name = 'space_uid' OR c.table_name = 'spaces')"
    )
    counts = {}
    for table in (row["table_name"] for row in tables):
        column = "uid" if table == "spaces" else "space_uid"
        counts[table] = await house.database.fetchval(
            f"SELECT count(*) FROM memory.{table} WHERE {column} = $1", UUID(uid)
        )
    return counts


async def fill(house: House, slug: str = "notes", *, encrypted: bool = False) -> tuple[Space, list[Memory]]:
    """A space with something in every table."""
    space = await house.make(slug, encrypted=encrypted)
    now = house.clock.now()
    author = Author("ada", now)
    request = Request(new_uuid(now), b"one")
    new = [New(Draft("the content of a", session="s")), New(Draft("b"), MediaInput(data=b"the content of a file"))]
    _, kept, _ = await house.memories.create(ADA, slug, new, request)
    first, second = [each.memory for each in kept]
    link = Link(first.id, second.id, AssociationType.RELATED)
    await house.associations.associate(ADA, slug, link, Strength(), None)
    await house.share(slug, EVE, tags=("x",))
    working = PostgresWorkingMemory(house.database, house.vault, house.store)
    item = WorkingItem(
        new_uuid(now), "butler", "s", Draft("in mind"), protected=False, accesses=1, created_at=now, expires_at=None
    )
    await working.push(space, item, 10, None)
    sessions = PostgresSessions(house.database, house.vault, house.store)
    await sessions.start(space, Session("s", "butler", {}, now), None)
    await sessions.create_checkpoint(space, Checkpoint(new_uuid(now), "s", "label", {"step": 1}, now), 5, None)
    await house.memories.archive(ADA, slug, first.id, Edit(reason=f"by {author.principal}"))
    await house.active_days.write()
    return space, [first, second]


# What is erased


async def test_every_table_with_rows_of_spaces_is_known(house: House) -> None:
    space = await house.make("notes")
    assert set(await rows_of(house, space.uid)) == {*TABLES, "spaces", "erasures"}


@pytest.mark.parametrize("encrypted", [False, True])
async def test_an_erased_space_leaves_no_row_in_any_table(house: House, encrypted: bool) -> None:
    space, _ = await fill(house, encrypted=encrypted)
    other, _ = await fill(house, "other", encrypted=encrypted)
    before, kept = await rows_of(house, space.uid), await rows_of(house, other.uid)
    unused = {"erasures"} if encrypted else {"erasures", "space_keys"}
    assert {table for table, count in before.items() if not count} == unused
    receipt = await erase(house)
    after = await rows_of(house, space.uid)
    assert after.pop("erasures") == 1
    assert not any(after.values()), after
    assert await rows_of(house, other.uid) == kept
    assert (receipt.memories, receipt.revisions, receipt.media, receipt.associations) == (2, 3, 1, 1)
    assert receipt.revision == 3
    assert house.removed == [space.uid]


async def test_a_receipt_says_who_when_and_why_and_nothing_else(house: House) -> None:
    space, memories = await fill(house)
    receipt = await erase(house)
    assert (receipt.tenant, receipt.space_uid, receipt.principal, receipt.reason) == (
        ROOT.tenant,
        space.uid,
        "root",
        "asked to",
    )
    assert (receipt.erased_at, receipt.log_erased_at) == (house.clock.now(), None)
    stored = str(await house.database.fetch("SELECT e::text FROM memory.erasures e"))
    for trace in ("notes", "content", *(memory.id for memory in memories)):
        assert trace not in stored


async def test_nothing_of_an_erased_space_is_found(house: House) -> None:
    space, (first, second) = await fill(house)
    await erase(house)
    for caller in (ADA, ROOT, EVE):
        for call in (
            house.spaces.get(caller, "notes"),
            house.memories.get_one(caller, "notes", first.id, at_once=True),
            house.stats.of(caller, "notes", 0),
            house.erasures.erase(caller, "notes", "notes", "", ""),
        ):
            with pytest.raises(SpaceNotFoundError):
                await call
    assert (await house.spaces.of_tenant(ADA, 0, ""))[0] == []
    assert (await house.grants.received(EVE, 0, ""))[0] == []
    assert await house.store.get(space, [first.id, second.id], house.clock.now()) == {}


async def test_the_name_is_free_at_once_and_the_new_space_never_sees_old_things(house: House) -> None:
    old, (first, _) = await fill(house)
    await erase(house)
    new, (again, _) = await fill(house)
    assert new.uid != old.uid
    assert (new.revision, again.created_revision) == (0, 1)
    with pytest.raises(MnemoError, match="does not exist"):
        await house.memories.get_one(ADA, "notes", first.id)
    with pytest.raises(SpaceNotFoundError):  # who entered the old space before does not reach the new one
        await house.store.create(old, [Draft("late")], Author("ada", house.clock.now()), None, each=False)
    assert (await house.spaces.get(ADA, "notes")).space.active == 1


async def test_requests_of_an_erased_space_are_forgotten(house: House) -> None:
    await house.make("notes")
    request = Request(new_uuid(house.clock.now()), b"one")
    await house.memories.create(ADA, "notes", [New(Draft("x"))], request)
    await house.make("other")
    with pytest.raises(RequestIdReusedError):
        await house.memories.create(ADA, "other", [New(Draft("x"))], replace(request, digest=b"two"))
    await erase(house)
    await house.memories.create(ADA, "other", [New(Draft("x"))], replace(request, digest=b"two"))


async def test_what_erasing_refuses(house: House) -> None:
    space, _ = await fill(house)
    with pytest.raises(InvalidFieldError, match="'other' is not the name of the space; allowed is 'notes'"):
        await house.erasures.erase(ROOT, "notes", "other", "", "")
    with pytest.raises(SpaceEtagMismatchError):
        await house.erasures.erase(ROOT, "notes", "notes", "stale", "")
    foreign_root = replace(EVE, scopes=ROOT.scopes)
    with pytest.raises(RoleRequiredError):
        await house.erasures.erase(foreign_root, "notes", "notes", "", "")
    await house.make("diary", policy=PRIVATE)
    with pytest.raises(SpaceNotFoundError):
        await house.erasures.erase(BOB, "diary", "diary", "", "")
    assert (await house.erasures.receipts(ROOT, 0, ""))[0] == []
    assert (await house.erasures.erase(ROOT, "notes", "notes", space.etag, "")).space_uid == space.uid


async def test_an_encrypted_space_is_erased_without_its_keys(house: House) -> None:
    space, _ = await fill(house, encrypted=True)
    await house.database.execute("UPDATE memory.space_keys SET master_key_id = 'lost'")
    house.vault.forget(space.uid)
    assert (await erase(house)).memories == 2


async def test_receipts_are_listed_newest_first_page_by_page(house: House) -> None:
    made = []
    for number in range(5):
        await house.make(f"space-{number}")
        made.append(await erase(house, f"space-{number}", str(number)))
    await house.make("theirs", EVE)
    await house.erasures.erase(replace(EVE, scopes=ROOT.scopes), "theirs", "theirs", "", "")
    for size in (0, 1, 2, 5):
        found, token = await house.erasures.receipts(ROOT, size, "")
        while token:
            more, token = await house.erasures.receipts(ROOT, size, token)
            found += more
        assert found == made[::-1]


# Deleting empty spaces


async def test_only_an_empty_space_is_deleted(house: House) -> None:
    await house.make("notes")
    (memory,) = await house.keep("notes", Draft("x"))
    await house.memories.archive(ADA, "notes", memory.id, Edit())
    with pytest.raises(SpaceNotEmptyError):
        await house.erasures.delete(ADA, "notes")
    await house.memories.erase(ADA, "notes", memory.id, Edit())
    space = (await house.spaces.get(ADA, "notes")).space
    await house.share("notes", EVE, Role.WRITE)
    with pytest.raises(RoleRequiredError):
        await house.erasures.delete(EVE, "notes")
    await house.erasures.delete(ADA, "notes")
    after = await rows_of(house, space.uid)
    assert after.pop("erasures") == 1, "the log has heard of the space"
    assert not any(after.values())
    with pytest.raises(SpaceNotFoundError):
        await house.erasures.delete(ADA, "notes")


async def test_a_space_that_never_held_anything_is_deleted_without_a_receipt(house: House) -> None:
    space = await house.make("notes", encrypted=True)
    await house.share("notes", EVE)
    await house.erasures.delete(ADA, "notes")
    assert not any((await rows_of(house, space.uid)).values())
    assert (await house.erasures.receipts(ROOT, 0, ""))[0] == []


async def test_sessions_and_what_is_in_mind_are_something(house: House) -> None:
    space = await house.make("notes")
    now = house.clock.now()
    sessions = PostgresSessions(house.database, house.vault, house.store)
    await sessions.start(space, Session("s", "butler", {}, now), None)
    with pytest.raises(SpaceNotEmptyError):
        await house.erasures.delete(ADA, "notes")


# Beside writers


@pytest.mark.parametrize("encrypted", [False, True])
async def test_concurrent_writers_are_told_and_nothing_of_them_stays(house: House, encrypted: bool) -> None:
    space, (first, second) = await fill(house, encrypted=encrypted)
    refused, written = [], 0
    ready = asyncio.Event()

    async def write(number: int) -> None:
        nonlocal written
        chance = random.Random(number)
        while True:
            try:
                match chance.randrange(5):
                    case 4:
                        new = New(Draft(f"{number}"), MediaInput(data=b"text in a file"))
                        await house.memories.create_one(ADA, "notes", new, None)
                    case 0:
                        await house.keep("notes", Draft(f"{number}"))
                    case 1:
                        await house.memories.record_feedback(ADA, "notes", second.id, True, 1.0, Edit())
                    case 2:
                        strength = Strength(weight=chance.random() or 1.0)
                        link = Link(second.id, first.id, AssociationType.SUPPORTS)
                        await house.associations.associate(ADA, "notes", link, strength, None)
                    case _:
                        await house.grants.create(ADA, "notes", GRANT, None)
            except MnemoError as error:
                refused.append(error)
                return
            written += 1
            if written > 30:
                ready.set()

    async def change_keys() -> None:
        with suppress(SpaceNotFoundError):
            while True:
                await house.rotation.rotate(space, Author("root", house.clock.now()))

    async with asyncio.TaskGroup() as writers:
        for number in range(8):
            writers.create_task(write(number))
        if encrypted:
            writers.create_task(change_keys())
        await ready.wait()
        receipt = await erase(house)
        house.vault.forget(space.uid)
    assert {type(error) for error in refused} <= {SpaceNotFoundError}, refused
    assert len(refused) == 8
    after = await rows_of(house, space.uid)
    assert after.pop("erasures") == 1
    assert not any(after.values()), after
    assert receipt.memories > 2


async def test_a_writer_with_locks_of_its_own_comes_first(house: House) -> None:
    """It holds the key of the space and comes to wait for the space, which the erasure has locked: neither is ended."""
    space, _ = await fill(house, encrypted=True)
    uid = UUID(space.uid)
    async with house.database.transaction() as writer:
        await writer.execute("SELECT FROM memory.space_keys WHERE space_uid = $1 FOR KEY SHARE", uid)
        erasing = asyncio.create_task(erase(house))
        await until(partial(is_locked, house, space))
        await writer.execute(
            "INSERT INTO memory.media (space_uid, id, mime_type, size, sha256, created_at) "
            "VALUES ($1, $2, 'text/plain', 0, '', $3)",
            uid,
            UUID(new_uuid(house.clock.now())),
            house.clock.now(),
        )
        assert not erasing.done()
    receipt = await erasing
    assert receipt.media == 2
    assert not any(count for table, count in (await rows_of(house, space.uid)).items() if table != "erasures")


async def is_locked(house: House, space: Space) -> bool:
    found = await house.database.fetch(
        "SELECT FROM memory.spaces WHERE uid = $1 FOR KEY SHARE SKIP LOCKED", UUID(space.uid)
    )
    return found == []


async def test_of_many_who_erase_at_once_one_does(house: House) -> None:
    await fill(house)
    outcomes = await asyncio.gather(*[erase(house) for _ in range(6)], return_exceptions=True)
    assert sum(isinstance(outcome, SpaceNotFoundError) for outcome in outcomes) == 5
    assert len((await house.erasures.receipts(ROOT, 0, ""))[0]) == 1


# The event log


async def assert_only_the_end_is_left(bus: EventBus, space: Space, receipt: Receipt) -> None:
    (event,) = await bus.of(space)
    assert (event.id, event.source, event.type) == (f"{space.uid}:erased", SOURCE, SPACE_ERASED)
    assert (event.subject, event.data, event.tenant) == (f"spaces/{space.uid}", b"", space.tenant)
    assert event.revision == receipt.revision + 1
    assert event.time == receipt.erased_at.astimezone(UTC)


async def test_the_log_keeps_the_end_of_the_space_and_nothing_else(house: House, bus: EventBus) -> None:
    space, _ = await fill(house)
    other, _ = await fill(house, "other")
    await relay_of(house, bus.client).publish_pending()
    receipt = await erase(house)
    relay = erasure_relay(house, bus.client)
    assert [await relay.tell_pending() for _ in range(2)] == [1, 0]
    await assert_only_the_end_is_left(bus, space, receipt)
    assert len(await bus.of(other)) == 3
    (confirmed,), _ = await house.erasures.receipts(ROOT, 0, "")
    assert confirmed.log_erased_at is not None


async def test_a_space_the_log_never_heard_of(house: House, bus: EventBus) -> None:
    space, _ = await fill(house)
    receipt = await erase(house)
    await relay_of(house, bus.client).publish_pending()
    assert await bus.of(space) == []
    await erasure_relay(house, bus.client).tell_pending()
    await assert_only_the_end_is_left(bus, space, receipt)


class SlowLog:
    """Passes on to a real log what a relay read, when it is told to."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.has_read = asyncio.Event()
        self.may_publish = asyncio.Event()

    async def publish(self, runs: Sequence[Run]) -> None:
        self.has_read.set()
        await self.may_publish.wait()
        await self._log.publish(runs)

    async def redact(self, space: Space, revisions: Sequence[int]) -> None:
        await self._log.redact(space, revisions)

    async def erase(self, tenant: Tenant, space_uid: SpaceUid, revision: int, at: datetime) -> None:
        await self._log.erase(tenant, space_uid, revision, at)


@pytest.mark.parametrize("moment", ["before the log is told", "after the log was told"])
async def test_a_relay_that_read_before_the_erasure_and_publishes_late(
    house: House, bus: EventBus, moment: str
) -> None:
    space, _ = await fill(house)
    slow = SlowLog(bus.client)
    stalled = asyncio.create_task(relay_of(house, slow).publish_pending())
    await slow.has_read.wait()
    receipt = await erase(house)
    if moment == "before the log is told":
        slow.may_publish.set()
        await stalled
        assert len(await bus.of(space)) == 3
    await erasure_relay(house, bus.client).tell_pending()
    slow.may_publish.set()
    await stalled
    await assert_only_the_end_is_left(bus, space, receipt)


class UnreliableLog(SlowLog):
    """Passes on to a real log; at random fails before, or after it has done it."""

    def __init__(self, log: EventLog, chance: random.Random) -> None:
        super().__init__(log)
        self.may_publish.set()
        self._chance = chance

    async def erase(self, tenant: Tenant, space_uid: SpaceUid, revision: int, at: datetime) -> None:
        self._fail()
        await super().erase(tenant, space_uid, revision, at)
        self._fail()

    def _fail(self) -> None:
        if self._chance.random() < 0.3:
            raise PeerUnavailableError(target="events")


@pytest.mark.parametrize("seed", [1, 2])
async def test_whatever_fails_and_whoever_writes_the_end_is_the_end(house: House, bus: EventBus, seed: int) -> None:
    """Writers, two relays and two tellers at work, calls that fail, and spaces that are erased and made anew."""
    chance = random.Random(seed)
    log = UnreliableLog(bus.client, chance)
    workers: list[Relay | ErasureRelay] = [relay_of(house, log, 0.005) for _ in range(2)]
    workers += [erasure_relay(house, log, 0.005) for _ in range(2)]
    erased: list[tuple[Space, Receipt]] = []

    async def live(slug: str) -> None:
        for _ in range(3):
            space = await house.make(slug)

            async def write(space: Space = space) -> None:
                with suppress(SpaceNotFoundError):
                    while True:
                        now = house.clock.now()
                        await house.store.create(space, [Draft("x")], Author("ada", now), None, each=False)

            async with asyncio.TaskGroup() as group:
                for _ in range(2):
                    group.create_task(write())
                await until(partial(published, house, space, chance_of(slug)))
                erased.append((space, await erase(house, slug)))

    async def work(worker: Relay | ErasureRelay) -> None:
        while True:
            with suppress(PeerUnavailableError):
                await worker.run()

    tasks = [asyncio.create_task(work(worker)) for worker in workers]
    async with asyncio.TaskGroup() as lives:
        for number in range(3):
            lives.create_task(live(f"space-{number}"))
    await until(lambda: confirmed(house))
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    for space, receipt in erased:
        await assert_only_the_end_is_left(bus, space, receipt)
    assert await house.space_store.unpublished(10) == []


def chance_of(slug: str) -> int:
    """How many revisions a space is to have in the log before it is erased: none, some, more."""
    return 4 * int(slug[-1])


async def published(house: House, space: Space, revisions: int) -> bool:
    found = (await house.spaces.get(ADA, space.slug)).space
    return found.published_revision >= revisions


async def confirmed(house: House) -> bool:
    return await house.erasure_store.unconfirmed(1) == []


async def test_many_erasures_take_several_rounds(house: House, bus: EventBus) -> None:
    for number in range(RECEIPTS_A_ROUND + 2):
        await house.make(f"space-{number}")
        await erase(house, f"space-{number}")
    relay = erasure_relay(house, bus.client)
    assert [await relay.tell_pending() for _ in range(3)] == [RECEIPTS_A_ROUND, 2, 0]


async def test_the_log_is_told_as_soon_as_somebody_says_so_and_the_room_given_back(house: House, bus: EventBus) -> None:
    space, _ = await fill(house)
    relay = erasure_relay(house, bus.client)
    tasks = [BackgroundTask("erasures", relay.run), BackgroundTask("reclaiming", relay.reclaim)]
    for task in tasks:
        await task.start()
    await erase(house)
    relay.wake()
    await until(lambda: confirmed(house))

    async def vacuumed() -> bool:
        await house.database.execute("SELECT pg_stat_force_next_flush(), pg_stat_clear_snapshot()")
        return bool(
            await house.database.fetchval(
                "SELECT vacuum_count > 0 FROM pg_stat_user_tables WHERE schemaname = 'memory' AND relname = 'memories'"
            )
        )

    await until(vacuumed)
    for task in tasks:
        await task.stop()
    assert not any(task.failures for task in tasks)
    assert len(await bus.of(space)) == 1


# The wire


async def test_erasing_over_the_wire(house: House) -> None:
    servicer: Any = SpaceServicer(house.spaces, house.stats, house.erasures)
    await fill(house)
    token = identity.set(ROOT)
    request = pb.EraseSpaceRequest(name="spaces/notes", confirm="notes", reason="asked to")
    receipt = (await servicer.EraseSpace(request, None)).receipt
    assert (receipt.memories, receipt.revisions, receipt.media, receipt.associations) == (2, 3, 1, 1)
    assert not receipt.HasField("log_erase_time")
    assert list((await servicer.ListErasures(pb.ListErasuresRequest(), None)).receipts) == [receipt]
    await house.make("empty")
    await servicer.DeleteSpace(pb.DeleteSpaceRequest(name="spaces/empty"), None)
    identity.reset(token)
