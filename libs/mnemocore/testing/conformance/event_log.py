"""What every engine of the event log promises.

A test class inherits `EventLogConformance` and implements `open_log`, `event` and `where`. `open_log` is asked several
times: all logs it returns look at the same stored log, as replicas do.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

STORED_AT = datetime(2026, 2, 3, 4, 5, 6, 789000, tzinfo=UTC)
SPACE_A = "018f0000-0000-7000-8000-00000000000a"
SPACE_B = "018f0000-0000-7000-8000-00000000000b"


class Place(Protocol):
    """A stored event."""

    position: int
    event: Any
    stored_at: datetime


class Page(Protocol):
    """A page of the log."""

    events: Sequence[Place]
    resume: int
    head: int


class Log(Protocol):
    """The port."""

    async def append(self, events: Sequence[Any], stored_at: datetime) -> list[int]:
        """Append a batch."""

    async def redact(self, keys: Sequence[tuple[str, str, str]]) -> int:
        """Take payloads out."""

    async def remove(self, tenant: Any, space_uid: Any, keep_id: str, limit: int) -> int:
        """Remove events of a space."""

    async def trim(
        self, stored_before: datetime | None, keep: int | None, limit: int, *, keep_bytes: int | None = None
    ) -> int:
        """Remove the oldest events of no space."""

    async def trimmed(self) -> int:
        """The newest position that was trimmed."""

    async def read(self, after: int, where: Any, limit: int) -> Any:
        """Read a page."""

    async def get(self, positions: Sequence[int]) -> list[Any]:
        """The events at positions."""

    async def position_before(self, time: datetime) -> int:
        """The position before the first event of a time or later."""

    async def head(self) -> int:
        """The newest position."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What the suite chooses of an event; the rest is the engine test's choice."""

    id: str
    source: str = "mnemocore/memory"
    type: str = "memory.created"
    tenant: str = "acme"
    space_uid: str = SPACE_A
    data: bytes = b""
    subject: str = "spaces/alice"
    correlation_id: str = ""
    causation_id: str = ""


class EventLogConformance(ABC):
    """The suite. Every case starts with an empty log."""

    @abstractmethod
    async def open_log(self) -> Log:
        """A view of the log of this case."""

    @abstractmethod
    def event(self, sample: Sample) -> Any:
        """An event of the engine's domain with the sample's attributes."""

    @abstractmethod
    def where(
        self,
        *,
        types: tuple[str, ...] = (),
        space_uid: str = "",
        tenant: str = "",
        subjects: tuple[str, ...] = (),
    ) -> Any:
        """A filter; what is empty is not asked for."""

    def events(self, *ids: str, **attributes: Any) -> list[Any]:
        """Events with these ids."""
        return [self.event(Sample(id, **attributes)) for id in ids]

    async def read_all(self, log: Log, where: Any = None, after: int = 0, limit: int = 7) -> list[Place]:
        """Every matching event after a position, page by page."""
        where = self.where() if where is None else where
        found: list[Place] = []
        while True:
            page = await log.read(after, where, limit)
            assert len(page.events) <= limit
            assert after <= page.resume <= page.head
            found.extend(page.events)
            if page.resume == page.head:
                return found
            assert page.resume > after, "a page before the head must get on"
            after = page.resume

    async def test_an_empty_log_has_head_zero(self) -> None:
        """Nothing is at position 0."""
        log = await self.open_log()
        page = await log.read(0, self.where(), 10)
        assert (list(page.events), page.resume, page.head, await log.head()) == ([], 0, 0, 0)

    async def test_positions_count_from_one_in_the_order_of_the_batch(self) -> None:
        """Without gaps, over batches."""
        log = await self.open_log()
        assert await log.append(self.events("a", "b", "c"), STORED_AT) == [1, 2, 3]
        assert await log.append(self.events("d"), STORED_AT) == [4]
        assert [(place.position, place.event.id) for place in await self.read_all(log)] == [
            (1, "a"),
            (2, "b"),
            (3, "c"),
            (4, "d"),
        ]
        assert await log.head() == 4

    async def test_a_large_batch(self) -> None:
        """Of several spaces, with some that the log has already and some that are there twice."""
        log = await self.open_log()
        await log.append(self.events("5", "7"), STORED_AT)
        batch = [
            self.event(Sample(str(number), space_uid=(SPACE_A, SPACE_B, "")[number % 3], data=b"x" * (number % 2)))
            for number in range(2500)
        ]
        batch += [self.event(Sample("0")), self.event(Sample("5"))]
        positions = await log.append(batch, STORED_AT)
        assert (positions[5], positions[7], positions[-1], positions[0]) == (1, 2, 1, positions[-2])
        assert sorted(set(positions)) == list(range(1, 2501))
        found = await self.read_all(log, limit=500)
        assert [place.position for place in found] == list(range(1, 2501))
        assert {place.event.id: place.position for place in found} == {
            event.id: position for event, position in zip(batch, positions, strict=True)
        }
        of_a_space = await self.read_all(log, self.where(space_uid=SPACE_B), limit=500)
        assert {place.event.id for place in of_a_space} == {str(number) for number in range(1, 2500, 3)} - {"7"}

    async def test_an_event_comes_back_as_it_went_in(self) -> None:
        """Attributes, payload and time, also the unusual."""
        log = await self.open_log()
        samples = [
            Sample("plain", data=bytes(range(256))),
            Sample("correlated", correlation_id="request:\u00fc", causation_id="plain", subject=""),
            Sample("'; DROP TABLE events.log; --", source="\u00fc\u4f60\U0001f600 ", space_uid="", data=b"x" * 300_000),
        ]
        events = [self.event(sample) for sample in samples]
        await log.append(events, STORED_AT)
        found = await self.read_all(log)
        assert [place.event for place in found] == events
        assert {place.stored_at for place in found} == {STORED_AT}

    async def test_an_event_published_again_keeps_its_first_place(self) -> None:
        """Also when new ones come along with it, and when the batch itself has it twice."""
        log = await self.open_log()
        await log.append(self.events("a", "b"), STORED_AT)
        assert await log.append(self.events("b", "c", "a", "c", "d"), STORED_AT) == [2, 3, 1, 3, 4]
        assert await log.append(self.events("d", "a"), STORED_AT) == [4, 1]
        assert [place.event.id for place in await self.read_all(log)] == ["a", "b", "c", "d"]
        assert await log.head() == 4

    async def test_the_key_is_tenant_and_source_and_id(self) -> None:
        """The same id of another tenant or source is another event."""
        log = await self.open_log()
        await log.append(self.events("a"), STORED_AT)
        assert await log.append(self.events("a", tenant="other"), STORED_AT) == [2]
        assert await log.append(self.events("a", source="other"), STORED_AT) == [3]

    async def test_redacting_takes_the_payload_and_nothing_else(self) -> None:
        """Also when it is done twice, and for events that are not there; other tenants keep theirs."""
        log = await self.open_log()
        mine, theirs = self.event(Sample("a", data=b"secret")), self.event(Sample("a", tenant="other", data=b"secret"))
        await log.append([mine, theirs], STORED_AT)
        keys = [("acme", "mnemocore/memory", "a"), ("acme", "mnemocore/memory", "never published")]
        assert [await log.redact(keys) for _ in range(2)] == [1, 0]
        assert [place.event.data for place in await self.read_all(log)] == [b"", b"secret"]
        assert [(place.position, place.event.id) for place in await self.read_all(log)] == [(1, "a"), (2, "a")]
        assert await log.append([mine], STORED_AT) == [1]

    async def test_removing_leaves_empty_positions_and_one_event(self) -> None:
        """In bounded portions; other spaces, other tenants and events of no space keep theirs; the head stays."""
        log = await self.open_log()
        theirs = self.event(Sample("last", tenant="other"))
        await log.append(self.events("first", space_uid=SPACE_B), STORED_AT)
        await log.append(self.events(*"abcdefg"), STORED_AT)
        await log.append([theirs, *self.events("of no space", space_uid="")], STORED_AT)
        await log.append(self.events("last"), STORED_AT)
        assert [await log.remove("acme", SPACE_A, "last", 3) for _ in range(4)] == [3, 3, 1, 0]
        kept = [(1, "first"), (9, "last"), (10, "of no space"), (11, "last")]
        for limit in (1, 2, 7):
            assert [(place.position, place.event.id) for place in await self.read_all(log, limit=limit)] == kept
        assert await log.head() == 11
        for after, wanted in ((0, [9, 11]), (3, [9, 11]), (9, [11]), (11, [])):
            found = await self.read_all(log, self.where(space_uid=SPACE_A), after)
            assert [place.position for place in found] == wanted

    async def test_after_removing_the_log_goes_on_behind_its_head(self) -> None:
        """Also when everything was removed: no position is given twice."""
        log = await self.open_log()
        await log.append(self.events("a", "b"), STORED_AT)
        assert [await log.remove("acme", SPACE_A, "", 100) for _ in range(2)] == [2, 0]
        page = await log.read(0, self.where(), 10)
        assert (list(page.events), page.resume, page.head) == ([], 2, 2)
        assert await log.append(self.events("c"), STORED_AT) == [3]
        assert [place.position for place in await self.read_all(log)] == [3]

    async def test_after_its_end_nothing_of_a_space_is_appended(self) -> None:
        """In later batches and in the same one, before and after its events were removed; other spaces go on."""
        log, other = await self.open_log(), await self.open_log()
        (end,) = self.events("end", type="space.erased")
        late, theirs = self.events("late", "later"), self.events("x", "y", space_uid=SPACE_B)
        assert await log.append([*self.events("a"), end, late[0], theirs[0]], STORED_AT) == [1, 2, 2, 3]
        assert await other.append([late[1], *self.events("a"), theirs[1], end], STORED_AT) == [2, 1, 4, 2]
        assert await other.remove("acme", SPACE_A, "end", 100) == 1
        assert await other.append([*late, *self.events("a"), end, theirs[1]], STORED_AT) == [2, 2, 2, 2, 4]
        assert [(each.position, each.event.id) for each in await self.read_all(log)] == [(2, "end"), (3, "x"), (4, "y")]

    async def test_events_beside_the_end_of_their_space(self) -> None:
        """However they meet, removing once after the end leaves nothing but the end."""
        log, other = await self.open_log(), await self.open_log()

        begun = asyncio.Event()

        async def append() -> None:
            for n in range(30):
                await other.append(self.events(f"{n}"), STORED_AT)
                begun.set()

        async def end() -> None:
            await begun.wait()
            await log.append(self.events("end", type="space.erased"), STORED_AT)
            await log.remove("acme", SPACE_A, "end", 1000)

        await asyncio.gather(append(), end())
        assert [place.event.id for place in await self.read_all(log)] == ["end"]

    async def test_removing_beside_appenders_and_a_reader(self) -> None:
        """Nothing of other spaces is lost, and the reader sees everything of them once, in order."""
        log, other = await self.open_log(), await self.open_log()
        await log.append(self.events(*(f"gone:{n}" for n in range(300))), STORED_AT)

        async def remove() -> int:
            removed = 0
            while portion := await log.remove("acme", SPACE_A, "", 20):
                removed += portion
            return removed

        async def append() -> None:
            for n in range(30):
                await other.append(self.events(f"kept:{n}", space_uid=SPACE_B), STORED_AT)

        reader = await self.open_log()
        removed, _ = await asyncio.gather(remove(), append())
        assert removed == 300
        found = await self.read_all(reader, limit=7)
        assert [place.event.id for place in found] == [f"kept:{n}" for n in range(30)]

    async def of_no_space(self, log: Log, ids: str, seconds: float = 0) -> list[int]:
        """Append events of no space, stored at a time of their own."""
        return await log.append(self.events(*ids, space_uid=""), STORED_AT + timedelta(seconds=seconds))

    async def test_trimming_by_age(self) -> None:
        """What was stored before a time, the oldest first, in bounded portions; events of spaces and the head stay."""
        log, other = await self.open_log(), await self.open_log()
        await self.of_no_space(log, "abc", seconds=0)
        await log.append(self.events("kept"), STORED_AT)
        await self.of_no_space(log, "d", seconds=10)
        await self.of_no_space(log, "ef", seconds=20)
        assert await log.trimmed() == 0
        assert await log.trim(STORED_AT, None, 100) == 0
        assert await log.trim(None, None, 100) == 0
        assert await log.trimmed() == 0
        assert await log.trim(STORED_AT + timedelta(seconds=20), None, 2) == 2
        assert (await other.trimmed(), await other.head()) == (2, 7)
        for after in (0, 3, 7):  # a page tells it, wherever it begins, and whether or not there is anything in it
            assert (await other.read(after, self.where(), 10)).trimmed == 2
        assert [place.event.id for place in await self.read_all(log)] == ["c", "kept", "d", "e", "f"]
        assert [await other.trim(STORED_AT + timedelta(seconds=20), None, 2) for _ in range(2)] == [2, 0]
        assert await log.trimmed() == 5
        assert [(each.position, each.event.id) for each in await self.read_all(log)] == [
            (4, "kept"),
            (6, "e"),
            (7, "f"),
        ]
        assert await log.trim(STORED_AT + timedelta(days=1), None, 100) == 2
        assert (await log.trimmed(), await log.head()) == (7, 7)
        assert await self.of_no_space(log, "g") == [8]

    async def test_trimming_by_number(self) -> None:
        """What is older than the newest so many of no space; those of spaces are not counted."""
        log = await self.open_log()
        await self.of_no_space(log, "abcde")
        await log.append(self.events("kept", "kept too"), STORED_AT)
        await self.of_no_space(log, "fg")
        assert await log.trim(None, 7, 100) == 0
        assert await log.trim(None, 4, 2) == 2
        assert await log.trim(None, 4, 100) == 1
        assert await log.trim(None, 4, 100) == 0
        assert await log.trimmed() == 3
        assert "".join(each.event.id[0] for each in await self.read_all(log)) == "dekkfg"
        await self.of_no_space(log, "h")
        await log.remove("acme", SPACE_A, "", 100)
        assert await log.trim(None, 4, 100) == 1
        assert await log.trim(None, 0, 100) == 4
        assert (await self.read_all(log), await log.trimmed(), await log.head()) == ([], 10, 10)

    async def test_trimming_by_size(self) -> None:
        """What is older than the newest whose data have so many bytes together; the data of spaces are not counted."""
        log = await self.open_log()

        async def append(*sizes: int, space_uid: str = "") -> None:
            first = await log.head()
            wanted = [Sample(str(first + n), data=b"x" * size, space_uid=space_uid) for n, size in enumerate(sizes, 1)]
            await log.append([self.event(sample) for sample in wanted], STORED_AT)

        async def left() -> list[int]:
            return [place.position for place in await self.read_all(log)]

        await append(100, 0, 30)
        await append(1000, space_uid=SPACE_A)
        await append(20, 0, 50)
        assert await log.trim(None, None, 100, keep_bytes=200) == 0
        assert await log.trim(None, None, 100, keep_bytes=199) == 1
        assert await log.trim(None, None, 100, keep_bytes=100) == 0, "what has no data is no burden"
        assert await log.trim(None, None, 100, keep_bytes=99) == 2
        assert await left() == [4, 5, 6, 7]
        assert await log.append(self.events("5", space_uid=""), STORED_AT) == [5]
        assert await log.trim(None, None, 100, keep_bytes=70) == 0, "what was there already counts once"
        keys = [("acme", "mnemocore/memory", id) for id in ("7", "4")]
        assert [await log.redact(keys), await log.redact(keys)] == [2, 0]
        assert await log.trim(None, None, 100, keep_bytes=20) == 0, "what was redacted counts no longer"
        await log.remove("acme", SPACE_A, "", 100)
        await append(10)
        assert await log.trim(None, None, 100, keep_bytes=30) == 0
        assert await log.trim(None, None, 100, keep_bytes=29) == 1
        assert await left() == [6, 7, 8]
        assert await log.trim(None, None, 2, keep_bytes=9) == 2
        assert await log.trim(None, None, 100, keep_bytes=9) == 1
        assert (await left(), await log.trimmed()) == ([], 8)
        assert await log.trim(None, None, 100, keep_bytes=0) == 0
        await append(0, 1)
        assert await log.trim(None, 2, 100, keep_bytes=0) == 2

    async def test_trimming_by_age_number_and_size(self) -> None:
        """What one of them asks for goes."""
        log = await self.open_log()
        await self.of_no_space(log, "abc", seconds=0)
        await self.of_no_space(log, "def", seconds=10)
        assert await log.trim(STORED_AT + timedelta(seconds=5), 5, 100) == 3
        assert await log.trim(STORED_AT + timedelta(seconds=5), 3, 100, keep_bytes=1) == 0
        assert await log.trim(STORED_AT + timedelta(seconds=5), 1, 100) == 2
        assert [place.event.id for place in await self.read_all(log)] == ["f"]
        await log.append(self.events("full", space_uid="", data=b"x"), STORED_AT + timedelta(seconds=10))
        assert await log.trim(STORED_AT + timedelta(seconds=5), 10, 100, keep_bytes=0) == 2

    async def test_what_was_trimmed_is_forgotten(self) -> None:
        """Its key is free, and redacting it does nothing."""
        log = await self.open_log()
        await self.of_no_space(log, "ab")
        assert await log.trim(None, 1, 100) == 1
        assert await log.redact([("acme", "mnemocore/memory", "a")]) == 0
        assert await self.of_no_space(log, "ab") == [3, 2]
        assert [place.event.id for place in await self.read_all(log)] == ["b", "a"]

    async def test_trimming_beside_appenders_readers_and_another_trimmer(self) -> None:
        """The newest are kept, and readers miss nothing behind what was trimmed."""
        logs = [await self.open_log() for _ in range(4)]
        ended = asyncio.Event()

        async def append() -> None:
            for n in range(40):
                ids = [f"{n}:{i}" for i in range(10)]
                await logs[0].append(self.events(*ids, space_uid="", data=b"four"), STORED_AT)
            ended.set()

        async def trim(log: Log) -> None:
            while not ended.is_set():
                await log.trim(None, 30, 7, keep_bytes=100)
            while await log.trim(None, 30, 7, keep_bytes=100):
                pass

        async def follow() -> None:
            after = 0
            while after < 400:
                page = await logs[3].read(after, self.where(), 20)
                seen = [place.position for place in page.events]
                assert set(range(max(after, page.trimmed) + 1, page.resume + 1)) <= set(seen)
                after = page.resume

        async with asyncio.timeout(60):
            await asyncio.gather(append(), trim(logs[1]), trim(logs[2]), follow())
        found = await self.read_all(logs[0])
        assert [place.position for place in found] == list(range(376, 401))
        assert await logs[0].trimmed() == 375

    async def test_getting_events_by_their_positions(self) -> None:
        """In the order of positions, whatever the order asked for; those that are not there are left out."""
        log = await self.open_log()
        events = [*self.events("a", "b", data=b"x" * 1000), *self.events("c", "d", space_uid=""), *self.events("e")]
        await log.append(events, STORED_AT)
        assert await log.get([]) == []
        found = await log.get([5, 2, 99, 2, 3, 0])
        assert [(place.position, place.event) for place in found] == [(2, events[1]), (3, events[2]), (5, events[4])]
        assert {place.stored_at for place in found} == {STORED_AT}
        await log.trim(None, 1, 100)
        await log.remove("acme", SPACE_A, "e", 100)
        assert [place.position for place in await log.get([1, 2, 3, 4, 5])] == [4, 5]
        assert len(await log.get([4, *range(1000, 1999)])) == 1

    async def test_the_times_of_the_log_never_go_back(self) -> None:
        """Whatever a replica's clock says."""
        log, other = await self.open_log(), await self.open_log()
        for each, name, seconds in ((log, "a", 5), (other, "b", 3), (log, "c", 6), (other, "d", 0), (log, "e", 7)):
            await self.of_no_space(each, name, seconds)
        found = await self.read_all(log)
        assert [(place.stored_at - STORED_AT).total_seconds() for place in found] == [5, 5, 6, 6, 7]

    async def test_the_position_before_a_time(self) -> None:
        """Everything stored at the time or later lies after it, everything before does not."""
        log = await self.open_log()
        assert await log.position_before(STORED_AT) == 0
        for n, ids in enumerate(("abc", "d", "ef", "g", "hi")):
            await self.of_no_space(log, ids, seconds=10 * n)

        async def positions() -> list[int]:
            times = (-1, 0, 0.000001, 10, 11, 20, 30, 40, 40.000001, 1e9)
            return [await log.position_before(STORED_AT + timedelta(seconds=each)) for each in times]

        assert await positions() == [0, 0, 3, 3, 4, 4, 6, 7, 9, 9]
        await log.trim(STORED_AT + timedelta(seconds=20), None, 100)
        assert await positions() == [4, 4, 4, 4, 4, 4, 6, 7, 9, 9]
        await log.trim(None, 0, 100)
        assert await positions() == [9] * 10

    async def test_the_position_before_a_time_in_a_log_with_holes(self) -> None:
        """Wherever they are."""
        log = await self.open_log()
        for n in range(64):
            space = SPACE_A if n % 5 and not 20 <= n < 40 else SPACE_B
            await log.append(self.events(f"{n}", space_uid=space), STORED_AT + timedelta(seconds=n))
        await log.remove("acme", SPACE_B, "", 100)
        left = {place.position for place in await self.read_all(log)}
        for n in range(66):
            first = min((position for position in left if position - 1 >= n), default=65)
            assert await log.position_before(STORED_AT + timedelta(seconds=n)) == first - 1

    async def test_reading_starts_after_a_position_and_obeys_the_limit(self) -> None:
        """The resume position is the last event's when the page is full."""
        log = await self.open_log()
        await log.append(self.events(*"abcdef"), STORED_AT)
        page = await log.read(2, self.where(), 3)
        assert [place.event.id for place in page.events] == ["c", "d", "e"]
        assert (page.resume, page.head) == (5, 6)
        page = await log.read(6, self.where(), 3)
        assert (list(page.events), page.resume) == ([], 6)

    async def test_filters(self) -> None:
        """By type patterns, space and tenant, and by all of them."""
        log = await self.open_log()
        samples = [
            Sample("1", type="memory.created"),
            Sample("2", type="memory.deleted", space_uid=SPACE_B),
            Sample("3", type="memory.deleted.forever"),
            Sample("4", type="session.created", space_uid=""),
            Sample("5", type="memory.created", tenant="other"),
            Sample("6", type="memoryx.created"),
        ]
        await log.append([self.event(sample) for sample in samples], STORED_AT)
        for where, wanted in (
            (self.where(types=("memory.created",)), "15"),
            (self.where(types=("memory.*",)), "125"),
            (self.where(types=("memory.**",)), "1235"),
            (self.where(types=("*.created",)), "1456"),
            (self.where(types=("**",)), "123456"),
            (self.where(types=("memory.deleted", "session.*")), "24"),
            (self.where(space_uid=SPACE_B), "2"),
            (self.where(space_uid=SPACE_A), "1356"),
            (self.where(tenant="other"), "5"),
            (self.where(types=("memory.*",), space_uid=SPACE_A, tenant="acme"), "1"),
            (self.where(types=("nothing.*",)), ""),
        ):
            assert "".join(place.event.id for place in await self.read_all(log, where)) == wanted

    async def test_filters_of_subjects(self) -> None:
        """By patterns of subjects, whose characters are taken literally, alone and with other conditions."""
        log = await self.open_log()
        subjects = [
            "spaces/a",
            "spaces/a/memories/m",
            "spaces/a/memories/m/parts/p",
            "spaces/\u00fc (b)/memories/m.n",
            "spaces/a/memories/mxn",
            "",
            "SPACES/a",
            "spaces/a\nb",
        ]
        samples = [Sample(f"{n}", subject=subject) for n, subject in enumerate(subjects, 1)]
        await log.append([self.event(sample) for sample in samples], STORED_AT)
        await log.append([self.event(Sample("9", subject="spaces/a", type="session.created"))], STORED_AT)
        for where, wanted in (
            (self.where(subjects=("spaces/a",)), "19"),
            (self.where(subjects=("spaces/*",)), "189"),
            (self.where(subjects=("spaces/**",)), "1234589"),
            (self.where(subjects=("spaces/*/memories/*",)), "245"),
            (self.where(subjects=("spaces/*/memories/m.n",)), "4"),
            (self.where(subjects=("spaces/\u00fc (b)/**",)), "4"),
            (self.where(subjects=("spaces/a/memories/**", "*/a")), "123579"),
            (self.where(subjects=("**",)), "12345789"),
            (self.where(subjects=("*",)), ""),
            (self.where(subjects=("spaces/a",), types=("memory.*",)), "1"),
        ):
            assert "".join(place.event.id for place in await self.read_all(log, where)) == wanted

    async def test_a_page_without_matches_resumes_at_the_head(self) -> None:
        """What does not match is not looked at again."""
        log = await self.open_log()
        await log.append(self.events(*"abc"), STORED_AT)
        page = await log.read(0, self.where(types=("nothing.here",)), 10)
        assert (list(page.events), page.resume) == ([], 3)

    async def test_large_events_come_in_short_pages(self) -> None:
        """A page is bounded in bytes too, and always gets on."""
        log = await self.open_log()
        for name in "abcdefgh":
            await log.append([self.event(Sample(name, data=b"x" * 1_048_576))], STORED_AT)
        page = await log.read(0, self.where(), 512)
        assert 1 <= len(page.events) < 8
        assert page.resume == page.events[-1].position
        assert [place.event.id for place in await self.read_all(log, limit=512)] == list("abcdefgh")

    async def test_a_cancelled_append_leaves_all_or_nothing(self) -> None:
        """And the log goes on without a gap."""
        log = await self.open_log()
        for attempt in range(10):
            task = asyncio.create_task(log.append(self.events(*(f"{attempt}:{n}" for n in range(100))), STORED_AT))
            await asyncio.wait([task], timeout=0.0005 * attempt)  # cut at another step every time
            task.cancel()
            await asyncio.wait([task])
        await log.append(self.events("last"), STORED_AT)
        found = await self.read_all(log, limit=500)
        self.assert_whole(found)
        per_batch = {str(attempt): 0 for attempt in range(10)}
        for place in found[:-1]:
            per_batch[place.event.id.partition(":")[0]] += 1
        assert set(per_batch.values()) <= {0, 100}

    async def test_two_appenders_and_two_readers(self) -> None:
        """Concurrent appends through two replicas: every reader sees every event once, in order, none late."""
        batches, size = 30, 20
        done = asyncio.Event()

        async def append(name: str) -> None:
            log = await self.open_log()
            for batch in range(batches):
                ids = [f"{name}:{batch * size + n}" for n in range(size)]
                positions = await log.append(self.events(*ids), STORED_AT)
                assert positions == list(range(positions[0], positions[0] + size))

        async def follow() -> list[Place]:
            log = await self.open_log()
            seen: list[Place] = []
            while not (done.is_set() and len(seen) == 2 * batches * size):
                page = await log.read(seen[-1].position if seen else 0, self.where(), 64)
                seen.extend(page.events)
                self.assert_whole(seen)
            return seen

        readers = [asyncio.create_task(follow()) for _ in range(2)]
        async with asyncio.timeout(60):
            await asyncio.gather(append("x"), append("y"))
            done.set()
            for seen in await asyncio.gather(*readers):
                for name in "xy":
                    ids = [place.event.id for place in seen if place.event.id.startswith(name)]
                    assert ids == [f"{name}:{n}" for n in range(batches * size)]

    async def test_the_same_batch_from_two_appenders_is_stored_once(self) -> None:
        """A relay that was taken for dead publishes beside its successor."""
        logs = [await self.open_log() for _ in range(2)]
        for batch in range(10):
            events = self.events(*(f"{batch}:{n}" for n in range(50)))
            first, second = await asyncio.gather(*(log.append(events, STORED_AT) for log in logs))
            assert first == second
        self.assert_whole(await self.read_all(logs[0], limit=100))
        assert await logs[0].head() == 500

    @staticmethod
    def assert_whole(places: Sequence[Place]) -> None:
        """The positions are 1, 2, 3 and so on."""
        assert [place.position for place in places] == list(range(1, len(places) + 1))
