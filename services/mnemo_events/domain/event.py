"""Events, their places in the log, and pages of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime

    from mnemocore.ids import SpaceUid, Tenant


SPACE_ERASED: Final = "space.erased"
"""The type of the event that ends a space: nothing of the space is appended after it."""


@dataclass(frozen=True, slots=True)
class Event:
    """What happened, with the attributes of CloudEvents 1.0 and the ones of this platform.

    (tenant, source, id) names an event for ever. `space_uid` is empty for an event of no space, `revision` 0 where
    there is none, `time` is timezone-aware. `correlation_id` names all that belongs to one piece of work,
    `causation_id` is the id of the event that led to this one.
    """

    id: str
    source: str
    type: str
    subject: str
    time: datetime
    datacontenttype: str
    dataschema: str
    data: bytes
    tenant: Tenant
    space_uid: SpaceUid
    revision: int
    traceparent: str
    correlation_id: str = ""
    causation_id: str = ""

    @property
    def ordering_key(self) -> str:
        """Events of one key are done in their order: their space, else their subject; "" for those without order."""
        return self.space_uid or self.subject

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes it the same event when it is published again."""
        return (self.tenant, self.source, self.id)


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event at its place: positions count from 1 in the order of commit; those of erased spaces are empty."""

    position: int
    event: Event
    stored_at: datetime


@dataclass(frozen=True, slots=True)
class Page:
    """A stretch of the log, as one moment saw it.

    Every matching event after the position asked for, up to and including `resume`, is in `events`, oldest first.
    `head` is the newest position of the log, `trimmed` the newest one that was trimmed: nothing is missing after it.
    """

    events: tuple[StoredEvent, ...]
    resume: int
    head: int
    trimmed: int
