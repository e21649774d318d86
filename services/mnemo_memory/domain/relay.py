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
from mnemocore.errors import MnemoError, SpaceNotFoundError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

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
        for space in spaces:
            try:
                published += await self._publish(space)
            except UnavailableError:
                raise  # the log does not answer: no space can be published
            except SpaceNotFoundError:
                continue  # it was erased meanwhile
            except MnemoError as error:
                _log.error("space %s cannot be published, the others go on: %s", space.uid, error)
            except Exception:  # noqa: BLE001  (a fault that one space brings to light does not hold up the others)
                _log.exception("space %s cannot be published, the others go on", space.uid)
        return published

    async def _publish(self, space: Space) -> int:
        revisions = await self._store.unpublished_revisions(space, BATCH)
        if revisions:
            self._report_lag((self._clock.now() - revisions[0].committed_at).total_seconds())
            await self._log.publish(space, revisions)
            for revision in revisions:
                if revision.change is Change.ERASED:
                    await self._redact(space, revision)
            await self._publications.mark_published(space.uid, revisions[-1].revision)
        return len(revisions)

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
