"""The projection: follows the event log, keeps an index for every space, and survives restarts by snapshots.

Changes of a space are applied in order. A space whose next change is not the one that follows is built anew from the
beginning of the log before anything else is applied to it. Where snapshots are missing the whole log is replayed: what
a space knows already changes nothing in it. A space that was erased leaves nothing behind.

A space is read from its snapshot when it is used, and leaves the RAM when others need the room (see `residents`).
Changes of a space that is not in RAM wait until it is used or saved: then they are applied before anything else.
Nothing is answered from a space that is not whole: while the log is replayed, and from a snapshot that turns out to be
damaged until its space is built anew.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing, suppress
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeVar

from mnemo_index.domain.fingerprint import NOTHING, Fingerprint
from mnemo_index.domain.ports import LogTooShortError, UnusableSnapshotError
from mnemo_index.domain.residents import Held, Place, Residents, follows
from mnemo_index.domain.sealed_space import SealedSpace
from mnemo_index.domain.share import EVERYTHING, Share
from mnemo_index.domain.state import Progress
from mnemocore import calls
from mnemocore.errors import (
    DeadlineExceededError,
    IndexLaggingError,
    IndexRebuildingError,
    StoreFullError,
    WrongReplicaError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence
    from concurrent.futures import Executor
    from datetime import datetime

    from mnemo_index.domain.documents import Change
    from mnemo_index.domain.engine import SpaceEngine
    from mnemo_index.domain.ports import Feed, FeedBatch, Snapshots
    from mnemo_index.domain.revisions import Revisions
    from mnemo_index.domain.state import SpaceState
    from mnemocore.clock import Clock
    from mnemocore.ids import SpaceUid
    from mnemocore.sealing import DataKey

T = TypeVar("T")

RETRY_SECONDS: Final = 0.2
"""What a caller is told to wait when the index lags."""

SAVING_SHARE: Final = 20.0
"""Pauses between two rounds of saving are at least so many times as long as the last round."""

PATIENCE_SECONDS: Final = 0.25
"""How long a revision is waited for that an answer should contain but need not."""

REBUILD_PATIENCE_SECONDS: Final = 1.0
"""How long a space is waited for that is being built: that may take minutes, and callers have other ways."""

COMPARE_PATIENCE_SECONDS: Final = 2.0
"""How long a revision is waited for at which a space is to be compared."""

_ANSWER_MARGIN: Final = 0.2
"""Seconds before the deadline at which a wait is given up, so that the answer still arrives."""

_log = logging.getLogger(__name__)


class Spaces(Protocol):
    """Makes indexes of spaces."""

    @property
    def model(self) -> str:
        """The model of the encoder."""
        ...

    def reads(self, model: str) -> bool:
        """Whether a state whose vectors are of `model` can be restored; empty is that of an encrypted space."""
        ...

    def new(self, space_uid: SpaceUid, after: int = 0) -> SpaceEngine:
        """An empty one, whatever there was; for changes after a revision."""
        ...

    def sealed(self, space_uid: SpaceUid, revisions: Revisions) -> SealedSpace:
        """An encrypted space without memories, and how far it is."""
        ...

    def restored(self, space_uid: SpaceUid, state: SpaceState) -> Held:
        """What `state` was taken of. Raises ValueError if it is of a model that cannot be read."""
        ...

    def forget(self, space_uid: SpaceUid) -> None:
        """Leave nothing of a space that was erased, wherever its rows are."""
        ...


class SpaceStatus(NamedTuple):
    """What is known of a space.

    How far it is, how many memories are active in it, the bytes of RAM it takes, the model of its vectors (empty for an
    encrypted space), and how many memories wait for theirs.
    """

    applied_revision: int
    size: int
    memory_bytes: int
    model: str = ""
    waiting: int = 0


class Projection:
    """The indexes of all spaces of a share. `executor` does the work that would block the event loop.

    `budget` is the number of bytes of RAM that spaces may take, as far as they can be estimated; 0: any number.
    `report_lag` is told the lag in seconds, `report_drift` of each space that turned out to differ from its source,
    `report_resident` the bytes of RAM that are taken; `report_waiting` is called when memories of a space that has
    changed wait for their vectors.
    """

    def __init__(
        self,
        spaces: Spaces,
        snapshots: Snapshots,
        feed: Feed,
        clock: Clock,
        executor: Executor,
        report_lag: Callable[[float], None],
        report_drift: Callable[[], None] = lambda: None,
        report_resident: Callable[[float], None] = lambda _: None,
        budget: int = 0,
        share: Share = EVERYTHING,
        report_waiting: Callable[[], object] = lambda: None,
    ) -> None:
        self._spaces = spaces
        self._snapshots = snapshots
        self._feed = feed
        self._clock = clock
        self._executor = executor
        self._report_lag = report_lag
        self._report_drift = report_drift
        self._report_resident = report_resident
        self._share = share
        self._report_waiting = report_waiting
        self._places: dict[SpaceUid, Place] = {}
        self._residents = Residents(budget)
        self._lost: dict[SpaceUid, int] = {}
        self._lost_something = asyncio.Event()
        self._erased: set[SpaceUid] = set()
        self._applied_something = asyncio.Event()
        self._saving = asyncio.Lock()
        self._files = asyncio.Lock()
        self._making_room = asyncio.Lock()
        self._owed: int | None = 0
        self._oldest_unapplied: datetime | None = None
        self.applied_position = 0
        self.persisted_position = 0
        self.head_position = 0

    @property
    def model(self) -> str:
        """The model of the encoder."""
        return self._spaces.model

    @property
    def lag_seconds(self) -> float:
        """Age of the oldest change that is known of and not applied; 0 if there is none."""
        if self._oldest_unapplied is None:
            return 0.0
        return max(0.0, (self._clock.now() - self._oldest_unapplied).total_seconds())

    @property
    def resident_bytes(self) -> int:
        """Bytes of RAM that all spaces take, estimated."""
        return self._residents.bytes

    def held(self, space_uid: SpaceUid) -> Held | None:
        """What is in RAM of a space now."""
        place = self._places.get(space_uid)
        return None if place is None else place.held

    def status(self, space_uid: SpaceUid) -> SpaceStatus | None:
        """What is known of a space; None if no change of it was ever applied, or it was erased. Reads nothing."""
        place = self._places.get(space_uid)
        return None if place is None else _status(place)

    def all_status(self) -> list[SpaceStatus]:
        """What is known of every space."""
        return [_status(place) for place in self._places.values()]

    def statuses(self) -> dict[SpaceUid, SpaceStatus]:
        """What is known of every space, by its id."""
        return {space_uid: _status(place) for space_uid, place in self._places.items()}

    async def load(self) -> None:
        """Start from the snapshots. Their headers are read; what they hold is when it is used."""
        kept = await self._in_thread(self._snapshots.kept)
        progress = kept.progress
        own = {space_uid: head for space_uid, head in kept.heads.items() if self._share.has(space_uid)}
        usable = {space_uid: head for space_uid, head in own.items() if self._spaces.reads(head.model)}
        for space_uid in own.keys() - usable.keys():
            _log.warning("the snapshot of space %s is not used: it is of %r", space_uid, own[space_uid].model)
        nothing_is_missing = kept.complete and len(usable) == len(own) and self._share.within(progress.share)
        position = progress.position if nothing_is_missing else 0
        self._owed = progress.owed if position else None
        for space_uid, head in usable.items():
            whole = progress.position and space_uid not in progress.building
            self._places[space_uid] = Place.of(space_uid, head, 0 if whole else self._owed)
        self.applied_position = self.persisted_position = self.head_position = position
        await self._leave(
            kept.heads.keys() - own.keys(), Progress(position, self._share, progress.owed, progress.building)
        )

    async def _leave(self, others: Collection[SpaceUid], progress: Progress) -> None:
        """Remove the snapshots of spaces that belong to others now, once it is noted that they do."""
        if others:
            await self._in_thread(self._snapshots.save_progress, progress)
        for space_uid in others:
            await self._in_thread(self._snapshots.forget, space_uid)

    async def follow(self) -> None:
        """Apply the log until cancelled. Ends with the error of the feed; starting again goes on where it stopped."""
        try:
            async for batch in self._feed.changes(self.applied_position):
                await self._apply(batch)
        except LogTooShortError:
            _log.error("the log ends before position %d; everything is built anew", self.applied_position)
            await self._start_over()
            raise

    async def save(self) -> None:
        """Write the snapshots of the spaces that changed since they were last written.

        How far they are is written only if nothing is missing: not while a space is lost.
        """
        async with self._saving:
            position = self.applied_position
            changed = sorted(uid for uid, place in self._places.items() if place.changed or place.saving)
            if position == self.persisted_position and not changed:
                return
            saved = [await self._save(space_uid) for space_uid in changed]
            if self._lost or self._owed is None or not all(saved):
                return
            building = frozenset(uid for uid, place in self._places.items() if not self._is_whole(place))
            progress = Progress(position, self._share, self._owed, building)
            async with self._files:
                await self._to_the_end(self._snapshots.save_progress, progress)
            self.persisted_position = position

    async def keep_saving(self, seconds: float) -> None:
        """Save every so many seconds until cancelled; less often where saving takes long, so that it stays cheap."""
        pause = seconds
        while True:
            await self._clock.sleep(pause)
            started = self._clock.monotonic()
            await self.save()
            pause = max(seconds, SAVING_SHARE * (self._clock.monotonic() - started))

    async def keep_healing(self) -> None:
        """Build spaces anew that were lost, until cancelled. Ends with the error of the feed; can be started again."""
        while True:
            self._lost_something.clear()
            for space_uid, base in list(self._lost.items()):
                place = self._places.get(space_uid)
                if place is not None:
                    async with place.lock:
                        if place.lost:
                            await self._rebuild(place, None, self.applied_position, base)
                self._lost.pop(space_uid, None)
                await self._make_room()
            if not self._lost:
                await self._lost_something.wait()

    async def at_revision(self, space_uid: SpaceUid, revision: int) -> Held | None:
        """What is held of a space once it has applied `revision`; waits for it within the deadline of the call.

        Raises IndexLaggingError when there is no more time, IndexRebuildingError if the space is being built, and
        WrongReplicaError if it belongs to another replica.
        """
        while True:
            await self._reach(space_uid, revision)
            place = self._places.get(space_uid)
            if place is None:
                return None
            held = await self._brought(place)
            if held is not None:
                return held

    async def soon_at_revision(self, space_uid: SpaceUid, revision: int) -> Held | None:
        """What is held of a space, at `revision` if it gets there within PATIENCE_SECONDS, else as it is then."""
        with suppress(TimeoutError, IndexLaggingError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._reach(space_uid, revision)
        return await self.at_revision(space_uid, 0)

    async def opened(self, held: Held, keys: Sequence[DataKey]) -> SpaceEngine:
        """The index of a space, opened with `keys` if it is encrypted.

        The first time this opens and encodes all of its memories, step by step: what is done when the deadline comes
        needs not be done again. Raises KeyUnavailableError, DeadlineExceededError.
        """
        if not isinstance(held, SealedSpace):
            return held
        while (index := held.opened(keys)) is None:
            await self.run(partial(held.open_some, keys))
        return index

    async def unlocked(self, held: Held) -> SpaceEngine:
        """The index of a space. Raises KeyUnavailableError if it is encrypted and locked."""
        return await self.run(held.unlocked) if isinstance(held, SealedSpace) else held

    async def run(self, work: Callable[[], T], executor: Executor | None = None) -> T:
        """Do `work` beside the event loop, by `executor` if one is given.

        Raises DeadlineExceededError if the call has no time left for it.
        """
        deadline = calls.deadline.get()
        if deadline is not None and deadline <= time.monotonic():
            raise DeadlineExceededError
        return await asyncio.get_running_loop().run_in_executor(executor or self._executor, work)

    async def amend(self, space_uid: SpaceUid, work: Callable[[Held], object]) -> bool:
        """Do `work` with what is held of a space while nothing else changes it; its snapshot is then out of date.

        False if nothing is held of it, or it is being built anew.
        """
        place = self._places.get(space_uid)
        if place is None:
            return False
        async with place.lock:
            held = await self._still(place)
            if held is not None:
                await self._to_the_end(work, held)
                self._put(place)
        await self._make_room()
        return held is not None

    async def replace(self, space_uid: SpaceUid, another: Callable[[Held], Awaitable[Held | None]]) -> bool:
        """Put what `another` makes of what is held of a space in its place; nothing is applied to it in between.

        What takes its place must have applied as much. False if it has not, or there is nothing to replace.
        """
        place = self._places.get(space_uid)
        if place is None:
            return False
        async with place.lock:
            held = await self._still(place)
            made = None if held is None else await another(held)
            if made is None or made.applied_revision < place.applied or self._places.get(space_uid) is not place:
                return False
            place.hold(made)
            self._put(place)
        await self._make_room()
        return True

    async def compare(self, space_uid: SpaceUid, wanted: Fingerprint, base: int) -> Fingerprint:
        """What is held of a space, at the revision of `wanted` unless it has gone further.

        If that is of the same revision and another one, the space is not believed any more and built anew from the log.
        With a `base` this is also done if the space does not get to the revision; then only what the log tells after
        that revision counts. Raises WrongReplicaError, IndexRebuildingError.
        """
        with suppress(TimeoutError, IndexLaggingError):
            async with asyncio.timeout(COMPARE_PATIENCE_SECONDS):
                await self._reach(space_uid, wanted.applied_revision)
        held = await self.at_revision(space_uid, 0)
        found = NOTHING if held is None else await self.run(held.fingerprint)
        behind = found.applied_revision < wanted.applied_revision
        if found != wanted and (base > 0 if behind else found.applied_revision == wanted.applied_revision):
            text = "space %s differs from its source and is built anew: %s, not %s"
            _log.warning(text, space_uid, _shown(found), _shown(wanted))
            place = self._places.get(space_uid) or Place(space_uid)
            async with place.lock:
                self._lose(place, base)
            self._report_drift()
        return found

    async def _reach(self, space_uid: SpaceUid, revision: int) -> None:
        """Return when a space is whole and has applied `revision`. Raises as `at_revision` does."""
        if not self._share.has(space_uid):
            raise WrongReplicaError(space=space_uid, replica=self._share.owner(space_uid))
        patience = time.monotonic() + REBUILD_PATIENCE_SECONDS
        while True:
            place = self._places.get(space_uid)
            whole, applied = self._is_whole(place), place.applied if place else 0
            if whole and applied >= revision:
                return
            if not await self._wait(None if whole else patience):
                if not whole:
                    raise IndexRebuildingError(space=space_uid, retry_after=RETRY_SECONDS)
                raise IndexLaggingError(
                    space=space_uid, wanted=str(revision), applied=str(applied), retry_after=RETRY_SECONDS
                )

    def _is_whole(self, place: Place | None) -> bool:
        """Whether all that the log told of a space by the time it was read is applied; None: one nobody heard of."""
        owed = self._owed if place is None else place.owed
        return owed is not None and owed <= self.applied_position

    async def _brought(self, place: Place) -> Held | None:
        """What is held of a space, brought into RAM if it is not there; None if it was lost or erased meanwhile."""
        if place.held is None or place.waiting:
            async with place.lock:
                if await self._still(place) is None:
                    return None
        held = place.held
        self._residents.use(place)
        await self._make_room()
        return held

    async def _still(self, place: Place) -> Held | None:
        """What is held of a space whose lock is held; None if it was lost or erased meanwhile."""
        if self._places.get(place.uid) is not place or place.lost:
            return None
        try:
            await self._bring(place)
        except UnusableSnapshotError:
            self._lose(place, 0)
        return place.held

    async def _bring(self, place: Place) -> None:
        """Have a space in RAM with all of its changes; its lock is held. Raises UnusableSnapshotError."""
        if place.held is None:
            await self._to_the_end(self._read, place)
        if place.waiting:
            await self._to_the_end(self._take_in, place, place.waiting)
            place.waiting = []
        if place.held is None or place.held.applied_revision < place.applied:
            raise UnusableSnapshotError("it is older than it was")
        if self._places.get(place.uid) is place:
            self._residents.count(place)

    def _read(self, place: Place) -> None:
        try:
            place.hold(self._spaces.restored(place.uid, self._snapshots.load(place.uid)))
        except UnusableSnapshotError:
            raise
        except ValueError as error:
            raise UnusableSnapshotError(str(error)) from error

    def _take_in(self, place: Place, changes: Sequence[Change]) -> None:
        """Apply changes. The first sealed one shows that the space is encrypted."""
        held = place.held or self._spaces.new(place.uid)
        if not isinstance(held, SealedSpace) and any(change.sealed for change in changes):
            held = self._spaces.sealed(place.uid, held.revisions.copy())
        held.apply(changes)
        place.hold(held)

    async def _wait(self, patience: float | None) -> bool:
        """Whether something was applied before the deadline of the call came near, or the time `patience`."""
        deadline = calls.deadline.get()
        end = None if deadline is None else deadline - _ANSWER_MARGIN
        if patience is not None:
            end = patience if end is None else min(end, patience)
        try:
            async with asyncio.timeout(None if end is None else end - time.monotonic()):
                await self._applied_something.wait()
        except TimeoutError:
            return False
        return True

    async def _apply(self, batch: FeedBatch) -> None:
        self.head_position = max(self.head_position, batch.head)
        if self._owed is None:
            self._owe(batch.head)
        self._oldest_unapplied = batch.oldest
        self._report_lag(self.lag_seconds)
        by_space: dict[SpaceUid, list[Change]] = {}
        gone = batch.erased | self._erased
        for space_uid, change in batch.changes:
            if space_uid not in gone and self._share.has(space_uid):
                by_space.setdefault(space_uid, []).append(change)
        for space_uid, changes in by_space.items():
            await self._apply_to(space_uid, changes, batch.position)
            await self._make_room()
        for space_uid in batch.erased:
            await self._forget(space_uid)
            self._erased.discard(space_uid)
        self.applied_position = batch.position
        self._oldest_unapplied = None
        self._report_lag(0.0)
        self._announce()

    def _owe(self, head: int) -> None:
        """Nothing is believed of what is being built before the log is replayed up to its head of now."""
        self._owed = head
        for place in self._places.values():
            if place.owed is None and place.uid not in self._lost:
                place.owed = head

    async def _apply_to(self, space_uid: SpaceUid, changes: list[Change], position: int) -> None:
        place = self._places.get(space_uid) or Place(space_uid, self._owed)
        async with place.lock:
            if follows(place.applied, changes) and not (place.lost and place.owed is None):
                await self._append(place, [change for change in changes if change.revision > place.applied])
            else:
                await self._rebuild(place, changes[-1].revision, position, self._lost.get(space_uid, 0))

    async def _append(self, place: Place, changes: list[Change]) -> None:
        """Take changes that follow: apply them, or keep them for later if the space is not in RAM."""
        if not changes:
            return
        if place.held is None and place.stored:
            place.waiting = place.waiting + changes
            place.applied = changes[-1].revision
        elif place.waiting:
            place.waiting = place.waiting + changes
            await self._bring(place)
        else:
            await self._to_the_end(self._take_in, place, changes)
        self._put(place)

    async def _rebuild(self, place: Place, revision: int | None, position: int, base: int) -> None:
        """Build a space from what the log tells of it after revision `base`, up to `revision` or all; the lock is held.

        Changes are missing in the log itself only if the space was erased: then the log is read on, up to its head or
        to `position`, to see that, and the rest of the changes is passed over.
        """
        last, known = max(position, self.head_position), self._places.get(place.uid)
        built = Place(place.uid)
        built.hold(self._spaces.new(place.uid, base))
        async with aclosing(self._feed.changes(0, place.uid)) as batches:
            async for batch in batches:
                if place.uid in batch.erased:
                    self._erased.add(place.uid)
                    await self._forget(place.uid)
                    return
                changes = [change for _, change in batch.changes if change.revision > base]
                await self._to_the_end(self._take_in, built, changes)
                if (revision is not None and built.applied >= revision) or batch.position >= last:
                    break
        if self._places.get(place.uid) is not known:  # erased meanwhile
            return
        _log.warning("space %s was not complete and was built anew", place.uid)
        place.held, place.applied, place.waiting = built.held, built.applied, []
        if place.owed is None:
            place.owed = 0
        self._lost.pop(place.uid, None)
        self._put(place)

    def _put(self, place: Place) -> None:
        """Note that a place has changed."""
        self._places[place.uid] = place
        place.changed = True
        self._residents.count(place)
        self._announce()
        if place.unencoded:
            self._report_waiting()

    def _lose(self, place: Place, base: int) -> None:
        """Let go of a space that cannot be believed; it is built anew from the log. Its lock is held."""
        place.lose()
        self._places[place.uid] = place
        self._residents.drop(place)
        self._lost[place.uid] = base
        self._lost_something.set()

    async def _forget(self, space_uid: SpaceUid) -> None:
        """Keep nothing of a space that was erased."""
        if place := self._places.pop(space_uid, None):
            self._residents.drop(place)
        self._lost.pop(space_uid, None)
        async with self._files:
            await self._to_the_end(self._spaces.forget, space_uid)
            await self._to_the_end(self._snapshots.forget, space_uid)

    async def _start_over(self) -> None:
        """Keep nothing: the log is not the one that everything is from."""
        for space_uid in list(self._places):
            await self._forget(space_uid)
        self.applied_position = self.persisted_position = self.head_position = 0
        self._owed = None

    def _announce(self) -> None:
        """Wake everybody who waits for a revision."""
        self._applied_something.set()
        self._applied_something = asyncio.Event()

    async def _make_room(self) -> None:
        """Let those spaces leave the RAM that were not used for longest, until the others have room.

        What they hold is written before. Where that cannot be done they stay, and those without changes leave.
        """
        self._report_resident(self._residents.bytes)
        if not self._residents.crowded:
            return
        async with self._making_room:
            full = False
            while self._residents.crowded:
                place = self._residents.next_to_leave(unchanged_only=full)
                if place is None:
                    return
                try:
                    await self._evict(place)
                except StoreFullError as error:
                    _log.warning("spaces that have changed stay in memory: %s", error)
                    full = True

    async def _evict(self, place: Place) -> None:
        async with place.lock:
            if (state := await self._state_to_write(place)) is not None:
                await self._write(place, state)
            if not place.lost:
                place.release()
                self._residents.count(place)

    async def _save(self, space_uid: SpaceUid) -> bool:
        """Whether there is a snapshot of all that was known of a space, or it was erased; written now if need be."""
        place = self._places.get(space_uid)
        if place is None:
            return True
        async with place.lock:
            was_away, losses = place.held is None, place.losses
            state = await self._state_to_write(place)
        if state is not None:
            await self._write(place, state)
        if was_away:
            self._residents.postpone(place)
            await self._make_room()
        return place.losses == losses

    async def _state_to_write(self, place: Place) -> SpaceState | None:
        """The state of a space, with all of its changes; None if it did not change or is lost. The lock is held."""
        if not place.changed or self._places.get(place.uid) is not place:
            return None
        try:
            await self._bring(place)
        except UnusableSnapshotError:
            self._lose(place, 0)
            return None
        assert place.held is not None, "it was brought"
        state = await self._in_thread(_state_without_erased, place.held)
        place.changed, place.saving = False, True
        return state

    async def _write(self, place: Place, state: SpaceState) -> None:
        written, losses = False, place.losses
        try:
            async with self._files:
                if self._places.get(place.uid) is place and place.losses == losses:
                    await self._to_the_end(self._snapshots.save, place.uid, state)
                    place.stored = True
            written = True
        finally:
            place.saving = False
            place.changed = place.changed or not written

    async def _in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *arguments)

    async def _to_the_end(self, work: Callable[..., object], *arguments: object) -> None:
        """Do `work` beside the event loop; a cancellation waits for its end, so that nobody writes at the same time."""
        working = asyncio.ensure_future(self._in_thread(work, *arguments))
        try:
            await asyncio.shield(working)
        except asyncio.CancelledError:
            await asyncio.gather(working, return_exceptions=True)
            raise


def _status(place: Place) -> SpaceStatus:
    return SpaceStatus(place.applied, place.size, place.memory_bytes, place.model, place.unencoded)


def _state_without_erased(held: Held) -> SpaceState:
    held.drop_erased()
    return held.state()


def _shown(fingerprint: Fingerprint) -> str:
    checksum = fingerprint.checksum % (1 << 64)
    return f"{fingerprint.memories} memories ({checksum:016x}) at revision {fingerprint.applied_revision}"
