"""The relay: publishes committed revisions to the event log, in order per space, at least once.

It needs no lock between replicas: each publishes a run that starts right behind what is marked as published, and the
log stores an event once, so two relays at work repeat each other but never overtake or skip. What was erased is taken
out of the log before its revision counts as published. What was read of a space that is erased meanwhile may be
published all the same: the log does not take it (see `erasure`).
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from mnemo_memory.domain.memory import Change
from mnemo_memory.domain.ports import Run
from mnemocore.errors import MnemoError, SpaceNotFoundError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mnemo_memory.domain.memory import Revision, Space
    from mnemo_memory.domain.ports import EventLog, Publications, Store
    from mnemocore.clock import Clock

BATCH: Final = 512
SPACES_A_ROUND: Final = 64
_log = logging.getLogger(__name__)


class Relay:
    """Moves revisions from the store to the log. `wake` after a commit makes it look at once.

    `report_lag` is told the age in seconds of the oldest revision that is not published, 0 if there is none.
    """

    def __init__(
        self,
        publications: Publications,
        store: Store,
        log: EventLog,
        clock: Clock,
        poll_seconds: float,
        report_lag: Callable[[float], None],
    ) -> None:
        self._publications = publications
        self._store = store
        self._log = log
        self._clock = clock
        self._poll_seconds = poll_seconds
        self._report_lag = report_lag
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Say that something was committed."""
        self._wake.set()

    async def run(self) -> None:
        """Publish until cancelled. Ends with the error of the store or the log; nothing is lost by starting again."""
        while True:
            self._wake.clear()
            if await self.publish_pending() == 0:
                await self._wait()

    async def publish_pending(self) -> int:
        """Publish a batch of every space that has unpublished revisions; returns the number of revisions."""
        spaces = await self._publications.unpublished(SPACES_A_ROUND)
        if not spaces:
            self._store.forget_recent()
            self._report_lag(0.0)
        published = 0
        runs: list[Run] = []
        for space in spaces:
            if run := await self._run_of(space):
                runs.append(run)
            if sum(len(each.revisions) for each in runs) >= BATCH:
                published += await self._publish(runs)
                runs = []
        return published + await self._publish(runs)

    async def _run_of(self, space: Space) -> Run | None:
        """What of a space is to be published next; None if nothing is, or nothing can be read of it."""
        try:
            revisions = await self._store.unpublished_revisions(space, BATCH)
        except Exception as error:  # noqa: BLE001  (one space does not hold up the others)
            _go_on(space, error)
            return None
        if not revisions:
            return None
        self._report_lag((self._clock.now() - revisions[0].committed_at).total_seconds())
        return Run(space, revisions)

    async def _publish(self, runs: Sequence[Run]) -> int:
        """Publish together, as fast as one; if it fails, each alone. Returns the number of revisions."""
        if not runs:
            return 0
        try:
            await self._log.publish(runs)
            erasures = {run.space.uid: [each for each in run.revisions if each.change is Change.ERASED] for run in runs}
            await self._mark([run for run in runs if not erasures[run.space.uid]])
            for run in runs:
                if erased := erasures[run.space.uid]:
                    for revision in erased:
                        await self._redact(run.space, revision)
                    await self._mark([run])
        except Exception as error:  # noqa: BLE001  (one space does not hold up the others)
            if len(runs) > 1 and not isinstance(error, UnavailableError):
                return sum([await self._publish([run]) for run in runs])
            _go_on(runs[0].space, error)
            return 0
        return sum(len(run.revisions) for run in runs)

    async def _mark(self, runs: Sequence[Run]) -> None:
        if runs:
            await self._publications.mark_published({run.space.uid: run.revisions[-1].revision for run in runs})

    async def _redact(self, space: Space, erased: Revision) -> None:
        """Take what was erased out of the log: every revision of the memory before the one that erased it."""
        after = 0
        while earlier := await self._store.list_revisions(space, erased.memory_id, after, BATCH):
            numbers = [each.revision for each in earlier if each.revision < erased.revision]
            if numbers:
                await self._log.redact(space, numbers)
            after = earlier[-1].revision

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._poll_seconds):
                await self._wake.wait()
        except TimeoutError:
            return


def _go_on(space: Space, error: Exception) -> None:
    """Say what went wrong with one space; raises what goes wrong with all of them."""
    if isinstance(error, UnavailableError):
        raise error
    if isinstance(error, SpaceNotFoundError):
        return  # it was erased meanwhile
    if isinstance(error, MnemoError):
        _log.error("space %s cannot be published, the others go on: %s", space.uid, error)
    else:
        _log.error("space %s cannot be published, the others go on", space.uid, exc_info=error)
