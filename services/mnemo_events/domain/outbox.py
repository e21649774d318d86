"""Publishing what the service itself has to tell.

An event is written in the transaction of the change it tells of, published from there, and removed when the log has it.
Whoever stops in between leaves it for the next round, of this replica or another: the log stores an event once, however
often it is published. Events of one subject are published in the order of their changes.
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from mnemo_events.domain.event import Event
from mnemo_events.domain.news import wait
from mnemocore.errors import MnemoError, UnavailableError
from mnemocore.ids import SpaceUid, Tenant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from mnemocore.clock import Clock

SOURCE: Final = "mnemocore/events"
"""The source of the events that the event-bus tells of itself."""
BATCH: Final = 256
SWEEP_SECONDS: Final = 10.0
"""How often the outbox is looked through for what another replica has left."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to tell: `id` names it for ever within the tenant, `content` are JSON values."""

    tenant: Tenant
    id: str
    type: str
    subject: str
    time: datetime
    content: Mapping[str, Any]

    @property
    def data(self) -> bytes:
        """The content as JSON."""
        return json.dumps(self.content, ensure_ascii=False, separators=(",", ":")).encode()


def notice_as_event(tenant: str, id: str, type: str, subject: str, time: datetime, data: bytes) -> Event:
    """The event that a notice becomes."""
    return Event(
        id=id,
        source=SOURCE,
        type=type,
        subject=subject,
        time=time,
        datacontenttype="application/json",
        dataschema="",
        data=data,
        tenant=Tenant(tenant),
        space_uid=SpaceUid(""),
        revision=0,
        traceparent="",
    )


class Outbox(Protocol):
    """The events that wait to be published."""

    async def pending(self, after: int, limit: int) -> list[tuple[int, Event]]:
        """Up to `limit` events with numbers greater than `after`, in the order of their numbers."""
        ...

    async def remove(self, numbers: Sequence[int]) -> None:
        """Forget events."""
        ...


class Publishes(Protocol):
    """Puts events into the log."""

    async def publish(self, events: Sequence[Event]) -> list[int]:
        """The positions of the events; durable."""
        ...


class OutboxRelay:
    """Publishes what the outbox holds. `wake` after a commit makes it look at once."""

    def __init__(self, outbox: Outbox, publisher: Publishes, clock: Clock) -> None:
        self._outbox = outbox
        self._publisher = publisher
        self._clock = clock
        self._waiting = asyncio.Event()

    def wake(self) -> None:
        """Say that something was written."""
        self._waiting.set()

    async def run(self) -> None:
        """Publish until cancelled. Ends with the error of the store or the log; nothing is lost by starting again."""
        while True:
            self._waiting.clear()
            await self.publish_pending()
            await wait(self._waiting, SWEEP_SECONDS, self._clock)

    async def publish_pending(self) -> int:
        """Publish all there is; how many events that were. Those that are refused are left for the next time."""
        published, after = 0, 0
        while batch := await self._outbox.pending(after, BATCH):
            taken = await self._publish(batch)
            await self._outbox.remove(taken)
            published += len(taken)
            after = batch[-1][0]
        return published

    async def _publish(self, batch: Sequence[tuple[int, Event]]) -> list[int]:
        try:
            await self._publisher.publish([event for _, event in batch])
        except UnavailableError:
            raise
        except MnemoError as error:
            if len(batch) > 1:
                return [number for each in batch for number in await self._publish([each])]
            _log.error("the event %s of %s cannot be published, others can: %s", batch[0][1].id, SOURCE, error)
            return []
        return [number for number, _ in batch]
