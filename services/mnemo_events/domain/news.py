"""Who waits for something of a tenant to change, and the news that it may have."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mnemocore.ids import Tenant

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mnemocore.clock import Clock


class News:
    """Wakes those who wait for changes of a tenant."""

    def __init__(self) -> None:
        self._waiters: dict[Tenant, set[asyncio.Event]] = {}

    @contextmanager
    def watch(self, tenant: Tenant, waiter: asyncio.Event) -> Iterator[None]:
        """Set `waiter` at all news of a tenant inside the block."""
        waiters = self._waiters.setdefault(tenant, set())
        waiters.add(waiter)
        try:
            yield
        finally:
            waiters.discard(waiter)
            if not waiters:
                del self._waiters[tenant]

    def tell(self, tenant: Tenant) -> None:
        """Something of a tenant has changed."""
        for waiter in self._waiters.get(tenant, ()):
            waiter.set()

    def tell_all(self) -> None:
        """News may have been missed: wake everybody."""
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.set()

    def hear(self, tenant: str | None) -> None:
        """Take the word of another replica: the tenant that has changed, None if some words may have been missed."""
        if tenant is None:
            self.tell_all()
        else:
            self.tell(Tenant(tenant))


async def wait(waiter: asyncio.Event, seconds: float, clock: Clock) -> None:
    """Return when `waiter` is set, or after `seconds`."""
    if waiter.is_set():
        return
    change = asyncio.create_task(waiter.wait())
    timer = asyncio.create_task(clock.sleep(seconds))
    try:
        await asyncio.wait((change, timer), return_when=asyncio.FIRST_COMPLETED)
    finally:
        change.cancel()
        timer.cancel()
