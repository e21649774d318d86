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

from mnemo_index.domain.documents import Change, State
from mnemo_index.domain.ports import FeedBatch
from mnemo_index.domain.projection import Projection
from mnemo_index.domain.sealed_space import SealedSpace
from mnemo_index.domain.space_index import SpaceIndex
from mnemo_index.storage.hamming_scan import hamming_distances
from mnemo_index.storage.snapshots import SnapshotStore
from mnemocore import calls
from mnemocore.errors import (
    DeadlineExceededError,
    IndexLaggingError,
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
    from mnemo_index.domain.projection import Held
    from mnemo_index.domain.revisions import Revisions
    from mnemo_index.domain.search import Hit
    from mnemo_index.domain.state import SpaceState
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

    def new(self) -> SpaceIndex:
        return SpaceIndex(self.encoder, STEMS, hamming_distances)

    def sealed(self, space_uid: SpaceUid, revisions: Revisions) -> SealedSpace:
        return SealedSpace(space_uid, self.new(), read_plain, revisions)

    def restored(self, space_uid: SpaceUid, state: SpaceState) -> Held:
        if state.sealed:
            return SealedSpace.restored(space_uid, state, self.new(), read_plain)
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

    def __init__(self, log: Log, store: SnapshotStore, executor: ThreadPoolExecutor, model: str) -> None:
        self.encoder = CountingEncoder(model)
        self.clock = ManualClock()
        self.lags: list[float] = []
        self.snapshots = Snapshots(store)
        self.projection = Projection(Spaces(self.encoder), self.snapshots, log, self.clock, executor, self.lags.append)

    async def caught_up(self, log: Log) -> None:
        await until(lambda: self.projection.applied_position == len(log.changes_kept))

    def results(self, space_uid: SpaceUid = ONE) -> list[list[Hit]]:
        index = self.index(space_uid)
        return [index.search(query, 10) for query in QUERIES]

    def index(self, space_uid: SpaceUid = ONE) -> SpaceIndex:
        index = self.projection.held(space_uid)
        assert isinstance(index, SpaceIndex)
        return index


class Snapshots:
    """Passes on to a real store; fails when told to."""

    def __init__(self, store: SnapshotStore) -> None:
        self._store = store
        self.full = False
        self.saved: list[SpaceUid] = []
        self.open = threading.Event()
        """Not set: a save stands still in the middle."""
        self.open.set()
        self.begun = 0
        self.saving = 0

    def load(self) -> tuple[int, Iterator[tuple[SpaceUid, SpaceState]]]:
        return self._store.load()

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

    def save_position(self, position: int) -> None:
        self._store.save_position(position)

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

    async def loaded(self, model: str = "") -> Node:
        store = await asyncio.to_thread(SnapshotStore, self.directory)
        node = Node(self.log, store, self._executor, model)
        await node.projection.load()
        return node

    @asynccontextmanager
    async def running(self, model: str = "") -> AsyncIterator[Node]:
        node = await self.loaded(model)
        follower = asyncio.create_task(node.projection.follow())
        yield node
        follower.cancel()
        with suppress(asyncio.CancelledError, PeerUnavailableError):
            await follower


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
        index = node.index()
        assert (index.applied_revision, index.size) == (9, len(TEXTS))
        assert index.search("coffee", 1)[0].memory_id == memory_id(1)
        assert node.projection.held(NOBODY) is None
        assert node.projection.head_position == 10
        assert {held.size for held in node.projection.all_held()} == {1, len(TEXTS)}
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
        before = node.results()
    async with nodes.running() as node:
        assert node.projection.applied_position == node.projection.persisted_position == 6
        assert node.results() == before
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
        before = node.results()
    async with nodes.running() as node:
        await node.caught_up(log)
        assert (node.results(), node.encoder.encoded) == (before, 4)


@pytest.mark.parametrize("damage", ["flipped", "lost", "position"])
async def test_damage_costs_a_replay_and_nothing_else(nodes: Nodes, log: Log, damage: str) -> None:
    for number, text in enumerate(TEXTS, 1):
        await log.append(ONE, created(number, document(number, text)))
        await log.append(OTHER, created(number, document(number, text + " too")))
    await log.append(ONE, removed(8, 2))
    async with nodes.running() as node:
        await node.caught_up(log)
        await node.projection.save()
        before = node.results(ONE), node.results(OTHER)
    spoil(nodes.directory, damage)
    async with nodes.running() as node:
        assert node.projection.applied_position == 0
        assert node.results(OTHER) == before[1]
        await node.caught_up(log)
        assert (node.results(ONE), node.results(OTHER)) == before
        assert node.encoder.encoded == (0 if damage == "position" else len(TEXTS))
        await node.projection.save()
    async with nodes.running() as node:
        assert node.projection.applied_position == len(log.changes_kept)
        assert (node.results(ONE), node.results(OTHER)) == before


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
        before = node.results()
    async with nodes.running(model="newer") as node:
        await node.caught_up(log)
        assert (node.results(), node.encoder.encoded) == (before, len(TEXTS))
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
        gapped = node.results()
        assert (0, ONE) in log.asked
        assert (0, OTHER) not in log.asked
        index = node.index()
        assert (index.applied_revision, index.size) == (7, 7)
    log.lost = set()
    async with Nodes(log, tmp_path / "whole", executor).running() as node:
        await node.caught_up(log)
        assert node.results() == gapped


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
        before = node.results()
        assert all(hit.memory_id not in (memory_id(2), memory_id(4)) for hits in before for hit in hits)
    for path in nodes.directory.iterdir():
        assert b"zyzzyva" not in path.read_bytes()
        assert memory_id(2).encode() not in path.read_bytes()
    async with nodes.running() as node:
        await node.caught_up(log)
        assert (node.results(), node.encoder.encoded) == (before, 0)
        index = node.index()
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
        before = node.results()
        await log.append(ONE, *again)
        await node.caught_up(log)
        assert (node.results(), node.encoder.encoded) == (before, len(TEXTS))
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
        assert len(node.results(ONE)[0]) == 2


async def test_states_survive_a_restart_and_bring_nothing_to_encode(nodes: Nodes, log: Log) -> None:
    await log.append(ONE, *written(*TEXTS))
    for revision, state in enumerate((State.ARCHIVED, State.SUPERSEDED, State.EXPIRED, State.ARCHIVED), 8):
        await log.append(ONE, created(revision, document(revision - 7, TEXTS[revision - 8], session="s"), state))
    async with nodes.running() as node:
        await node.caught_up(log)
        assert (node.index().size, node.encoder.encoded) == (3, len(TEXTS))
        await node.projection.save()
        before = node.results()
    async with nodes.running() as node:
        assert (node.index().size, node.results()) == (3, before)
        await log.append(ONE, created(12, document(4, TEXTS[3], session="s")))
        await node.caught_up(log)
        assert node.index().search("When does the train to Lisbon leave?", 1)[0].memory_id == memory_id(4)
        assert (node.index().size, node.encoder.encoded) == (4, 0)


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
        assert node.projection.held(ONE) is None
        assert sorted(path.name for path in nodes.directory.iterdir()) == [f"{OTHER}.snapshot", "position"]
    for _ in range(2):  # the first life did not save its position, the second one does
        async with nodes.running() as node:
            await node.caught_up(log)
            assert node.projection.held(ONE) is None
            assert node.results(OTHER)[0] != []
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
        assert node.projection.held(ONE) is None
        assert node.results(OTHER)[0] != []
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
        held = node.projection.held(ONE)
        assert isinstance(held, SealedSpace)
        with time_left(20):
            index = await node.projection.opened(held, [key])
        assert index.search("Lisbon", 1)[0].memory_id == memory_id(6)
        await node.projection.save()
    async with nodes.running() as node:
        restarted = node.projection.held(ONE)
        assert isinstance(restarted, SealedSpace)
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
        held = node.projection.held(ONE)
        assert isinstance(held, SealedSpace)
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
        before = node.results()
    async with nodes.running() as node:
        await node.caught_up(log)
        assert node.results() == before
