"""The backlog: memories that were put in without vectors are given theirs, as soon as their encoder answers.

Their texts are in RAM if they came since the start and there was room; the others are read from the event log.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing, suppress
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from mnemo_index.domain.sealed_space import SealedSpace
from mnemo_index.domain.space_index import SpaceIndex
from mnemocore.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from mnemo_index.domain.ports import Feed
    from mnemo_index.domain.projection import Projection
    from mnemo_index.domain.residents import Held
    from mnemo_index.domain.space_index import Made
    from mnemocore.clock import Clock
    from mnemocore.ids import SpaceUid

T = TypeVar("T")

FIRST_PAUSE: Final = 1.0
"""Seconds before an encoder that failed is asked again; doubled with every failure in a row."""
LONGEST_PAUSE: Final = 60.0
"""Seconds between attempts at most, unless the encoder asks for more."""
PATIENCE_SECONDS: Final = 0.5
"""How long memories are waited for that are just being encoded."""

_log = logging.getLogger(__name__)


class Bell:
    """Wakes the task that waits for it; may be rung from any thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Wake who waits, or who waits next."""
        if self._loop is None:
            self._rung.set()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._rung.set)

    def silence(self) -> None:
        """Forget what was rung for until now."""
        self._loop = asyncio.get_running_loop()
        self._rung.clear()

    async def wait(self) -> None:
        """Return when it was rung since it was silenced."""
        await self._rung.wait()


class Backlog:
    """Encodes what waits for its vectors, in all spaces in turn.

    `executor` does what blocks; searches must not need it. `report` is told how many memories wait.
    """

    def __init__(
        self,
        projection: Projection,
        feed: Feed,
        clock: Clock,
        executor: Executor,
        bell: Bell,
        report: Callable[[float], None] = lambda waiting: None,
    ) -> None:
        self._projection = projection
        self._feed = feed
        self._clock = clock
        self._executor = executor
        self._bell = bell
        self._report = report
        self._unknown: dict[SpaceUid, int] = {}
        self._stepped = asyncio.Event()
        self.failures: dict[str, str] = {}
        """Why models do not encode now, by their names; empty while all is well."""

    async def work(self) -> None:
        """Encode until cancelled. Ends with the error of the feed; can be started again."""
        pause = 0.0
        while True:
            self._bell.silence()
            worked, down = await self._round()
            self.failures = {model: str(error) for model, error in down.items()}
            self._stepped.set()
            self._stepped = asyncio.Event()
            self._report(sum(status.waiting for status in self._projection.all_status()))
            if worked:
                pause = 0.0
            elif down:
                wanted = min(error.retry_after or 0.0 for error in down.values())
                pause = max(wanted, min(LONGEST_PAUSE, 2 * pause or FIRST_PAUSE))
                await self._clock.sleep(pause)
            else:
                await self._bell.wait()

    async def soon_encoded(self, index: SpaceIndex) -> None:
        """Return when nothing in an index waits for its vector, its encoder is down, or PATIENCE_SECONDS are over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                while index.waiting and index.encodable and index.model not in self.failures:
                    await self._stepped.wait()

    async def _round(self) -> tuple[bool, dict[str, UnavailableError]]:
        """One step in every space; tells whether anything was encoded, and which models do not answer."""
        worked, down = False, dict[str, UnavailableError]()
        for space_uid, status in self._projection.statuses().items():
            if status.waiting:
                try:
                    worked |= await self._step(space_uid, down)
                except UnavailableError as error:
                    _log.info("memories of space %s go on waiting for their vectors: %s", space_uid, error)
        return worked, down

    async def _step(self, space_uid: SpaceUid, down: dict[str, UnavailableError]) -> bool:
        held = await self._projection.at_revision(space_uid, 0)
        if held is None:
            return False
        index = index_of(held)
        if index is None or index.model in down or not index.encodable:
            return False
        if index.waiting and not index.waiting_texts:
            await self._supply(space_uid, held, index)
        try:
            made = await self._in_thread(index.made_vectors)
        except UnavailableError as error:
            down[index.model] = error
            raise
        if made is None:
            return False
        return await self._projection.amend(space_uid, partial(_give, made=made))

    async def _supply(self, space_uid: SpaceUid, held: Held, index: SpaceIndex) -> None:
        """Bring the texts of what waits from the log, as many as there is room for."""
        applied, last = held.applied_revision, self._projection.applied_position
        if isinstance(held, SealedSpace) or self._unknown.get(space_uid) == applied:
            return
        async with aclosing(self._feed.changes(0, space_uid)) as batches:
            async for batch in batches:
                await self._in_thread(index.supply, [change for _, change in batch.changes])
                if batch.position >= last or index.has_texts_enough:
                    break
        if not index.waiting_texts:
            _log.warning("the log has no text for %d memories of space %s", index.waiting, space_uid)
            self._unknown[space_uid] = applied

    async def _in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *arguments)


def index_of(held: Held) -> SpaceIndex | None:
    """The tables in this process of what is held of a space; None if another engine has them."""
    index = held.index if isinstance(held, SealedSpace) else held
    return index if isinstance(index, SpaceIndex) else None


def _give(held: Held, made: Made) -> None:
    index = index_of(held)
    if index is not None and index.model == made.model:  # another model may have taken its place
        index.give_vectors(made)
