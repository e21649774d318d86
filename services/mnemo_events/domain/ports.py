"""What the domain needs from the world."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from mnemo_events.domain.event import Event, Page, StoredEvent
    from mnemo_events.domain.filter import Filter
    from mnemo_events.domain.group import Claim, Fresh, Group, Outcome, Settled, Standing
    from mnemocore.ids import SpaceUid, Tenant


class EventLog(Protocol):
    """The log. Its promises are `mnemocore.testing.conformance.event_log`, which every engine passes."""

    async def append(self, events: Sequence[Event], stored_at: datetime) -> list[int]:
        """Append at least one event, all or none, in their order; durable when it returns.

        Returns the position of each. An event whose key the log, or the batch itself, has already keeps its first
        position. One of a space that has ended with an event of the type SPACE_ERASED is not appended: its position is
        that event's. The times of the log never go back: where `stored_at` is before the time of the event at the head,
        that one's is taken.
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

    async def trim(
        self, stored_before: datetime | None, keep: int | None, limit: int, *, keep_bytes: int | None = None
    ) -> int:
        """Remove up to `limit` of the oldest events of no space; how many it removed.

        Those that were stored before a time (None: none for their age), those that are older than the newest `keep`
        events of no space (None: none for their number), and those that are older than the newest whose data have
        `keep_bytes` bytes together (None: none for their size). Fewer than `limit` only if no more are left of them.
        Positions stay empty, the head stays. Events of spaces stay: they are what projections are built from. An event
        that was trimmed is forgotten: its key may be used again.
        """
        ...

    async def trimmed(self) -> int:
        """The newest position that was trimmed; 0 if none was. All events of no space after it are there."""
        ...

    async def read(self, after: int, where: Filter, limit: int) -> Page:
        """Up to `limit` (at least 1) matching events after a position.

        The page may be short, even empty, before the head: reading stops after a bounded stretch of the log and a
        bounded number of bytes. It always gets on: `resume` is greater than `after` unless `after` is the head. Who
        reads after a position that is not less than the page's `trimmed` has missed nothing.
        """
        ...

    async def get(self, positions: Sequence[int]) -> list[StoredEvent]:
        """The events at these positions that are there, in the order of their positions."""
        ...

    async def position_before(self, time: datetime) -> int:
        """The position before the first event that was stored at `time` or later; the head if there is none."""
        ...

    async def head(self) -> int:
        """The newest position; 0 for an empty log."""
        ...


class Groups(Protocol):
    """What consumer groups have done, have in hand and put aside, by positions of the log; no events.

    Its promises are `mnemocore.testing.conformance.event_groups`, which every engine passes. Methods that take a Group
    raise GroupNotFoundError if that very group (its uid) is gone.
    """

    async def create(self, group: Group, position: int) -> Group:
        """Make a group that goes on after a position; its `uid` is chosen here. One of that name that is there stays.

        Returns the group that is there then.
        """
        ...

    async def find(self, tenant: Tenant, group_id: str) -> Group | None:
        """The group of that name."""
        ...

    async def list_groups(self, tenant: Tenant, after_id: str, limit: int) -> list[Group]:
        """Up to `limit` groups of a tenant whose ids come after `after_id`, by id (in the order of code points)."""
        ...

    async def refilter(self, group: Group, where: Filter) -> Group:
        """Give a group another filter; what it holds stays. Returns the group with it.

        What members read with the former filter a moment before they may still bring.
        """
        ...

    async def delete(self, group: Group) -> bool:
        """Delete a group with all it holds; whether it was there."""
        ...

    async def standing(self, group: Group) -> Standing:
        """How a group stands."""
        ...

    async def seek(self, group: Group, position: int) -> None:
        """Let a group go on after another position; all that members have and all that waits is let go."""
        ...

    async def claim(
        self, group: Group, member: str, limit: int, now: datetime, lease_until: datetime, fresh: Fresh | None
    ) -> Claim:
        """Give a member up to `limit` events (at least 1), until `lease_until` (after `now`).

        First what waits and is due, and what anybody, the member itself too, has had for longer than the lease, the
        oldest first; then events of `fresh` in their order, if the group is still at `fresh.after`. What is given
        counts as an attempt.

        Of a key only what nobody else has an earlier event of, and no earlier event of which waits: other fresh events
        of the key are put aside, to wait, no attempt counted. The group moves on past each fresh event that is given,
        put aside, or held already since it was revived, and to `fresh.upto` past the last one. It stops before the
        first that is to be given when `limit` is reached, and before any when MAX_WAITING wait. An event of the key ""
        waits for nobody.

        What is over its lease stays with its member until it is given to somebody here. Later events of the same key
        are taken back then from whoever has them, whether their leases are over or not: they wait, due at once (and may
        be given here as well), and those attempts are not counted.
        """
        ...

    async def settle(
        self, group: Group, member: str, outcomes: Sequence[Outcome], now: datetime, lease_until: datetime
    ) -> Settled:
        """Take the word of a member. It counts for events that it has as that attempt, even if their lease is over.

        Outcomes are taken in their order; of several for one position only the last. Of one that failed, later events
        of the same key are taken back from the member, also if their outcomes come after it here: they wait, due at
        once, and those attempts are not counted. What a member is not to have any more it may be given again as the
        same attempt; so whoever fails an event leaves later ones of its key alone.
        """
        ...

    async def release(self, group: Group, member: str, *, counted: bool) -> int:
        """Let everything go that a member has, due at once; how much that was. Not `counted`: as if never given."""
        ...

    async def revive(self, group: Group, positions: Sequence[int], now: datetime) -> list[int]:
        """Take dead letters in again: due now, no attempt counted, of the key "", marked as replayed.

        Returns those that are taken in now: what the group holds already is passed over.
        """
        ...


class Engine(Protocol):
    """A log and the groups that follow it, in one store."""

    @property
    def log(self) -> EventLog:
        """The log."""
        ...

    @property
    def groups(self) -> Groups:
        """The groups."""
        ...

    async def start(self) -> None:
        """Prepare the store. Raises StoreUnavailableError, or InvalidSettingError for one that is not durable."""
        ...

    async def listen(
        self, log_grew: Callable[[int | None], None], groups_changed: Callable[[str | None], None]
    ) -> None:
        """Report what other processes did until cancelled: the new head of the log, None if news may have been missed.

        `groups_changed`: something that waited in the group with this uid, or in any (None), may be due.
        """
        ...

    async def ready(self) -> bool:
        """Whether the store answers."""
        ...

    async def stop(self) -> None:
        """Let go of the store."""
        ...
