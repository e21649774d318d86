"""Keeping tenants below a number of things without counting them all the time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mnemocore.clock import Clock
    from mnemocore.ids import Tenant

FRESH_SECONDS: Final = 5.0
"""How long a count is believed."""
NEAR: Final = 0.9
"""From this part of the limit on everything is counted as it is added."""


@dataclass(slots=True)
class _Count:
    number: int
    at: float


class Limit:
    """Says whether a tenant is so near to `most` things that adding one must count them in its transaction.

    `count` counts them, up to `most`. What other replicas add is noticed within FRESH_SECONDS.
    """

    def __init__(self, most: int, count: Callable[[Tenant, int], Awaitable[int]], clock: Clock) -> None:
        self._most = most
        self._count = count
        self._clock = clock
        self._counts: dict[Tenant, _Count] = {}

    async def near(self, tenant: Tenant) -> int | None:
        """The limit, if one more must be counted; None while the tenant is far below. Call it once for each one."""
        now = self._clock.monotonic()
        known = self._counts.get(tenant)
        if known is None or now - known.at >= FRESH_SECONDS:
            self._counts = {each: count for each, count in self._counts.items() if now - count.at < FRESH_SECONDS}
            known = self._counts[tenant] = _Count(await self._count(tenant, self._most), now)
        known.number += 1
        return self._most if known.number > NEAR * self._most else None
