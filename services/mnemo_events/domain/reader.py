"""Reading a page of the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mnemo_events.domain.event import Page
    from mnemo_events.domain.filter import Filter
    from mnemo_events.domain.ports import EventLog

MAX_STRETCHES: Final = 20
"""How many stretches of the log one call looks through for its first match; after that it answers an empty page."""


async def read_page(log: EventLog, after: int, where: Filter, size: int) -> Page:
    """Up to `size` matching events after a position. There are more only if `resume` is less than `head`."""
    page = await log.read(after, where, size)
    for _ in range(MAX_STRETCHES - 1):
        if page.events or page.resume >= page.head:
            break
        page = await log.read(page.resume, where, size)
    return page
