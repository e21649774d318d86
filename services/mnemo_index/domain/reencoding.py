"""Re-encoding: spaces whose vectors are of another model than the chosen one get new ones while the old ones serve.

The index keeps no texts. So a space is built anew from the event log beside the one that goes on serving, whose
questions are encoded with its own model, until it holds the same memories at the same revisions; then it takes the
place of the other in one step. The old vectors are set aside until the operator commits, or for a time, and can be
brought back. What is under way survives a restart, as does the plan.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeVar

from mnemo_index.domain.backlog import FIRST_PAUSE, LONGEST_PAUSE, Bell
from mnemo_index.domain.models import VARIABLE
from mnemo_index.domain.ports import UnusableSnapshotError
from mnemo_index.domain.space_index import SpaceIndex
from mnemo_index.domain.state import Head
from mnemocore.errors import InvalidSettingError, PeerUnavailableError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
    from concurrent.futures import Executor
    from datetime import timedelta

    from mnemo_index.domain.ports import Feed, FeedBatch
    from mnemo_index.domain.projection import Projection, SpaceStatus
    from mnemo_index.domain.residents import Held
    from mnemo_index.domain.state import SpaceState
    from mnemocore.clock import Clock
    from mnemocore.ids import SpaceUid

T = TypeVar("T")

SAVED_EVERY: Final = 4096
"""Revisions after which what is under way is written down."""
CATCH_UP_SECONDS: Final = 5.0
"""How long the log is waited for while a space takes no changes."""
EXPIRY_SECONDS: Final = 600.0
"""How often it is looked whether vectors that were set aside have been kept for long enough."""

_log = logging.getLogger(__name__)


class Phase(StrEnum):
    """What is done."""

    RUNNING = "running"
    PAUSED = "paused"
    ROLLING_BACK = "rolling back"
    ROLLED_BACK = "rolled back"


@dataclass(frozen=True, slots=True)
class Plan:
    """What an operator wants of vectors of `model`, and since when (ISO 8601) which spaces have older ones aside."""

    model: str = ""
    phase: str = Phase.RUNNING
    aside: Mapping[str, str] = field(default_factory=dict)


class Plans(Protocol):
    """Keeps the plan. Blocking."""

    def load(self) -> Plan:
        """What was saved last; an empty plan at first."""
        ...

    def save(self, plan: Plan) -> None:
        """Keep the plan durably."""
        ...


class Shelf(Protocol):
    """Keeps states of spaces that do not serve. Blocking."""

    def kept(self) -> Mapping[SpaceUid, Head]:
        """What there is, without reading the states. Called once, at first."""
        ...

    def load(self, space_uid: SpaceUid) -> SpaceState:
        """The state of a space. Raises UnusableSnapshotError."""
        ...

    def save(self, space_uid: SpaceUid, state: SpaceState) -> None:
        """Keep a state. Raises StoreFullError."""
        ...

    def forget(self, space_uid: SpaceUid) -> None:
        """Keep nothing of a space any more."""
        ...


class IndexMaker(Protocol):
    """Makes indexes of spaces in this process."""

    @property
    def model(self) -> str:
        """The model of the encoder that was chosen."""
        ...

    def reads(self, model: str) -> bool:
        """Whether vectors of a model are held in this process."""
        ...

    def new(self, space_uid: SpaceUid) -> SpaceIndex:
        """An empty one with the encoder that was chosen."""
        ...

    def restored(self, space_uid: SpaceUid, state: SpaceState) -> Held:
        """What `state` was taken of, with the encoder of its model."""
        ...


class Progress(NamedTuple):
    """How far it is. Encrypted spaces do not count: they are encoded whenever they are opened.

    `model` is the one that is wanted, `spaces_done` and `revisions_done` say how much has its vectors, or is on the way
    to them; `aside` are spaces of which older vectors are set aside, `stuck` those that cannot be built from the log.
    `cause` says why it does not go on now, if it does not.
    """

    model: str
    phase: Phase
    spaces: int
    spaces_done: int
    revisions: int
    revisions_done: int
    aside: int
    stuck: int
    current: str
    cause: str

    @property
    def complete(self) -> bool:
        """Whether there is nothing to do."""
        return self.spaces_done == self.spaces


class Reencoding:
    """Brings all spaces to the model of the encoder that was chosen, one after the other.

    `building` keeps what is under way, `replaced` what was set aside, for `keep`. `executor` does what blocks;
    `openable` tells whether there is an encoder for a model.
    """

    def __init__(
        self,
        projection: Projection,
        spaces: IndexMaker,
        building: Shelf,
        replaced: Shelf,
        plans: Plans,
        feed: Feed,
        clock: Clock,
        executor: Executor,
        keep: timedelta,
        openable: Callable[[str], bool],
    ) -> None:
        self._projection = projection
        self._spaces = spaces
        self._building = building
        self._replaced = replaced
        self._plans = plans
        self._feed = feed
        self._clock = clock
        self._executor = executor
        self._keep = keep
        self._openable = openable
        self._bell = Bell()
        self._plan = Plan()
        self._saving = threading.Lock()
        self._begun: dict[SpaceUid, Head] = {}
        self._aside: dict[SpaceUid, Head] = {}
        self._stuck: set[SpaceUid] = set()
        self._current: tuple[SpaceUid, SpaceIndex, int] | None = None
        self._cause = ""

    async def load(self) -> None:
        """Go on with what was under way; called once the projection is loaded."""
        plan = await self._in_thread(self._plans.load)
        if plan.model != self._spaces.model:
            plan = Plan(self._spaces.model, Phase.RUNNING, plan.aside)
        statuses = self._projection.statuses()
        self._begun = dict(await self._in_thread(self._building.kept))
        self._aside = dict(await self._in_thread(self._replaced.kept))
        for space_uid, head in list(self._begun.items()):
            if space_uid not in statuses or head.model in ("", statuses[space_uid].model):
                await self._drop(self._building, self._begun, space_uid)
        for space_uid, head in list(self._aside.items()):
            if space_uid not in statuses or head.model in ("", statuses[space_uid].model):
                await self._drop(self._replaced, self._aside, space_uid)
        now = self._clock.now().isoformat()
        self._plan = replace(plan, aside={uid: plan.aside.get(uid, now) for uid in self._aside})

    async def work(self) -> None:
        """Re-encode until cancelled. Ends with the error of the feed; starting again goes on where it stopped."""
        pause = 0.0
        while True:
            self._bell.silence()
            space_uid = self._next()
            if space_uid is None:
                await self._rest()
                continue
            try:
                await self._move(space_uid)
                pause, self._cause = 0.0, ""
            except UnavailableError as error:
                _log.info("re-encoding waits: %s", error)
                self._cause = str(error)
                pause = max(error.retry_after or 0.0, min(LONGEST_PAUSE, 2 * pause or FIRST_PAUSE))
                await self._clock.sleep(pause)

    async def keep_expiring(self) -> None:
        """Forget vectors that were set aside for long enough, until cancelled."""
        while True:
            now = self._clock.now()
            await self._commit(uid for uid, since in self._plan.aside.items() if now - _moment(since) >= self._keep)
            await self._clock.sleep(EXPIRY_SECONDS)

    def progress(self) -> Progress:
        """How far it is."""
        counted = {uid: status for uid, status in self._projection.statuses().items() if self._counts(status)}
        done = {uid for uid, status in counted.items() if status.model == self._plan.model}
        on_the_way = {uid: head.applied_revision for uid, head in self._begun.items()}
        if self._current is not None and not self._back:
            on_the_way[self._current[0]] = self._current[1].applied_revision
        return Progress(
            model=self._plan.model,
            phase=Phase(self._plan.phase),
            spaces=len(counted),
            spaces_done=len(done),
            revisions=sum(status.applied_revision for status in counted.values()),
            revisions_done=sum(
                status.applied_revision if uid in done else min(on_the_way.get(uid, 0), status.applied_revision)
                for uid, status in counted.items()
            ),
            aside=len(self._aside.keys() & counted.keys()),
            stuck=len(self._stuck & counted.keys() - done),
            current=self._current[0] if self._current else "",
            cause=self._cause,
        )

    async def pause(self) -> None:
        """Stop where it is; what is under way is kept."""
        if not self._back:
            await self._become(Phase.PAUSED)

    async def resume(self) -> None:
        """Go on, also after a rollback, also with what could not be built before."""
        self._stuck.clear()
        await self._become(Phase.RUNNING)

    async def rollback(self) -> None:
        """Bring the older vectors back wherever they are set aside, and re-encode nothing until it is resumed.

        Raises InvalidSettingError if the encoder of some of them cannot be opened: they would be found by words only.
        """
        for model in sorted({head.model for head in self._aside.values()}):
            if not await self._in_thread(self._openable, model):
                text = f"the encoder of the older vectors, {model}, cannot be opened; allowed is to keep the newer ones"
                raise InvalidSettingError(text, setting=VARIABLE)
        await self._become(Phase.ROLLING_BACK if self._aside else Phase.ROLLED_BACK)

    async def commit(self) -> int:
        """Forget all vectors that were set aside; returns of how many spaces."""
        return await self._commit(list(self._plan.aside))

    @property
    def _back(self) -> bool:
        return self._plan.phase in (Phase.ROLLING_BACK, Phase.ROLLED_BACK)

    def _counts(self, status: SpaceStatus) -> bool:
        """Whether a space has vectors that are kept in this process."""
        return bool(status.model) and self._spaces.reads(status.model)

    def _next(self) -> SpaceUid | None:
        """The space that is to be moved now."""
        statuses = self._projection.statuses()
        if self._plan.phase == Phase.ROLLING_BACK:
            left = (uid for uid in self._aside if uid in statuses)
        elif self._plan.phase == Phase.RUNNING:
            left = (uid for uid, it in statuses.items() if self._counts(it) and it.model != self._plan.model)
        else:
            return None
        return next((uid for uid in left if uid not in self._stuck), None)

    async def _rest(self) -> None:
        """Wait until there may be something to do."""
        if self._plan.phase == Phase.ROLLING_BACK:
            await self._become(Phase.ROLLED_BACK)
        else:
            await self._bell.wait()

    async def _move(self, space_uid: SpaceUid) -> None:
        """Move a space to the vectors that are wanted; returns also if it was told to stop, or cannot."""
        phase = self._plan.phase
        source, begun = (self._replaced, self._aside) if self._back else (self._building, self._begun)
        if self._current is None or self._current[0] != space_uid:
            index = await self._in_thread(self._restored, source, space_uid) if space_uid in begun else None
            self._current = space_uid, index or self._empty(space_uid), 0
        _, index, position = self._current
        saved = index.applied_revision
        try:
            async with aclosing(self._feed.changes(position, space_uid)) as batches:
                async for batch in batches:
                    if space_uid in batch.erased or any(change.sealed for _, change in batch.changes):
                        self._stuck.add(space_uid)
                        break
                    await self._take(index, batch)
                    self._current = space_uid, index, batch.position
                    if await self._taken_over(space_uid, index, batches, batch):
                        return
                    if space_uid in self._stuck or self._plan.phase != phase:
                        break
                    if not self._back and index.applied_revision >= saved + SAVED_EVERY:
                        await self._save(space_uid, index)
                        saved = index.applied_revision
        except UnavailableError:
            if not self._back:
                await self._save(space_uid, index)
            raise
        await self._leave(space_uid, index)

    def _empty(self, space_uid: SpaceUid) -> SpaceIndex:
        index = self._spaces.new(space_uid)
        assert isinstance(index, SpaceIndex), "spaces of other engines are always of the model that is wanted"
        return index

    async def _leave(self, space_uid: SpaceUid, index: SpaceIndex) -> None:
        """Let go of what is under way; it is kept if it was to be finished later."""
        self._current = None
        if self._plan.phase == Phase.PAUSED:
            await self._save(space_uid, index)

    async def _take(self, index: SpaceIndex, batch: FeedBatch) -> None:
        changes = [change for _, change in batch.changes]
        await self._in_thread(index.apply, changes)
        if not index.has_texts_enough:  # it was written down while it waited for vectors
            await self._in_thread(index.supply, changes)
        while index.waiting_texts and await self._in_thread(index.encode_some):
            pass

    async def _taken_over(
        self, space_uid: SpaceUid, index: SpaceIndex, batches: AsyncGenerator[FeedBatch], batch: FeedBatch
    ) -> bool:
        """Whether `index` has taken the place of what is held; tried once it may hold the same."""
        status = self._projection.status(space_uid)
        silent = not batch.changes and batch.position >= self._projection.head_position
        if status is None or (silent and _seen(index) < status.applied_revision):
            self._give_up(space_uid)
            return False
        if _seen(index) < status.applied_revision:
            return False
        aside, noted = (self._building, self._begun) if self._back else (self._replaced, self._aside)
        states: list[SpaceState] = []

        async def another(held: Held) -> Held | None:
            if not isinstance(held, SpaceIndex):
                return None
            await self._catch_up(index, held, batches)
            if not await self._in_thread(_same, index, held):
                self._give_up(space_uid)
                return None
            index.revisions = held.revisions.copy()
            states.append(await self._in_thread(_state_of, held))
            await self._in_thread(aside.save, space_uid, states[0])
            return index

        if not await self._projection.replace(space_uid, another):
            return False
        noted[space_uid] = Head(states[0].model, states[0].applied_revision, states[0].size)
        await self._finish(space_uid)
        return True

    async def _catch_up(self, index: SpaceIndex, held: Held, batches: AsyncGenerator[FeedBatch]) -> None:
        """Take what `held`, to which nothing is applied now, has applied already."""
        try:
            async with asyncio.timeout(CATCH_UP_SECONDS):
                while _seen(index) < held.applied_revision:
                    batch = await anext(batches)
                    await self._in_thread(index.apply, [change for _, change in batch.changes])
        except (TimeoutError, StopAsyncIteration):
            raise PeerUnavailableError("the log does not tell what the index has applied", target="events") from None

    def _give_up(self, space_uid: SpaceUid) -> None:
        """Leave a space as it is until it is resumed: nothing is replaced by something else than the same memories."""
        _log.error("space %s keeps its vectors: the log does not tell what it holds", space_uid)
        self._stuck.add(space_uid)

    async def _finish(self, space_uid: SpaceUid) -> None:
        """Note that a space was moved; what it was made of is not needed any more once it is saved."""
        self._current = None
        if self._back:
            aside = {uid: since for uid, since in self._plan.aside.items() if uid != space_uid}
            await self._keep_plan(replace(self._plan, aside=aside))
            await self._projection.save()
            await self._drop(self._replaced, self._aside, space_uid)
            _log.info("space %s has its older vectors again", space_uid)
        else:
            aside = {**self._plan.aside, space_uid: self._clock.now().isoformat()}
            await self._keep_plan(replace(self._plan, aside=aside))
            await self._projection.save()
            await self._drop(self._building, self._begun, space_uid)
            _log.info("space %s is encoded by %s", space_uid, self._plan.model)

    async def _become(self, phase: Phase) -> None:
        await self._keep_plan(replace(self._plan, phase=phase))
        self._bell.ring()

    async def _keep_plan(self, plan: Plan) -> None:
        """Go by `plan` from now on; returns when it, or one that has replaced it meanwhile, is saved."""
        self._plan = plan
        await self._in_thread(self._save_plan)

    def _save_plan(self) -> None:
        """Blocks. A caller that is gone, its time being over, leaves a thread that saves."""
        with self._saving:
            self._plans.save(self._plan)

    async def _commit(self, spaces: Iterable[str]) -> int:
        gone = self._aside.keys() & set(spaces)
        if gone and self._plan.phase != Phase.ROLLING_BACK:
            for space_uid in gone:
                await self._drop(self._replaced, self._aside, space_uid)
            left = {uid: since for uid, since in self._plan.aside.items() if uid not in gone}
            await self._keep_plan(replace(self._plan, aside=left))
            return len(gone)
        return 0

    async def _save(self, space_uid: SpaceUid, index: SpaceIndex) -> None:
        state = await self._in_thread(_state_of, index)
        await self._in_thread(self._building.save, space_uid, state)
        self._begun[space_uid] = Head(state.model, state.applied_revision, state.size)

    async def _drop(self, shelf: Shelf, noted: dict[SpaceUid, Head], space_uid: SpaceUid) -> None:
        await self._in_thread(shelf.forget, space_uid)
        noted.pop(space_uid, None)

    def _restored(self, shelf: Shelf, space_uid: SpaceUid) -> SpaceIndex | None:
        try:
            held = self._spaces.restored(space_uid, shelf.load(space_uid))
        except UnusableSnapshotError as error:
            _log.error("what was kept of space %s cannot be used: %s", space_uid, error)
            return None
        return held if isinstance(held, SpaceIndex) else None

    async def _in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *arguments)


def _seen(index: SpaceIndex) -> int:
    """The newest revision that is applied, whatever is missing before it."""
    return max((index.applied_revision, *index.revisions.ahead))


def _same(index: SpaceIndex, held: SpaceIndex) -> bool:
    """Whether both hold the same memories at the same revisions."""
    return index.fingerprint()[1:] == held.fingerprint()[1:]


def _state_of(index: SpaceIndex) -> SpaceState:
    index.drop_erased()
    return index.state()


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
