"""How long events of no space are kept."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from mnemocore.errors import MnemoError
from mnemocore.outages import level_of

if TYPE_CHECKING:
    from mnemo_events.domain.ports import EventLog
    from mnemocore.clock import Clock

PERIOD_SECONDS: Final = 60.0
MEBIBYTE: Final = 1 << 20
BATCH: Final = 1000
"""Events removed at once, so that nobody waits long for what that locks."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Keep:
    """What is kept of the events of no space: none that is older than so many days, no more than so many, and no more
    than have so many MiB of data; 0: all."""

    days: int = 0
    events: int = 0
    mebibytes: int = 0


class Retention:
    """Trims the log. Every replica may do so: what one has removed another does not find."""

    def __init__(self, log: EventLog, keep: Keep, clock: Clock) -> None:
        self._event_log = log
        self._keep = keep
        self._clock = clock

    async def run(self) -> None:
        """Trim once a minute until cancelled, also if the log did not answer; returns at once if everything is kept."""
        while self._keep != Keep():
            try:
                await self.trim()
            except MnemoError as error:
                _log.log(level_of(error), "the log could not be trimmed: %s", error)
            await self._clock.sleep(PERIOD_SECONDS)

    async def trim(self) -> int:
        """Remove what is not kept now; how many events."""
        keep = self._keep
        before = self._clock.now() - timedelta(days=keep.days) if keep.days else None
        most = keep.mebibytes * MEBIBYTE or None
        total = 0
        while removed := await self._event_log.trim(before, keep.events or None, BATCH, keep_bytes=most):
            total += removed
        if total:
            _log.info("%d events were trimmed", total)
        return total
