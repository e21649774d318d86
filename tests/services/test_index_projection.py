"""The projection with the index, encoder and snapshots of the product, on a log that is held in memory."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from tests.index_space import STEMS, created, document, encoder, memory_id, removed

from mnemo_index.domain import projection
from mnemo_index.domain.documents import Change, State
from mnemo_index.domain.ports import FeedBatch, LogTooShortError
from mnemo_index.domain.projection import Projection
from mnemo_index.domain.revisions import Revisions
from mnemo_index.domain.sealed_space import SealedSpace
from mnemo_index.domain.space_index import SpaceIndex
from mnemo_index.storage.hamming_scan import hamming_distances
from mnemo_index.storage.snapshots import SnapshotStore
from mnemocore import calls
from mnemocore.errors import (
    DeadlineExceededError,
    IndexLaggingError,
    IndexRebuildingError,
    KeyUnavailableError,
    PeerUnavailableError,
    StoreFullError,
)
from mnemocore.ids import SpaceUid
from mnemocore.sealing import DataKey, SpaceCipher
from mnemocore.testing.clock import ManualClock
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from mnemo_index.domain.documents import Document
    from mnemo_index.domain.residents import Held
    from mnemo_index.domain.search import Hit
    from mnemo_index.domain.state import Kept, Progress, SpaceState
    from mnemocore.ids import MemoryId

ONE = SpaceUid("00000000-0000-7000-8000-00000000000a")
OTHER = SpaceUid("00000000-0000-7000-8000-00000000000b")
NOBODY = SpaceUid("00000000-0000-7000-8000-00000000000c")
TEXTS = (
    "green tea with lemon",
    "a dog called Biscuit",
    "chess on Sundays",
    "the train to Lisbon leaves at 9",
    "not 40 but 50 euros",
    "tea is for the morning",
    "the dog ate the chess board",
)
QUERIES = ("tea", "the dog", "chess", "Lisbon", "50 euros", "nothing in common")


class CountingEncoder:
    """The encoder of the product; counts the texts it encoded for storing."""

    def __init__(self, model: str = "") -> None:
        self.encoded = 0
        self._model = model or encoder().model

    @property
    def model(self) -> str:
        return self._model

    @property
    def dimension(self) -> int:
        return encoder().dimension

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.encoded += len(texts)
        return encoder().encode(texts)

    def encode_weighted(self, words: Sequence[str], weights: Sequence[float]) -> NDArray[np.float32]:
        return encoder().encode_weighted(words, weights)


class Spaces:
    """Implements the port that makes indexes."""

    def __init__(self, counting: CountingEncoder) -> None:
        self.encoder = counting

    @property
    def model(self) -> str:
        return self.encoder.model

    def reads(self, model: str) -> bool:
        return model in ("", self.model)

    def new(self, space_uid: SpaceUid, after: int = 0) -> SpaceIndex:
        index = SpaceIndex(self.encoder, STEMS, hamming_distances)
        index.revisions = Revisions(after)
        return index

    def sealed(self, space_uid: SpaceUid, revisions: Revisions) -> SealedSpace:
        return SealedSpace(space_uid, self.new(space_uid), read_plain, revisions)

    def forget(self, space_uid: SpaceUid) -> None:
        """Nothing is kept elsewhere."""

    def restored(self, space_uid: SpaceUid, state: SpaceState) -> Held:
        if state.sealed:
            return SealedSpace.restored(space_uid, state, self.new(space_uid), read_plain)
        return SpaceIndex.restored(state, self.encoder, STEMS, hamming_distances)


def read_plain(memory_id: MemoryId, opened: bytes) -> Document:
    """A document of which only the content was sealed."""
    return document(int(memory_id[-12:], 16), opened.decode())


class Log:
    """Implements the port of the feed; positions count from 1."""

    def __init__(self, batch: int = 3) -> None:
        self.changes_kept: list[tuple[SpaceUid, Change | None]] = []
        """None says that the space was erased."""
        self.asked: list[tuple[int, SpaceUid | None]] = []
        self.lost: set[int] = set()
        """Positions that readers of all spaces do not get."""
        self.removed: set[int] = set()
        """Positions that nobody gets."""
        self.breaks: set[int] = set()
        """Positions before which a reader of all spaces is cut off, each once."""
        self._batch = batch
        self._grown = asyncio.Condition()

    async def append(self, space_uid: SpaceUid, *changes: Change) -> None:
        async with self._grown:
            self.changes_kept += [(space_uid, change) for change in changes]
            self._grown.notify_all()

    async def erase(self, space_uid: SpaceUid) -> None:
        async with self._grown:
            self.changes_kept.append((space_uid, None))
            self._grown.notify_all()

    async def changes(self, after: int, space_uid: SpaceUid | None = None) -> AsyncGenerator[FeedBatch]:
        self.asked.append((after, space_uid))
        if after > len(self.changes_kept):
            raise LogTooShortError
        if after == len(self.changes_kept):
            yield FeedBatch((), after, after, None)
        while True:
            await self._reaches(after + 1)
            last = min(len(self.changes_kept), after + self._batch)
            for position in range(after + 1, last + 1):
                if space_uid is None and position in self.breaks:
                    self.breaks.remove(position)
                    raise PeerUnavailableError(target="events")
            found = [
                kept
                for position, kept in enumerate(self.changes_kept[after:last], after + 1)
                if position not in self.removed
                and ((space_uid is None and position not in self.lost) or kept[0] == space_uid)
            ]
            after = last
            changes = tuple((space, change) for space, change in found if change is not None)
            erased = frozenset(space for space, change in found if change is None)
            yield FeedBatch(changes, after, len(self.changes_kept), None, erased)

    async def _reaches(self, position: int) -> None:
        async with self._grown:
            await self._grown.wait_for(lambda: len(self.changes_kept) >= position)


class Node:
    """One life of the projection on a folder."""

    def __init__(
        self, log: Log, store: SnapshotStore, executor: ThreadPoolExecutor, model: str, budget: int = 0
    ) -> None:
        self.encoder = CountingEncoder(model)
        self.clock = ManualClock()
        self.lags: list[float] = []
        self.snapshots = Snapshots(store)
        self.projection = Projection(
            Spaces(self.encoder), self.snapshots, log, self.clock, executor, self.lags.append, budget=budget
        )

    async def caught_up(self, log: Log) -> None:
        await until(lambda: self.projection.applied_position == len(log.changes_kept))

    async def results(self, space_uid: SpaceUid = ONE) -> list[list[Hit]]:
        index = await self.index(space_uid)
        return [index.search(query, 10) for query in QUERIES]

    async def index(self, space_uid: SpaceUid = ONE) -> SpaceIndex:
        index = await self.projection.at_revision(space_uid, 0)
        assert isinstance(index, SpaceIndex)
        return index

    async def locked(self, space_uid: SpaceUid = ONE) -> SealedSpace:
        held = await self.projection.at_revision(space_uid, 0)
        assert isinstance(held, SealedSpace)
        return held


class Snapshots:
    """Passes on to a real store; fails when told to."""

    def __init__(self, store: SnapshotStore) -> None:
        self._store = store
        self.full = False
        self.saved: list[SpaceUid] = []
        self.loaded: list[SpaceUid] = []
        self.open = threading.Event()
        """Not set: a save stands still in the middle."""
        self.open.set()
        self.begun = 0
        self.saving = 0

    def kept(self) -> Kept:
        return self._store.kept()

    def load(self, space_uid: SpaceUid) -> SpaceState:
        self.loaded.append(space_uid)
        return self._store.load(space_uid)

    def save(self, space_uid: SpaceUid, state: SpaceState) -> None:
        if self.full:
            raise StoreFullError
        self.begun += 1
        self.saving += 1
        assert self.saving == 1, "two saves at the same time"
        assert self.open.wait(20)
        self.saved.append(space_uid)
        self._store.save(space_uid, state)
        self.saving -= 1

    def save_progress(self, progress: Progress) -> None:
        self._store.save_progress(progress)

    def forget(self, space_uid: SpaceUid) -> None:
        self._store.forget(space_uid)


@pytest.fixture(scope="module")
def executor() -> Iterator[ThreadPoolExecutor]:
    encoder()
    with ThreadPoolExecutor(2) as threads:
        yield threads


class Nodes:
    """Starts lives of the projection, one after the other, on one folder and one log."""

    def __init__(self, log: Log, directory: Path, executor: ThreadPoolExecutor) -> None:
        self.log = log
        self.directory = directory
        self._executor = executor

    async def loaded(self, model: str = "", budget: int = 0) -> Node:
        store = await asyncio.to_thread(SnapshotStore, self.directory)
        node = Node(self.log, store, self._executor, model, budget)
        await node.projection.load()
        return node

    @asynccontextmanager
    async def running(self, model: str = "", budget: int = 0) -> AsyncIterator[Node]:
        node = await self.loaded(model, budget)
        tasks = [asyncio.create_task(work()) for work in (node.projection.follow, node.projection.keep_healing)]
        yield node
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError, PeerUnavailableError):
                await task


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def nodes(log: Log, tmp_path: Path, executor: ThreadPoolExecutor) -> Nodes:
    return Nodes(log, tmp_path, executor)


def written(*texts: str, first: int = 1) -> list[Change]:
    return [created(number, document(number, text, session="s")) for number, text in enumerate(texts, first)]


@contextmanager
def time_left(seconds: float) -> Iterator[None]:
    token = calls.deadline.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        calls.deadline.reset(token)


async def test_changes_are_applied_in_order(nodes: Nodes, log: Log) -> None:
    await log.append(ONE, *written(*TEXTS))
    await log.append(OTHER, *written("only here"))
    await log.append(ONE, removed(8, 1), created(9, document(1, "black coffee")))
    async with nodes.running() as node:
        await node.caught_up(log)
        index = await node.index()
        assert (index.applied_revision, index.size) == (9, len(TEXTS))
        assert index.search("coffee", 1)[0].memory_id == memory_id(1)
        assert node.projection.status(NOBODY) is None
        assert node.projection.head_position == 10
        assert {status.size for status in node.projection.all_status()} == {1, len(TEXTS)}
    assert log.asked == [(0, None)]
    assert node.projection.lag_seconds == 0.0
    assert node.lags[-1] == 0.0


async def test_a_reader_waits_for_the_revision_it_has_seen(nodes: Nodes, log: Log) -> None:
    async with nodes.running() as node:
        with time_left(20):
            waiting = [asyncio.create_task(node.projection.at_revision(ONE, revision)) for revision in (1, 5, 7, 7)]
        await log.append(ONE, *written(*TEXTS))
        for index in await asyncio.gather(*waiting):
            assert index is node.projection.held(ONE)
        assert await node.projection.at_revision(NOBODY, 0) is None


async def test_a_reader_who_waits_a_moment_gets_what_is_there_by_then(
    nodes: Nodes, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes.running() as node:
        monkeypatch.setattr(projection, "PATIENCE_SECONDS", 60.0)
        waiting = asyncio.create_task(node.projection.soon_at_revision(ONE, 7))
        await log.append(ONE, *written(*TEXTS))
        index = await waiting
        assert index is not None
        assert index.applied_revision == 7
        monkeypatch.setattr(projection, "PATIENCE_SECONDS", 0.01)
        assert await node.projection.soon_at_revision(ONE, 8) is index
        assert await node.projection.soon_at_revision(NOBODY, 1) is None


async def test_a_reader_without_time_is_told_how_far_the_index_is(nodes: Nodes, log: Log) -> None:
    await log.append(ONE, *written(*TEXTS))
    async with nodes.running() as node:
        await node.caught_up(log)
        for space_uid, applied in ((ONE, "7"), (NOBODY, "0")):
            with time_left(0.15), pytest.raises(IndexLaggingError) as caught:
                await node.projection.at_revision(space_uid, 8)
            assert caught.value.metadata == {"space": space_uid, "wanted": "8", "applied": applied}
            assert caught.value.retry_after == 0.2
        with time_left(-1):
            assert await node.projection.at_revision(ONE, 7) is node.projection.held(ONE)


async def test_no_work_is_begun_without_time(nodes: Nodes) -> None:
    async with nodes.running() as node:
        with time_left(10):
            assert await node.projection.run(lambda: 7) == 7
        with time_left(0), pytest.raises(DeadlineExceededError):
            await node.projection.run(lambda: 7)


async def test_a_restart_goes_on_where_it_was_and_encodes_nothing_again(nodes: Nodes, log: Log) -> None:
    await log.append(ONE, *written(*TEXTS[:5]))
    await log.append(OTHER, *written("only here"))
    async with nodes.running() as node:
        await node.caught_up(log)
        await node.projection.save()
        assert node.projection.persisted_position == 6
        assert sorted(node.snapshots.saved) == [ONE, OTHER]
        before = await node.results()
    async with nodes.running() as node:
        assert node.projection.applied_position == node.projection.persisted_position == 6
        assert await node.results() == before
        await log.append(ONE, *written(*TEXTS[5:], first=6))
        await node.caught_up(log)
        assert node.encoder.encoded == 2
        await node.projection.save()
        assert node.snapshots.saved == [ONE]
    assert log.asked == [(0, None), (6, None)]


async def test_what_was_not_saved_is_applied_again(nodes: Nodes, log: Log) -> None:
    await log.append(ONE, *written(*TEXTS[:3]))
    async with nodes.running() as node:
        await node.caught_up(log)
        await node.projection.save()
        await log.append(ONE, *written(*TEXTS[3:], first=4))
        await node.caught_up(log)
        before = await node.results()
    async with nodes.running() as node:
        await node.caught_up(log)
        assert (await node.results(), node.encoder.encoded) == (before, 4)


@pytest.mark.parametrize("damage", ["flipped", "lost", "position"])
async def test_damage_costs_a_replay_and_nothing_else(nodes: Nodes, log: Log, damage: str) -> None:
    for number, text in enumerate(TEXTS, 1):
        await log.append(ONE, created(number, document(number, text)))
        await log.append(OTHER, created(number, document(number, text + " too")))
    await log.append(ONE, removed(8, 2))
    async with nodes.running() as node:
        await node.caught_up(log)
        await node.projection.save()
        before = await node.results(ONE), await node.results(OTHER)
    spoil(nodes.directory, damage)
    async with nodes.running() as node:
        assert node.projection.applied_position == (len(log.changes_kept) if damage == "flipped" else 0)
        with time_left(20):
            assert (await node.results(OTHER), await node.results(ONE)) == (before[1], before[0])
        await node.caught_up(log)
        assert node.encoder.encoded == (0 if damage == "position" else len(TEXTS))
        await node.projection.save()
    async with nodes.running() as node:
        assert node.projection.applied_position == len(log.changes_kept)
        assert (await node.results(ONE), await node.results(OTHER)) == before


def spoil(directory: Path, damage: str) -> None:
    snapshot = directory / f"{ONE}.snapshot"
    if damage == "lost":
        snapshot.unlink()
    elif damage == "position":
        (directory / "position").write_bytes(b"7")
    else:
        content = bytearray(snapshot.read_bytes())
        content[len(content) // 2] ^= 4
        snapshot.write_bytes(content)


async def test_another_model_encodes_everything_again(nodes: Nodes, log: Log) -> None:
    await log.append(ONE, *written(*TEXTS))
    async with nodes.running() as node:
        await node.caught_up(log)
        await node.projection.save()
        before = await node.results()
    async with nodes.running(model="newer") as node:
        await node.caught_up(log)
        assert (await node.results(), node.encoder.encoded) == (before, len(TEXTS))
        assert node.projection.model == "newer"


@pytest.mark.parametrize("lost", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("batch", [1, 3, 100])
async def test_a_gap_is_filled_from_the_beginning_of_the_log(
    tmp_path: Path, executor: ThreadPoolExecutor, lost: int, batch: int
) -> None:
    log = Log(batch)
    nodes = Nodes(log, tmp_path, executor)
    await log.append(ONE, *written(*TEXTS))
    await log.append(OTHER, *written("only here"))
    log.lost = {lost}
    async with nodes.running() as node:
        await node.caught_up(log)
        gapped = await node.results()
        assert (0, ONE) in log.asked
        assert (0, OTHER) not in log.asked
        index = await node.index()
        assert (index.applied_revision, index.size) == (7, 7)
    log.lost = set()
    async with Nodes(log, tmp_path / "whole", executor).running() as node:
        await node.caught_up(log)
        assert await node.results() == gapped


async def test_a_broken_feed_is_taken_up_where_it_broke(nodes: Nodes, log: Log) -> None:
    await log.append(ONE, *written(*TEXTS))
    log.breaks = {2, 4, 7}
    node = await nodes.loaded()
    for _ in range(3):
        with pytest.raises(PeerUnavailableError):
            await node.projection.follow()
    follower = asyncio.create_task(node.projection.follow())
    await node.caught_up(log)
    follower.cancel()
    assert log.asked[0] == (0, None)
    assert [after for after, _ in log.asked] == sorted(after for after, _ in log.asked)
    assert node.encoder.encoded == len(TEXTS)


async def test_what_was_erased_stays_erased_and_leaves_no_word_on_the_disk(nodes: Nodes, log: Log) -> None:
    await log.append(ONE, *written("green tea", "my password is zyzzyva", "chess", "zyzzyva was archived"))
    await log.append(ONE, created(5, document(4, "zyzzyva was archived"), State.ARCHIVED))
    async with nodes.running() as node:
        await node.caught_up(log)
        await node.projection.save()
        assert b"zyzzyva" in (nodes.directory / f"{ONE}.snapshot").read_bytes()
        await log.append(ONE, removed(6, 2), removed(7, 4))
        await node.caught_up(log)
        await node.projection.save()
        before = await node.results()
        assert all(hit.memory_id not in (memory_id(2), memory_id(4)) for hits in before for hit in hits)
    for path in nodes.directory.iterdir():
        assert b"zyzzyva" not in path.read_bytes()
        assert memory_id(2).encode() not in path.read_bytes()
    async with nodes.running() as node:
        await node.caught_up(log)
        assert (await node.results(), node.encoder.encoded) == (before, 0)
        index = await node.index()
        assert (index.size, index.applied_revision) == (2, 7)


async def test_publishing_again_encodes_nothing_that_is_known(nodes: Nodes, log: Log) -> None:
    await log.append(ONE, *written(*TEXTS))
    again = [
        created(change.revision + len(TEXTS), change.document)
        for _, change in log.changes_kept
        if change and change.document
    ]
    async with nodes.running() as node:
        await node.caught_up(log)
        before = await node.results()
        await log.append(ONE, *again)
        await node.caught_up(log)
        assert (await node.results(), node.encoder.encoded) == (before, len(TEXTS))
        with time_left(10):
            assert await node.projection.at_revision(ONE, 2 * len(TEXTS)) is node.projection.held(ONE)


async def test_snapshots_are_written_as_often_as_wanted_and_only_when_something_changed(nodes: Nodes, log: Log) -> None:
    async with nodes.running() as node:
        saver = asyncio.create_task(node.projection.keep_saving(30))
        for number, text in enumerate(TEXTS[:2], 1):
            await log.append(ONE, created(number, document(number, text)))
            await node.caught_up(log)
            assert len(node.snapshots.saved) == number - 1
            await until(lambda: node.clock.sleepers == 1)
            await node.clock.advance(30)
            await until(lambda number=number: node.projection.persisted_position == number)
        await until(lambda: node.clock.sleepers == 1)
        await node.clock.advance(30)
        await until(lambda: node.clock.sleepers == 1)
        saver.cancel()
        assert node.snapshots.saved == [ONE, ONE]


async def test_a_full_disk_loses_no_change(nodes: Nodes, log: Log) -> None:
    await log.append(ONE, *written(*TEXTS[:2]))
    async with nodes.running() as node:
        await node.caught_up(log)
        node.snapshots.full = True
        with pytest.raises(StoreFullError):
            await node.projection.save()
        assert node.projection.persisted_position == 0
        await log.append(OTHER, *written("later"))
        await node.caught_up(log)
        node.snapshots.full = False
        await node.projection.save()
        assert sorted(node.snapshots.saved) == [ONE, OTHER]
    async with nodes.running() as node:
        assert node.projection.applied_position == 3
        assert len((await node.results(ONE))[0]) == 2


async def test_states_survive_a_restart_and_bring_nothing_to_encode(nodes: Nodes, log: Log) -> None:
    await log.append(ONE, *written(*TEXTS))
    for revision, state in enumerate((State.ARCHIVED, State.SUPERSEDED, State.EXPIRED, State.ARCHIVED), 8):
        await log.append(ONE, created(revision, document(revision - 7, TEXTS[revision - 8], session="s"), state))
    async with nodes.running() as node:
        await node.caught_up(log)
        assert ((await node.index()).size, node.encoder.encoded) == (3, len(TEXTS))
        await node.projection.save()
        before = await node.results()
    async with nodes.running() as node:
        assert ((await node.index()).size, await node.results()) == (3, before)
        await log.append(ONE, created(12, document(4, TEXTS[3], session="s")))
        await node.caught_up(log)
        assert (await node.index()).search("When does the train to Lisbon leave?", 1)[0].memory_id == memory_id(4)
        assert ((await node.index()).size, node.encoder.encoded) == (4, 0)


async def test_an_erased_space_leaves_nothing_behind(nodes: Nodes, log: Log, caplog: pytest.LogCaptureFixture) -> None:
    await log.append(ONE, *written(*TEXTS))
    await log.append(OTHER, *written("only here"))
    async with nodes.running() as node:
        await node.caught_up(log)
        await node.projection.save()
        (nodes.directory / f"{ONE}.snapshot.corrupt-1").write_bytes(b"set aside")
        await log.append(ONE, *written("too late for anybody", first=8))
        await log.erase(ONE)
        await node.caught_up(log)
        assert node.projection.status(ONE) is None
        assert sorted(path.name for path in nodes.directory.iterdir()) == [f"{OTHER}.snapshot", "position"]
    for _ in range(2):  # the first life did not save its position, the second one does
        async with nodes.running() as node:
            await node.caught_up(log)
            assert node.projection.status(ONE) is None
            assert (await node.results(OTHER))[0] != []
            await node.projection.save()
    assert ONE not in (nodes.directory / "position").read_text()
    assert caplog.records == []


@pytest.mark.parametrize("batch", [1, 3, 100])
@pytest.mark.parametrize("left", [1, 4, 6, 7])
async def test_what_is_left_in_the_log_of_an_erased_space_is_passed_over(
    tmp_path: Path, executor: ThreadPoolExecutor, left: int, batch: int, caplog: pytest.LogCaptureFixture
) -> None:
    log = Log(batch)
    await log.append(ONE, *written(*TEXTS))
    await log.append(OTHER, *written("only here"))
    await log.erase(ONE)
    log.removed = set(range(1, left + 1))
    async with Nodes(log, tmp_path, executor).running() as node:
        await node.caught_up(log)
        assert node.projection.status(ONE) is None
        assert (await node.results(OTHER))[0] != []
        assert len(log.asked) <= 2
        assert node.encoder.encoded <= 1 + len(TEXTS) - left  # once at most
    assert caplog.records == []


async def test_a_space_that_is_erased_while_it_is_saved_is_not_saved(nodes: Nodes, log: Log) -> None:
    await log.append(ONE, *written(*TEXTS))
    async with nodes.running() as node:
        await node.caught_up(log)
        saving = asyncio.create_task(node.projection.save())
        await log.erase(ONE)
        await node.caught_up(log)
        await saving
        await node.projection.save()
        assert [path.name for path in nodes.directory.iterdir()] == ["position"]


async def test_the_first_sealed_change_shows_that_a_space_is_encrypted(nodes: Nodes, log: Log) -> None:
    key = DataKey("00000000-0000-4000-8000-000000000001", b"1" * 32)
    cipher = SpaceCipher(ONE, [key])

    def sealed(revision: int, number: int, text: str) -> Change:
        data = cipher.seal(f"{memory_id(number)}@{revision}", text.encode())
        return Change(revision, memory_id(number), sealed=data)

    await log.append(ONE, removed(1, 1), removed(2, 2))
    await log.append(OTHER, *written("only here"))
    async with nodes.running() as node:
        await node.caught_up(log)
        await node.projection.save()
        await log.append(ONE, *(sealed(number, number, text) for number, text in enumerate(TEXTS, 3)))
        await node.caught_up(log)
        held = await node.locked()
        with time_left(20):
            index = await node.projection.opened(held, [key])
        assert index.search("Lisbon", 1)[0].memory_id == memory_id(6)
        await node.projection.save()
    async with nodes.running() as node:
        restarted = await node.locked()
        assert (restarted.applied_revision, restarted.locked) == (9, True)
        with time_left(0), pytest.raises(DeadlineExceededError):
            await node.projection.opened(restarted, [key])
        with time_left(20), pytest.raises(KeyUnavailableError):
            await node.projection.unlocked(restarted)
        with time_left(20):
            index = await node.projection.opened(restarted, [key])
            assert await node.projection.unlocked(restarted) is index
        assert index.search("Lisbon", 1)[0].memory_id == memory_id(6)


@pytest.mark.parametrize("lost", [1, 3, 6])
async def test_an_encrypted_space_with_a_gap_is_built_anew_and_locked(nodes: Nodes, log: Log, lost: int) -> None:
    key = DataKey("00000000-0000-4000-8000-000000000001", b"1" * 32)
    cipher = SpaceCipher(ONE, [key])
    for number, text in enumerate(TEXTS, 1):
        data = cipher.seal(f"{memory_id(number)}@{number}", text.encode())
        await log.append(ONE, Change(number, memory_id(number), sealed=data))
    log.lost = {lost}
    async with nodes.running() as node:
        await node.caught_up(log)
        held = await node.locked()
        assert (held.applied_revision, held.size, held.locked) == (7, 7, True)


async def test_a_save_that_is_cancelled_ends_before_the_next_one_begins(nodes: Nodes, log: Log) -> None:
    await log.append(ONE, *written(*TEXTS[:2]))
    async with nodes.running() as node:
        await node.caught_up(log)
        node.snapshots.open.clear()
        first = asyncio.create_task(node.projection.save())
        await until(lambda: node.snapshots.begun == 1)
        first.cancel()
        second = asyncio.create_task(node.projection.save())
        await log.append(ONE, *written(*TEXTS[2:], first=3))
        await node.caught_up(log)
        assert (node.snapshots.begun, first.done()) == (1, False)
        node.snapshots.open.set()
        await second
        assert first.cancelled()
        assert node.snapshots.saved == [ONE, ONE]
        before = await node.results()
    async with nodes.running() as node:
        await node.caught_up(log)
        assert await node.results() == before


async def saved(nodes: Nodes, log: Log, *spaces: SpaceUid) -> list[list[list[Hit]]]:
    """Spaces with the same texts and a snapshot each, and what they answer."""
    for space_uid in spaces:
        await log.append(space_uid, *written(*TEXTS))
    async with nodes.running() as node:
        await node.caught_up(log)
        await node.projection.save()
        return [await node.results(space_uid) for space_uid in spaces]


async def test_a_space_is_read_when_it_is_used_and_leaves_when_another_needs_the_room(nodes: Nodes, log: Log) -> None:
    before = await saved(nodes, log, ONE, OTHER)
    async with nodes.running(budget=1) as node:
        assert (node.snapshots.loaded, node.projection.resident_bytes) == ([], 0)
        status = node.projection.status(ONE)
        assert status is not None
        assert (status.applied_revision, status.size, status.memory_bytes) == (7, 7, 0)
        for turn, space_uid in enumerate((ONE, OTHER, ONE)):
            assert await node.results(space_uid) == before[0]
            assert node.snapshots.loaded == [ONE, OTHER, ONE][: turn + 1]
        assert node.projection.held(OTHER) is None
        assert node.snapshots.saved == [], "nothing has changed"


async def test_changes_of_a_space_that_is_away_wait_and_are_there_when_it_is_asked(nodes: Nodes, log: Log) -> None:
    await saved(nodes, log, ONE, OTHER)
    async with nodes.running() as node:
        await log.append(ONE, created(8, document(8, "black coffee")), removed(9, 1))
        await node.caught_up(log)
        status = node.projection.status(ONE)
        assert status is not None
        assert (status.applied_revision, node.snapshots.loaded, node.encoder.encoded) == (9, [], 0)
        with time_left(20):
            index = await node.projection.at_revision(ONE, 9)
        assert isinstance(index, SpaceIndex)
        assert index.search("coffee", 1)[0].memory_id == memory_id(8)
        assert (index.size, index.applied_revision) == (7, 9)


async def test_changes_that_wait_are_saved_before_the_position_says_so(nodes: Nodes, log: Log) -> None:
    await saved(nodes, log, ONE, OTHER)
    async with nodes.running() as node:
        await log.append(ONE, created(8, document(8, "black coffee")))
        await node.caught_up(log)
        await node.projection.save()
        assert (node.snapshots.saved, node.projection.persisted_position) == ([ONE], 15)
    log.changes_kept[14] = (OTHER, removed(1, 1))  # nobody has to read it again
    async with nodes.running() as node:
        index = await node.index()
        assert index.search("coffee", 1)[0].memory_id == memory_id(8)


async def test_what_has_changed_is_saved_before_it_leaves(nodes: Nodes, log: Log) -> None:
    async with nodes.running(budget=1) as node:
        await log.append(ONE, *written(*TEXTS))
        await log.append(OTHER, *written(*TEXTS))
        await node.caught_up(log)
        await until(lambda: node.projection.held(ONE) is None)
        assert set(node.snapshots.saved) >= {ONE}
        assert node.projection.persisted_position == 0
        one = await node.results(ONE)
        assert await node.results(OTHER) == one
    async with nodes.running(budget=1) as node:
        await node.caught_up(log)
        assert await node.results(ONE) == one


async def test_where_the_disk_is_full_what_has_changed_stays(
    nodes: Nodes, log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    before = await saved(nodes, log, ONE, OTHER)
    async with nodes.running(budget=1) as node:
        node.snapshots.full = True
        await node.index(ONE)
        await log.append(ONE, created(8, document(8, "black coffee")))
        await node.caught_up(log)
        assert await node.results(OTHER) == before[1]
        assert (await node.index(ONE)).search("coffee", 1)[0].memory_id == memory_id(8)
        assert await node.results(OTHER) == before[1]
        assert "stay in memory" in caplog.text
        with pytest.raises(StoreFullError):
            await node.projection.save()
        node.snapshots.full = False
        await node.projection.save()
        assert node.projection.persisted_position == 15


async def test_an_encrypted_space_that_leaves_is_locked_again(nodes: Nodes, log: Log) -> None:
    key = DataKey("00000000-0000-4000-8000-000000000001", b"1" * 32)
    cipher = SpaceCipher(ONE, [key])
    for number, text in enumerate(TEXTS, 1):
        data = cipher.seal(f"{memory_id(number)}@{number}", text.encode())
        await log.append(ONE, Change(number, memory_id(number), sealed=data))
    await log.append(OTHER, *written(*TEXTS))
    async with nodes.running(budget=1) as node:
        await node.caught_up(log)
        for _ in range(2):
            held = await node.locked()
            assert held.locked
            with time_left(20):
                index = await node.projection.opened(held, [key])
            assert index.search("Lisbon", 1)[0].memory_id == memory_id(4)
            assert not (await node.locked()).locked
            await node.index(OTHER)
            assert node.projection.held(ONE) is None


async def test_a_snapshot_that_turns_out_to_be_damaged_is_never_answered_from(
    nodes: Nodes, log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    before = await saved(nodes, log, ONE, OTHER)
    spoil(nodes.directory, "flipped")
    node = await nodes.loaded()
    with time_left(0.3), pytest.raises(IndexRebuildingError):
        await node.projection.at_revision(ONE, 0)
    assert await node.results(OTHER) == before[1]
    await log.append(OTHER, created(8, document(8, "black coffee")))
    follower = asyncio.create_task(node.projection.follow())
    await node.caught_up(log)
    await node.projection.save()
    assert node.projection.persisted_position == 14, "a space is missing"
    healer = asyncio.create_task(node.projection.keep_healing())
    with time_left(20):
        assert await node.results(ONE) == before[0]
    await node.projection.save()
    assert node.projection.persisted_position == 15
    for task in (follower, healer):
        task.cancel()
    assert [ONE in record.message for record in caplog.records] == [True, True]


async def test_killed_between_the_snapshots_and_the_position_it_applies_again(nodes: Nodes, log: Log) -> None:
    before = await saved(nodes, log, ONE, OTHER)
    position = nodes.directory / "position"
    older = await asyncio.to_thread(position.read_bytes)
    async with nodes.running() as node:
        await log.append(ONE, removed(8, 1), created(9, document(1, TEXTS[0], session="s")))
        await log.append(OTHER, removed(8, 2))
        await node.caught_up(log)
        await node.projection.save()
        after = await node.results(ONE), await node.results(OTHER)
    await asyncio.to_thread(position.write_bytes, older)
    async with nodes.running() as node:
        await node.caught_up(log)
        assert (await node.results(ONE), await node.results(OTHER)) == after
        assert after[1] != before[1]
        assert node.encoder.encoded == 0


async def test_another_log_builds_everything_anew(nodes: Nodes, log: Log, caplog: pytest.LogCaptureFixture) -> None:
    await saved(nodes, log, ONE, OTHER)
    log.changes_kept = [(OTHER, change) for change in written("only this")]
    node = await nodes.loaded()
    with pytest.raises(LogTooShortError):
        await node.projection.follow()
    assert "ends before position 14" in caplog.text
    follower = asyncio.create_task(node.projection.follow())
    await node.caught_up(log)
    assert node.projection.status(ONE) is None
    assert (await node.index(OTHER)).size == 1
    assert [path.name for path in nodes.directory.iterdir()] == ["position"]
    follower.cancel()


async def test_what_is_built_for_the_first_time_is_not_answered_before_it_is_whole(nodes: Nodes, log: Log) -> None:
    await log.append(ONE, *written(*TEXTS))
    log.breaks = {4}
    node = await nodes.loaded()
    with pytest.raises(PeerUnavailableError):
        await node.projection.follow()
    assert node.projection.applied_position == 3
    await node.projection.save()
    again = await nodes.loaded()
    for each in (node, again):
        for space_uid in (ONE, NOBODY):
            with time_left(0.3), pytest.raises(IndexRebuildingError):
                await each.projection.at_revision(space_uid, 0)
    follower = asyncio.create_task(again.projection.follow())
    await again.caught_up(log)
    assert (await again.index(ONE)).size == len(TEXTS)
    assert await again.projection.at_revision(NOBODY, 0) is None
    follower.cancel()


async def test_how_much_room_there_is_makes_no_difference(nodes: Nodes, log: Log) -> None:
    for turn in range(3):
        for space_uid in (ONE, OTHER, NOBODY):
            await log.append(space_uid, *written(*TEXTS, first=1 + turn * len(TEXTS)))
    found = []
    for budget in (0, 1, 1 << 20):
        async with nodes.running(budget=budget) as node:
            await node.caught_up(log)
            found.append([await node.results(space_uid) for space_uid in (ONE, OTHER, NOBODY, ONE)])
    assert found[0] == found[1] == found[2]
