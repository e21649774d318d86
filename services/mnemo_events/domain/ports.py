"""What the domain needs from the world."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from mnemo_events.domain.event import Event, Page
    from mnemo_events.domain.filter import Filter
    from mnemocore.ids import SpaceUid, Tenant


class EventLog(Protocol):
    """The log. Its promises are `mnemocore.testing.conformance.event_log`, which every engine passes."""

    async def append(self, events: Sequence[Event], stored_at: datetime) -> list[int]:
        """Append at least one event, all or none, in their order; durable when it returns.

        Returns the position of each. An event whose key the log, or the batch itself, has already keeps its first
        position. One of a space that has ended with an event of the type SPACE_ERASED is not appended: its position is
        that event's.
        """
        ...

    async def redact(self, keys: Sequence[tuple[str, str, str]]) -> int:
        """Take the payload out of the events with these keys (tenant, source, id); how many lost one now."""
        ...

    async def remove(self, tenant: Tenant, space_uid: SpaceUid, keep_id: str, limit: int) -> int:
        """Remove up to `limit` events of a space of a tenant, but not those with the id `keep_id`; how many it removed.

        Their positions stay empty, the head stays where it is. Fewer than `limit` only if no more are left.
        """
        ...

    async def read(self, after: int, where: Filter, limit: int) -> Page:
        """Up to `limit` (at least 1) matching events after a position.

        The page may be short, even empty, before the head: reading stops after a bounded stretch of the log and a
        bounded number of bytes. It always gets on: `resume` is greater than `after` unless `after` is the head.
        """
        ...

    async def head(self) -> int:
        """The newest position; 0 for an empty log."""
        ...
