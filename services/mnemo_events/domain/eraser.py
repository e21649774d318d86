"""Removing the events of a space that was erased."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mnemocore.errors import InvalidFieldError, Violation

if TYPE_CHECKING:
    from mnemo_events.domain.ports import EventLog
    from mnemocore.ids import SpaceUid, Tenant

BATCH: Final = 1000
"""Events removed at once, so that nobody waits long for what that locks."""


async def erase_space(log: EventLog, tenant: Tenant, space_uid: SpaceUid, keep_id: str) -> int:
    """Remove every event of a space but the one with the id `keep_id`; how many were removed now.

    What was removed stays so if the call is cut short; the next one goes on. Raises InvalidFieldError for a text with
    the character U+0000.
    """
    for field, text in (("tenant", tenant), ("keep_id", keep_id)):
        if "\x00" in text:
            described = "contains the character U+0000, which no text may contain"
            raise InvalidFieldError.of([Violation(field, described)])
    total = 0
    while removed := await log.remove(tenant, space_uid, keep_id, BATCH):
        total += removed
    return total
