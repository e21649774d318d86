"""Exports and imports on the real store and over real servers."""

from __future__ import annotations

import hashlib
import tracemalloc
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mnemo_memory.api.transfer_service import _checked, _from_page
from mnemo_memory.domain.access import Access, Share
from mnemo_memory.domain.associations import Association, AssociationType, Link, Strength
from mnemo_memory.domain.media import PART_BYTES
from mnemo_memory.domain.memory import (
    Change,
    Draft,
    Filter,
    Kind,
    Limits,
    Media,
    Memory,
    Modality,
    Origin,
    Policy,
    Provenance,
    Role,
    Space,
    State,
    Tier,
)
from mnemo_memory.domain.ports import Author
from mnemo_memory.domain.sessions import Session
from mnemo_memory.domain.transfer import MediaPart, OnConflict, Outcome, Selection, Transfer
from mnemo_memory.storage.postgres_associations import PostgresAssociations
from mnemo_memory.storage.postgres_media import PostgresMedia
from mnemo_memory.storage.postgres_sessions import PostgresSessions
from mnemo_memory.storage.postgres_spaces import PostgresSpaces
from mnemo_memory.storage.postgres_store import PostgresStore
from mnemo_memory.storage.postgres_transfer import PostgresTransfer
from mnemo_memory.storage.postgres_vault import PostgresVault
from mnemocore.calls import Identity
from mnemocore.errors import (
    InvalidFieldError,
    MediaNotFoundError,
    MemoryExistsError,
    MemoryNotFoundError,
    MnemoError,
    PageTokenMismatchError,
    QuotaExceededError,
    RoleRequiredError,
    SessionExistsError,
    SpaceNotFoundError,
    StoreFullError,
)
from mnemocore.ids import MemoryId, SpaceUid, Tenant, new_uuid
from mnemocore.master_keys import FixedMasterKeys
from mnemocore.memory.v1 import transfer_service_pb2 as pb
from mnemocore.postgres import migrate
from mnemocore.sealing import MasterKey, MasterKeys
from mnemocore.testing.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnemo_memory.domain.transfer import Record
    from mnemocore.postgres import Database

ADA = Identity(Tenant("acme"), "ada", frozenset({"*"}))
EVE = Identity(Tenant("globex"), "eve", frozenset({"*"}))
ALL = Selection()
HISTORY = Selection(history=True)
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x02\0\0\0\x02\x08\x02\0\0\0" + bytes(4)


class Lent:
    """Implements the port to shares: the spaces it was told of."""

    def __init__(self) -> None:
        self.shares: dict[str, Share] = {}

    async def find(self, tenant: Tenant, principal: str, slug: str, now: datetime) -> Share | None:
        return self.shares.get(f"{tenant}/{principal}/{slug}")


class Room:
    """Exports and imports of memory-core, with the stores of what they carry."""

    def __init__(self, database: Database) -> None:
        vault = PostgresVault(database, FixedMasterKeys(MasterKeys([MasterKey("master", bytes(32))])))
        self.database = database
        self.clock = ManualClock()
        self.full = False
        self.woken = 0
        self.changed: list[MemoryId] = []
        self.lent = Lent()
        self.store = PostgresStore(database, vault)
        self.spaces = PostgresSpaces(database, vault)
        self.media = PostgresMedia(database, vault)
        self.links = PostgresAssociations(database, vault)
        self.sessions = PostgresSessions(database, vault, self.store)
        access = Access(self.spaces, self.lent, self.clock)
        self.transfer = Transfer(
            PostgresTransfer(database, vault),
            self.media,
            access,
            self.clock,
            self._wake,
            lambda uid, ids: self.changed.extend(ids),
            self._check_room,
        )

    def _wake(self) -> None:
        self.woken += 1

    def _check_room(self) -> None:
        if self.full:
            raise StoreFullError

    async def make_space(self, slug: str, *, encrypted: bool = False, max_bytes: int = 0) -> Space:
        now = self.clock.now()
        policy = Policy(limits=Limits(max_bytes=max_bytes))
        space = Space(SpaceUid(new_uuid(now)), ADA.tenant, slug, "", 0, 0, 0, 0, now, "ada", policy, 0, encrypted)
        return await self.spaces.create_space(space, None)

    async def space(self, slug: str) -> Space:
        return await self.spaces.get_space(ADA.tenant, slug)

    async def keep(self, slug: str, *drafts: Draft) -> list[Memory]:
        created = await self.store.create(await self.space(slug), list(drafts), self.author(), None, each=False)
        return [outcome.memory for outcome in created.outcomes if not isinstance(outcome, MnemoError)]

    async def alter(self, slug: str, memory: Memory, change: Change = Change.UPDATED, **fields: Any) -> Memory:
        await self.clock.advance(1)
        written = await self.store.mutate(
            await self.space(slug), memory.id, "", change, lambda old: replace(old, **fields), self.author(), None
        )
        return written.memories[0]

    def author(self) -> Author:
        return Author("ada", self.clock.now(), "because")

    async def upload(self, slug: str, data: bytes) -> Media:
        media = Media(new_uuid(self.clock.now()), "image/png", len(data), hashlib.sha256(data).hexdigest())
        parts = [data[start : start + PART_BYTES] for start in range(0, len(data), PART_BYTES)]
        await self.media.put(await self.space(slug), media, parts, self.clock.now())
        return media

    async def out(
        self, slug: str, selection: Selection = ALL, *, caller: Identity = ADA, position: str = ""
    ) -> list[pb.TransferRecord]:
        """The records of an export, as they go over the wire."""
        found: list[pb.TransferRecord] = []
        async with aclosing(self.transfer.export(caller, slug, selection, position)) as pages:
            async for space, page in pages:
                found += _from_page(space, page).records
        return found

    async def into(
        self, slug: str, records: Sequence[pb.TransferRecord], mode: OnConflict = OnConflict.SKIP, size: int = 7
    ) -> list[Outcome | MnemoError]:
        """What becomes of records that come over the wire, a few a batch."""
        outcomes: list[Outcome | MnemoError] = []
        for start in range(0, len(records), size):
            batch = [_checked(record, "records") for record in records[start : start + size]]
            outcomes += await self.transfer.write(ADA, slug, batch, mode)
        return outcomes


@pytest.fixture
async def room(database: Database) -> Room:
    await migrate(database, "mnemo_memory.storage.migrations", schema="memory")
    opened = Room(database)
    await opened.store.open()
    return opened


def essence(records: Sequence[pb.TransferRecord], slug: str, *, numbers: bool = False) -> list[pb.TransferRecord]:
    """Records without what differs between two spaces: their names, and unless `numbers` those of revisions."""
    found = []
    for record in records:
        text = record.SerializeToString().replace(f"spaces/{slug}/".encode(), f"spaces/{'_' * len(slug)}/".encode())
        same = pb.TransferRecord.FromString(text)
        if not numbers:
            for memory in (same.memory, same.revision.memory):
                memory.ClearField("revision")
                memory.ClearField("etag")
            same.revision.ClearField("revision")
        found.append(same)
    return found


async def furnish(room: Room, slug: str) -> None:
    """A space with something of everything."""
    now = room.clock.now()
    picture = await room.upload(slug, PNG + bytes(PART_BYTES))
    odd = Draft(
        "🦊 '; DROP TABLE \u202e naïve",
        kind=Kind.FACT,
        metadata={"a": {"b": [1, 2.5, None, True]}},
        tags=("x", "y"),
        actor="Ada",
        session="s1",
        occurred_at=datetime(1, 1, 1, tzinfo=UTC),
        importance=0.0,
        confidence=0.0,
        valid_from=datetime(2020, 1, 1, tzinfo=UTC),
        valid_to=datetime(2021, 1, 1, tzinfo=UTC),
        provenance=Provenance(Origin.TOOL, ("http://a", "b"), "bot"),
        protected=True,
    )
    drafts = [odd, *[Draft(f"memory {number}", session="s1") for number in range(12)]]
    drafts.append(Draft("short-lived", expires_at=now + timedelta(seconds=5)))
    drafts.append(Draft("seen", modality=Modality.IMAGE, media=picture))
    kept = await room.keep(slug, *drafts)
    await room.alter(slug, kept[1], Change.ARCHIVED, archived_at=room.clock.now() + timedelta(seconds=1))
    await room.alter(slug, kept[2], Change.FEEDBACK, alpha=2.5, beta=1.25)
    await room.alter(slug, kept[2], content="changed", tags=("new",))
    space = await room.space(slug)
    await room.store.supersede(
        space, kept[3].id, "", Draft("newer"), lambda old, draft: (old, draft), room.author(), None
    )
    await room.store.count_uses(space.uid, {kept[4].id: (5, room.clock.now())})
    for source, target in ((0, 1), (1, 2)):
        link = Link(kept[source].id, kept[target].id, AssociationType.SUPPORTS)
        await room.links.put(space, link, Strength(0.7), room.author(), None)
    await room.sessions.start(space, Session("s1", "agent", {"a": "é"}, room.clock.now()), None)
    await room.sessions.start(space, Session("s2", "", {}, room.clock.now()), None)
    await room.sessions.end(space, "s2", room.clock.now())
    await room.clock.advance(60)


CASES = [(a, b, history) for a in (False, True) for b in (False, True) for history in (False, True)]


@pytest.mark.parametrize(("sealed_from", "sealed_to", "history"), CASES)
async def test_what_goes_out_comes_in(room: Room, sealed_from: bool, sealed_to: bool, history: bool) -> None:
    await room.make_space("one", encrypted=sealed_from)
    await room.make_space("two", encrypted=sealed_to)
    await furnish(room, "one")
    selection = Selection(history=history, media=True)
    records = await room.out("one", selection)
    outcomes = await room.into("two", records)
    assert set(outcomes) == {Outcome.WRITTEN}
    again = await room.out("two", selection)
    assert essence(again, "two", numbers=history) == essence(records, "one", numbers=history)
    one, two = await room.space("one"), await room.space("two")
    assert (one.active, one.archived, one.bytes, one.media_bytes) == (
        two.active,
        two.archived,
        two.bytes,
        two.media_bytes,
    )
    assert room.woken
    # Once more changes nothing.
    assert set(await room.into("two", records, size=11)) == {Outcome.SKIPPED}
    assert await room.space("two") == two
    if history:
        assert two.revision == one.revision
        assert essence(await room.out("two"), "two") == essence(await room.out("one"), "one")
    if sealed_to:
        rows = await room.database.fetch(
            "SELECT m.content, m.media::text FROM memory.memories m WHERE space_uid = $1", two.uid
        )
        assert {(row["content"], row["media"]) for row in rows} == {("", None)}


text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
FIRST = datetime(1, 1, 1)  # noqa: DTZ001  (hypothesis adds the zone)
times = st.datetimes(FIRST, FIRST.replace(9999, 12, 30), timezones=st.just(UTC))
drafts = st.builds(
    Draft,
    content=text,
    kind=st.sampled_from(Kind),
    metadata=st.dictionaries(text, st.none() | st.booleans() | text | st.integers(-1000, 1000), max_size=3),
    tags=st.lists(text, max_size=3, unique=True).map(tuple),
    actor=st.just("") | text,
    session=st.just("") | text,
    occurred_at=st.none() | times,
    importance=st.floats(0, 1),
    confidence=st.floats(0, 1),
    modality=st.sampled_from(Modality),
    valid_from=st.none() | st.just(datetime(2000, 1, 1, tzinfo=UTC)),
    valid_to=st.none() | st.just(datetime(2001, 1, 1, tzinfo=UTC)),
    expires_at=st.none() | times,
    provenance=st.just(Provenance()) | st.builds(Provenance, st.sampled_from(Origin), st.just(("s",)), text),
    protected=st.booleans(),
)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    written=st.lists(drafts, min_size=1, max_size=6),
    archived=st.sets(st.integers(0, 5)),
    encrypted=st.booleans(),
    history=st.booleans(),
)
async def test_any_memory_goes_out_and_comes_in(
    room: Room, written: list[Draft], archived: set[int], encrypted: bool, history: bool
) -> None:
    one, two = f"a{new_uuid(room.clock.now())}", f"b{new_uuid(room.clock.now())}"
    await room.make_space(one, encrypted=encrypted)
    await room.make_space(two, encrypted=not encrypted)
    kept = await room.keep(one, *written)
    for number in archived:
        if number < len(kept):
            now = room.clock.now() + timedelta(seconds=1)
            await room.alter(one, kept[number], Change.ARCHIVED, archived_at=now)
    records = await room.out(one, Selection(history=history))
    assert set(await room.into(two, records, size=3)) == {Outcome.WRITTEN}
    assert essence(await room.out(two, Selection(history=history)), two) == essence(records, one)


async def test_an_export_shows_the_moment_it_began(room: Room) -> None:
    await room.make_space("one")
    big = Draft("x" * 90_000)
    kept = await room.keep("one", *[replace(big, tags=(f"t{number}",)) for number in range(40)])
    before = await room.out("one")
    seen: list[pb.TransferRecord] = []
    async with aclosing(room.transfer.export(ADA, "one", ALL, "")) as pages:
        async for space, page in pages:
            if not seen:
                await room.alter("one", kept[-1], content="changed")
                await room.alter("one", kept[-2], Change.ARCHIVED, archived_at=room.clock.now())
                await room.keep("one", Draft("new"))
                await room.store.erase(await room.space("one"), kept[-3].id, "", room.author(), None)
            seen += _from_page(space, page).records
            assert (page.total, page.revision) == (40, 40)
    assert seen == [record for record in before if not record.memory.name.endswith(kept[-3].id)]


@pytest.mark.parametrize("history", [False, True])
async def test_a_broken_export_goes_on_at_any_part(room: Room, history: bool) -> None:
    await room.make_space("one")
    await room.keep("one", *[Draft("y" * 60_000) for _ in range(40)])
    await furnish(room, "one")
    selection = Selection(history=history, media=True)
    parts = []
    async with aclosing(room.transfer.export(ADA, "one", selection, "")) as pages:
        async for space, page in pages:
            parts.append((_from_page(space, page).records, page.position))
    whole = [record for records, _ in parts for record in records]
    for number, (_, position) in enumerate(parts):
        rest = [record for records, _ in parts[: number + 1] for record in records]
        assert rest + await room.out("one", selection, position=position) == whole
    with pytest.raises(PageTokenMismatchError):
        await room.out("one", Selection(history=not history, media=True), position=parts[0][1])


async def test_who_sees_a_part_exports_that_part(room: Room) -> None:
    space = await room.make_space("one")
    fact, other = await room.keep("one", Draft("fact", kind=Kind.FACT), Draft("other"))
    await room.links.put(space, Link(fact.id, other.id, AssociationType.RELATED), Strength(), room.author(), None)
    await room.sessions.start(space, Session("s", "", {}, room.clock.now()), None)
    room.lent.shares["globex/eve/lent"] = Share(await room.space("one"), Role.OWNER, (Kind.FACT,), ())
    [record] = await room.out("lent", caller=EVE)
    assert record.memory.content == "fact"
    with pytest.raises(RoleRequiredError):
        await room.out("lent", HISTORY, caller=EVE)
    with pytest.raises(RoleRequiredError):
        await room.transfer.write(EVE, "lent", [], OnConflict.SKIP)
    await room.alter("one", fact, kind=Kind.OBSERVATION)
    room.lent.shares["globex/eve/lent"] = Share(await room.space("one"), Role.OWNER, (Kind.FACT,), ())
    assert await room.out("lent", caller=EVE) == []
    with pytest.raises(SpaceNotFoundError):
        await room.out("one", caller=EVE)
    with pytest.raises(SpaceNotFoundError):
        await room.transfer.write(EVE, "one", [], OnConflict.SKIP)


async def test_a_filter_selects_memories_and_their_links(room: Room) -> None:
    await room.make_space("one")
    await furnish(room, "one")
    found = await room.out("one", Selection(Filter(kinds=(Kind.FACT,))))
    assert [Kind(record.memory.kind) for record in found] == [Kind.FACT]
    archived = await room.out("one", Selection(states=(State.ARCHIVED,)))
    assert [State(record.memory.state) for record in archived] == [State.ARCHIVED]
    with pytest.raises(InvalidFieldError, match="without history"):
        await room.out("one", Selection(states=(State.ARCHIVED,), history=True))
    assert len(await room.out("one", Selection(history=True, up_to=3))) == 3 + 2 + 2


def a_memory(content: str = "there", **fields: Any) -> Memory:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    memory = Memory(
        id=MemoryId("0198c5f0-7d2e-7b3c-9a41-5f0e6d2c1b7a"),
        kind=Kind.FACT,
        content=content,
        metadata={},
        tags=(),
        actor="",
        session="",
        ordinal=None,
        occurred_at=now,
        importance=0.5,
        confidence=1.0,
        state=State.ACTIVE,
        revision=0,
        created_revision=0,
        created_at=now,
        updated_at=now,
    )
    return replace(memory, **fields)


LATER = datetime(2026, 2, 1, tzinfo=UTC)
OLD = a_memory(tags=("a",), metadata={"k": 1, "l": 1}, accesses=5, alpha=3.0, tier=Tier.COLD)
NEW = a_memory("new", tags=("b",), metadata={"k": 2}, updated_at=LATER, accesses=2, beta=2.0, accessed_at=LATER)


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("mode", OnConflict)
async def test_an_id_that_is_taken(room: Room, mode: OnConflict, encrypted: bool) -> None:
    space = await room.make_space("one", encrypted=encrypted)
    assert await room.transfer.write(ADA, "one", [OLD], mode) == [Outcome.WRITTEN]
    [outcome] = await room.transfer.write(ADA, "one", [NEW], mode)
    memory = (await room.store.get(space, [NEW.id], LATER))[NEW.id]
    now = await room.space("one")
    if mode is OnConflict.ERROR:
        assert isinstance(outcome, MemoryExistsError)
    elif mode is OnConflict.SKIP:
        assert outcome is Outcome.SKIPPED
    if mode in (OnConflict.ERROR, OnConflict.SKIP):
        assert memory == replace(OLD, revision=1, created_revision=1)
        assert now.revision == 1
        return
    assert room.changed == [NEW.id]
    expected = replace(NEW, revision=2, created_revision=1)
    if mode is OnConflict.MERGE:
        expected = replace(expected, tags=("a", "b"), metadata={"l": 1, "k": 2}, accesses=5, alpha=3.0)
    assert memory == expected
    assert (now.active, now.archived, now.revision) == (1, 0, 2)
    assert [each.reason for each in await room.store.list_revisions(space, None, 0, 9)] == ["imported"] * 2
    await room.transfer.write(ADA, "one", [NEW], mode)
    assert (await room.space("one")).revision == 2


@pytest.mark.parametrize("mode", OnConflict)
async def test_links_and_sessions_that_are_there(room: Room, mode: OnConflict) -> None:
    await room.make_space("one")
    first, second = await room.keep("one", Draft("1"), Draft("2"))
    link = Link(first.id, second.id, AssociationType.RELATED)
    at = room.clock.now()
    old: list[Record] = [Association(link, 0.9, 1, at, at, "ada"), Session("s", "x", {"a": 1}, at)]
    new: list[Record] = [Association(link, 0.4, 3, at, at, "bob"), Session("s", "y", {"b": 2}, at, at)]
    assert await room.transfer.write(ADA, "one", old, mode) == [Outcome.WRITTEN] * 2
    outcomes = await room.transfer.write(ADA, "one", new, mode)
    if mode is OnConflict.ERROR:
        assert [type(each) for each in outcomes] == [InvalidFieldError, SessionExistsError]
    found = [(each.association, each.session) for each in (await room.out("one"))[2:]]
    weight, count, agent = {
        OnConflict.SKIP: (0.9, 1, "x"),
        OnConflict.ERROR: (0.9, 1, "x"),
        OnConflict.OVERWRITE: (0.4, 3, "y"),
        OnConflict.MERGE: (0.9, 3, "y"),
    }[mode]
    assert (found[0][0].weight, found[0][0].activations, found[1][1].agent) == (weight, count, agent)
    assert len(found[1][1].metadata.fields) == (2 if mode is OnConflict.MERGE else 1)


async def test_a_history_goes_on_where_it_ended(room: Room) -> None:
    await room.make_space("one")
    await room.make_space("two")
    [memory] = await room.keep("one", Draft("first"))
    await room.alter("one", memory, content="second")
    assert await room.into("two", await room.out("one", HISTORY)) == [Outcome.WRITTEN] * 2
    await room.alter("one", memory, content="third")
    records = await room.out("one", HISTORY)
    assert await room.into("two", records) == [Outcome.SKIPPED] * 2 + [Outcome.WRITTEN]
    assert essence(await room.out("two", HISTORY), "two", numbers=True) == essence(records, "one", numbers=True)


@pytest.mark.parametrize("mode", OnConflict)
async def test_a_history_of_another_memory_with_the_same_id(room: Room, mode: OnConflict) -> None:
    await room.make_space("one")
    await room.make_space("two")
    await room.keep("one", Draft("theirs", id=NEW.id))
    await room.clock.advance(10)
    [mine] = await room.keep("two", Draft("mine", id=NEW.id))
    [outcome] = await room.into("two", await room.out("one", HISTORY), mode)
    if mode is OnConflict.ERROR:
        assert isinstance(outcome, MemoryExistsError)
    else:
        assert outcome is (Outcome.OVERWRITTEN if mode is OnConflict.OVERWRITE else Outcome.SKIPPED)
    now = (await room.store.get(await room.space("two"), [mine.id], LATER))[mine.id]
    assert now.content == ("theirs" if mode is OnConflict.OVERWRITE else "mine")


async def test_records_are_refused_one_by_one(room: Room) -> None:
    await room.make_space("one")
    at = room.clock.now()
    lost = Link(NEW.id, MemoryId(new_uuid(at)), AssociationType.RELATED)
    medium = Media(new_uuid(at), "image/png", len(PNG), hashlib.sha256(b"other").hexdigest())
    records: list[Record] = [
        MediaPart(medium, 0, PNG),
        replace(NEW, id=MemoryId(new_uuid(at)), media=medium),
        NEW,
        Association(lost, 0.5, 1, at, at, ""),
    ]
    outcomes = await room.transfer.write(ADA, "one", records, OnConflict.SKIP)
    assert [type(each) for each in outcomes] == [InvalidFieldError, MediaNotFoundError, Outcome, MemoryNotFoundError]
    assert await room.database.fetchval("SELECT count(*) FROM memory.media") == 0


BROKEN = [
    ("memory.content", lambda record: record.memory.ClearField("content")),
    ("memory.content", lambda record: setattr(record.memory, "content", "x" * 102_401)),
    ("memory.name", lambda record: setattr(record.memory, "name", "spaces/a/memories/b")),
    ("memory.state", lambda record: setattr(record.memory, "state", 5)),
    ("memory.create_time", lambda record: record.memory.ClearField("create_time")),
    ("memory.update_time", lambda record: setattr(record.memory.update_time, "seconds", 10**15)),
    ("memory.importance", lambda record: setattr(record.memory, "importance", 1.5)),
    ("memory.actor", lambda record: setattr(record.memory, "actor", "a\0b")),
    ("memory.media", lambda record: record.memory.media.SetInParent()),
    ("memory.access_count", lambda record: setattr(record.memory, "access_count", 2**63 - 1)),
    ("reliability", lambda record: setattr(record, "reliability_alpha", float("nan"))),
]


@pytest.mark.parametrize(("field", "breaks"), BROKEN, ids=[f"{number}" for number in range(len(BROKEN))])
async def test_what_no_memory_may_be_is_refused(room: Room, field: str, breaks: Any) -> None:
    await room.make_space("one")
    await room.make_space("two")
    await room.keep("one", Draft("a"), Draft("b"))
    broken, good = await room.out("one")
    breaks(broken)
    refused, written = await room.into("two", [broken, good])
    assert isinstance(refused, InvalidFieldError)
    assert field in str(refused)
    assert written is Outcome.WRITTEN


async def test_limits_hold(room: Room) -> None:
    await room.make_space("one", max_bytes=10)
    with pytest.raises(QuotaExceededError):
        await room.transfer.write(
            ADA,
            "one",
            [a_memory("12345"), replace(NEW, id=MemoryId(new_uuid(LATER)), content="x" * 9)],
            OnConflict.SKIP,
        )
    medium = Media(new_uuid(LATER), "image/png", len(PNG), hashlib.sha256(PNG).hexdigest())
    with pytest.raises(QuotaExceededError):
        await room.transfer.write(ADA, "one", [MediaPart(medium, 0, PNG)], OnConflict.SKIP)
    room.full = True
    with pytest.raises(StoreFullError):
        await room.transfer.write(ADA, "one", [NEW], OnConflict.SKIP)
    assert (await room.space("one")).revision == 0


async def test_what_records_of_one_batch_take_adds_up(room: Room) -> None:
    one, two = (a_memory("12", id=MemoryId(new_uuid(LATER))) for _ in range(2))
    medium = MediaPart(Media(new_uuid(LATER), "image/png", len(PNG), hashlib.sha256(PNG).hexdigest()), 0, PNG)
    most = 4 + len(PNG) + 10
    await room.make_space("one", max_bytes=most)
    assert await room.transfer.write(ADA, "one", [one, two], OnConflict.SKIP) == [Outcome.WRITTEN] * 2
    large, larger = replace(one, content="x" * 20), replace(two, content="x" * (2 + most - 4))
    batches: list[list[Record]] = [[large, medium], [medium, large], [large, larger]]
    for records in batches:
        with pytest.raises(QuotaExceededError):
            await room.transfer.write(ADA, "one", records, OnConflict.OVERWRITE)
        assert (await room.space("one")).revision == 2
    smaller = replace(one, content="1")
    assert await room.transfer.write(ADA, "one", [smaller, larger], OnConflict.OVERWRITE) == [Outcome.OVERWRITTEN] * 2
    assert (await room.space("one")).bytes == most - 1


async def test_a_memory_of_the_first_and_the_last_moment_comes_and_goes(room: Room) -> None:
    await room.make_space("one")
    await room.make_space("two")
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    times: dict[str, Any] = {
        "occurred_at": last,
        "created_at": first,
        "updated_at": last,
        "accessed_at": last,
        "valid_from": first,
    }
    session = Session("s", "agent", {}, first, last)
    assert await room.transfer.write(ADA, "one", [a_memory(**times), session], OnConflict.SKIP) == [Outcome.WRITTEN] * 2
    records = await room.out("one")
    assert [*await room.into("two", records)] == [Outcome.WRITTEN] * 2
    found = (await room.store.get(await room.space("two"), [OLD.id], LATER))[OLD.id]
    assert {name: getattr(found, name) for name in times} == times
    assert len(await room.out("two", HISTORY)) == 2


async def test_an_erased_space_ends_its_export(room: Room) -> None:
    await room.make_space("one")
    await room.keep("one", *[Draft("x" * 90_000) for _ in range(40)])
    async with aclosing(room.transfer.export(ADA, "one", ALL, "")) as pages:
        await anext(pages)
        await room.database.execute("DELETE FROM memory.revisions")
        await room.database.execute("DELETE FROM memory.memories")
        await room.database.execute("DELETE FROM memory.spaces")
        with pytest.raises(SpaceNotFoundError):
            await anext(pages)


async def test_a_large_export_takes_little_memory(room: Room) -> None:
    space = await room.make_space("one")
    for _ in range(5):
        drafts = [Draft("z" * 2000) for _ in range(1000)]
        await room.store.create(space, drafts, room.author(), None, each=False)
    await room.out("one", Selection(states=(State.EXPIRED,)))
    tracemalloc.start()
    try:
        count = 0
        async with aclosing(room.transfer.export(ADA, "one", ALL, "")) as pages:
            async for found, page in pages:
                count += len(_from_page(found, page).records)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 5000
    assert peak < 12 * 1024 * 1024
