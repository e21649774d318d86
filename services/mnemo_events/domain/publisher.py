"""Putting events into the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mnemo_events.domain.texts import NUL, NUL_REFUSED
from mnemocore.errors import InvalidFieldError, Violation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mnemo_events.domain.arrivals import Arrivals
    from mnemo_events.domain.event import Event
    from mnemo_events.domain.ports import EventLog
    from mnemocore.clock import Clock

_TEXTS: Final = (
    "id",
    "source",
    "type",
    "subject",
    "datacontenttype",
    "dataschema",
    "tenant",
    "traceparent",
    "correlation_id",
    "causation_id",
)


class Publisher:
    """Appends batches and tells the subscribers of this process."""

    def __init__(self, log: EventLog, arrivals: Arrivals, clock: Clock) -> None:
        self._log = log
        self._arrivals = arrivals
        self._clock = clock

    async def publish(self, events: Sequence[Event]) -> list[int]:
        """The positions of the events, in their order; durable.

        Raises InvalidFieldError for a text with the character U+0000, which no store holds.
        """
        if broken := list(_broken(events)):
            raise InvalidFieldError.of(broken)
        positions = await self._log.append(events, self._clock.now())
        self._arrivals.advance(max(positions))
        return positions


def _broken(events: Sequence[Event]) -> Iterator[Violation]:
    for index, event in enumerate(events):
        for field in _TEXTS:
            if NUL in getattr(event, field):
                yield Violation(f"events[{index}].{field}", NUL_REFUSED)
