"""The projection: follows the event log, keeps an index for every space, and survives restarts by snapshots.

Changes of a space are applied in order. A space whose next change is not the one that follows is built anew from the
beginning of the log before anything else is applied to it. Where snapshots are missing the whole log is replayed: what
a space knows already changes nothing in it. A space that was erased leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, TypeVar

from mnemo_index.domain.sealed_space import SealedSpace
from mnemo_index.domain.space_index import SpaceIndex
from mnemocore import calls
from mnemocore.errors import DeadlineExceededError, IndexLaggingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Executor
    from datetime import datetime

    from mnemo_index.domain.documents import Change
    from mnemo_index.domain.ports import Feed, FeedBatch
    from mnemo_index.domain.revisions import Revisions
    from mnemo_index.domain.state import SpaceState
    from mnemocore.clock import Clock
    from mnemocore.ids import SpaceUid
    from mnemocore.sealing import DataKey

T = TypeVar("T")

Held: TypeAlias = SpaceIndex | SealedSpace
"""What is held of a space: of an encrypted one, what opens with its keys."""

RETRY_SECONDS: Final = 0.2
"""What a caller is told to wait when the index lags."""

SAVING_SHARE: Final = 20.0
"""Pauses between two rounds of saving are at least so many times as long as the last round."""

PATIENCE_SECONDS: Final = 0.25
"""How long a revision is waited for that an answer should contain but need not."""

_ANSWER_MARGIN: Final = 0.2
"""Seconds before the deadline at which a wait is given up, so that the answer still arrives."""

_log = logging.getLogger(__name__)


class Snapshots(Protocol):
    """Keeps the states of spaces and the position of the log they stand for. Blocking."""

    def load(self) -> tuple[int, Iterator[tuple[SpaceUid, SpaceState]]]:
        """The position up to which nothing is missing, and the states; what cannot be read is set aside."""
        ...

    def save(self, space_uid: SpaceUid, state: SpaceState) -> None:
        """Keep a state in the place of the one before, as a whole."""
        ...

    def save_position(self, position: int) -> None:
        """Say that the saved states contain everything up to `position`."""
        ...

    def forget(self, space_uid: SpaceUid) -> None:
        """Keep nothing of a space any more."""
        ...


class Spaces(Protocol):
    """Makes indexes of spaces."""

    @property
    def model(self) -> str:
        """The model of the encoder."""
        ...

    def new(self) -> SpaceIndex:
        """An empty one."""
        ...

    def sealed(self, space_uid: SpaceUid, revisions: Revisions) -> SealedSpace:
        """An encrypted space without memories, and how far it is."""
        ...

    def restored(self, space_uid: SpaceUid, state: SpaceState) -> Held:
        """What `state` was taken of. Raises ValueError if it is of another model."""
        ...


class Projection:
    """The indexes of all spaces. `executor` does the work that would block the event loop."""

    def __init__(
        self,
        spaces: Spaces,
        snapshots: Snapshots,
        feed: Feed,
        clock: Clock,
        executor: Executor,
        report_lag: Callable[[float], None],
    ) -> None:
        self._spaces = spaces
        self._snapshots = snapshots
        self._feed = feed
        self._clock = clock
        self._executor = executor
        self._report_lag = report_lag
        self._indexes: dict[SpaceUid, Held] = {}
        self._changed: set[SpaceUid] = set()
        self._erased: set[SpaceUid] = set()
        self._applied_something = asyncio.Event()
        self._saving = asyncio.Lock()
        self._files = asyncio.Lock()
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

    def held(self, space_uid: SpaceUid) -> Held | None:
        """What is held of a space; None if no change of it was ever applied, or it was erased."""
        return self._indexes.get(space_uid)

    def all_held(self) -> list[Held]:
        """What is held of all spaces."""
        return list(self._indexes.values())

    async def load(self) -> None:
        """Start from the snapshots."""
        await self._in_thread(self._load)

    async def follow(self) -> None:
        """Apply the log until cancelled. Ends with the error of the feed; starting again goes on where it stopped."""
        async for batch in self._feed.changes(self.applied_position):
            await self._apply(batch)

    async def save(self) -> None:
        """Write the snapshots of the spaces that changed since they were last written."""
        async with self._saving:
            position, changed = self.applied_position, self._changed
            if position == self.persisted_position:
                return
            self._changed = set()
            try:
                for space_uid in sorted(changed):
                    await self._save(space_uid)
                async with self._files:
                    await self._to_the_end(self._snapshots.save_position, position)
            except BaseException:
                self._changed |= changed
                raise
            self.persisted_position = position

    async def keep_saving(self, seconds: float) -> None:
        """Save every so many seconds until cancelled; less often where saving takes long, so that it stays cheap."""
        pause = seconds
        while True:
            await self._clock.sleep(pause)
            started = self._clock.monotonic()
            await self.save()
            pause = max(seconds, SAVING_SHARE * (self._clock.monotonic() - started))

    async def at_revision(self, space_uid: SpaceUid, revision: int) -> Held | None:
        """What is held of a space once it has applied `revision`; waits for it within the deadline of the call.

        Raises IndexLaggingError when there is no more time.
        """
        while True:
            index = self._indexes.get(space_uid)
            applied = index.applied_revision if index else 0
            if applied >= revision:
                return index
            if not await self._wait():
                raise IndexLaggingError(
                    space=space_uid, wanted=str(revision), applied=str(applied), retry_after=RETRY_SECONDS
                )

    async def soon_at_revision(self, space_uid: SpaceUid, revision: int) -> Held | None:
        """What is held of a space, at `revision` if it gets there within PATIENCE_SECONDS, else as it is then."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await self.at_revision(space_uid, revision)
        except (TimeoutError, IndexLaggingError):
            return self._indexes.get(space_uid)

    async def opened(self, held: Held, keys: Sequence[DataKey]) -> SpaceIndex:
        """The index of a space, opened with `keys` if it is encrypted.

        The first time this opens and encodes all of its memories, step by step: what is done when the deadline comes
        needs not be done again. Raises KeyUnavailableError, DeadlineExceededError.
        """
        if isinstance(held, SpaceIndex):
            return held
        while (index := held.opened(keys)) is None:
            await self.run(partial(held.open_some, keys))
        return index

    async def unlocked(self, held: Held) -> SpaceIndex:
        """The index of a space. Raises KeyUnavailableError if it is encrypted and locked."""
        return held if isinstance(held, SpaceIndex) else await self.run(held.unlocked)

    async def run(self, work: Callable[[], T]) -> T:
        """Do `work` beside the event loop. Raises DeadlineExceededError if the call has no time left for it."""
        deadline = calls.deadline.get()
        if deadline is not None and deadline <= time.monotonic():
            raise DeadlineExceededError
        return await self._in_thread(work)

    async def _wait(self) -> bool:
        """Whether something was applied before the deadline of the call came near."""
        deadline = calls.deadline.get()
        rest = None if deadline is None else deadline - time.monotonic() - _ANSWER_MARGIN
        try:
            async with asyncio.timeout(rest):
                await self._applied_something.wait()
        except TimeoutError:
            return False
        return True

    async def _apply(self, batch: FeedBatch) -> None:
        self.head_position = max(self.head_position, batch.head)
        self._oldest_unapplied = batch.oldest
        self._report_lag(self.lag_seconds)
        by_space: dict[SpaceUid, list[Change]] = {}
        gone = batch.erased | self._erased
        for space_uid, change in batch.changes:
            if space_uid not in gone:
                by_space.setdefault(space_uid, []).append(change)
        for space_uid, changes in by_space.items():
            await self._apply_to(space_uid, changes, batch.position)
        for space_uid in batch.erased:
            await self._forget(space_uid)
            self._erased.discard(space_uid)
        self.applied_position = batch.position
        self._oldest_unapplied = None
        self._report_lag(0.0)
        self._announce()

    async def _apply_to(self, space_uid: SpaceUid, changes: list[Change], position: int) -> None:
        held = self._indexes.get(space_uid) or self._spaces.new()
        if _has_gap(held.applied_revision, changes):
            await self._rebuild(space_uid, changes[-1].revision, position)
        else:
            self._put(space_uid, await self._after(space_uid, held, changes))

    async def _after(self, space_uid: SpaceUid, held: Held, changes: list[Change]) -> Held:
        """What is held of a space after `changes`. The first sealed one shows that the space is encrypted."""
        if isinstance(held, SpaceIndex) and any(change.sealed for change in changes):
            held = self._spaces.sealed(space_uid, held.revisions.copy())
        await self._in_thread(held.apply, changes)
        return held

    async def _rebuild(self, space_uid: SpaceUid, revision: int, position: int) -> None:
        """Build the index of a space from all its changes up to `revision`.

        Changes are missing in the log itself only if the space was erased: then the log is read on, up to its head or
        to `position`, to see that, and the rest of the changes is passed over.
        """
        last = max(position, self.head_position)
        held: Held = self._spaces.new()
        async with aclosing(self._feed.changes(0, space_uid)) as batches:
            async for batch in batches:
                if space_uid in batch.erased:
                    self._erased.add(space_uid)
                    await self._forget(space_uid)
                    return
                held = await self._after(space_uid, held, [change for _, change in batch.changes])
                if held.applied_revision >= revision or batch.position >= last:
                    break
        _log.warning("space %s was not complete and was built anew", space_uid)
        self._put(space_uid, held)

    def _put(self, space_uid: SpaceUid, held: Held) -> None:
        self._indexes[space_uid] = held
        self._changed.add(space_uid)
        self._announce()

    async def _forget(self, space_uid: SpaceUid) -> None:
        """Keep nothing of a space that was erased."""
        self._indexes.pop(space_uid, None)
        async with self._files:
            self._changed.discard(space_uid)
            await self._to_the_end(self._snapshots.forget, space_uid)

    def _announce(self) -> None:
        """Wake everybody who waits for a revision."""
        self._applied_something.set()
        self._applied_something = asyncio.Event()

    def _load(self) -> None:
        position, states = self._snapshots.load()
        for space_uid, state in states:
            try:
                self._indexes[space_uid] = self._spaces.restored(space_uid, state)
            except ValueError as error:
                _log.warning("the snapshot of space %s is not used: %s", space_uid, error)
                position = 0
        self.applied_position = self.persisted_position = self.head_position = position

    async def _save(self, space_uid: SpaceUid) -> None:
        """Write the snapshot of a space that was not erased in the meantime."""
        async with self._files:
            held = self._indexes.get(space_uid)
            if held is not None:
                await self._to_the_end(self._write, space_uid, held)

    def _write(self, space_uid: SpaceUid, held: Held) -> None:
        held.drop_erased()
        self._snapshots.save(space_uid, held.state())

    async def _in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *arguments)

    async def _to_the_end(self, work: Callable[..., None], *arguments: object) -> None:
        """Do `work` beside the event loop; a cancellation waits for its end, so that nobody writes at the same time."""
        working = asyncio.ensure_future(self._in_thread(work, *arguments))
        try:
            await asyncio.shield(working)
        except asyncio.CancelledError:
            await asyncio.gather(working, return_exceptions=True)
            raise


def _has_gap(applied: int, changes: Sequence[Change]) -> bool:
    """Whether a change does not follow the one before it, the first of which follows revision `applied`."""
    for change in changes:
        if change.revision > applied + 1:
            return True
        applied = max(applied, change.revision)
    return False
