"""Where readers and groups begin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mnemocore.errors import EventsTrimmedError, InvalidFieldError, Violation

if TYPE_CHECKING:
    from datetime import datetime

    from mnemo_events.domain.ports import EventLog


@dataclass(frozen=True, slots=True)
class AfterPosition:
    """With events after a position; after 0 with the oldest there is."""

    position: int


@dataclass(frozen=True, slots=True)
class AtTime:
    """With events that the log took at a time or later."""

    time: datetime


@dataclass(frozen=True, slots=True)
class Latest:
    """With what comes from now on."""


EARLIEST = AfterPosition(0)

Start = AfterPosition | AtTime | Latest


async def position_of(log: EventLog, start: Start, field: str, *, whole: bool = True) -> int:
    """The position after which a start lies in the log.

    Raises InvalidFieldError that names `field` if it lies beyond the head, and EventsTrimmedError if events after it
    were trimmed, unless the reader does not need the `whole` log. The oldest event is the oldest that is left.
    """
    if isinstance(start, Latest):
        return await log.head()
    if isinstance(start, AtTime):
        return await log.position_before(start.time)
    head = await log.head()
    if start.position > head:
        text = f"{start.position} lies beyond the head of the log; allowed is up to {head}"
        raise InvalidFieldError.of([Violation(field, text)])
    if whole and start.position and start.position < (trimmed := await log.trimmed()):
        raise EventsTrimmedError(position=str(start.position), earliest=str(trimmed))
    return start.position
