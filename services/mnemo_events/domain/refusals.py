"""What was refused: counted by the hour, written behind the back of whoever was refused."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Protocol

from mnemo_events.domain.texts import refuse_nul
from mnemocore import paging
from mnemocore.errors import MnemoError, PageTokenMismatchError
from mnemocore.outages import level_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnemo_events.domain.access import Action
    from mnemocore.clock import Clock
    from mnemocore.ids import Tenant

KEPT_FOR: Final = timedelta(days=30)
KEPT: Final = 10_000
"""Rows that are kept of a tenant; the oldest go first."""
MAX_WAITING: Final = 10_000
"""Rows that wait to be written; what comes on top of them is not recorded."""
_PAUSE_SECONDS: Final = 1.0
_log = logging.getLogger("mnemo_events.refusals")


@dataclass(frozen=True, slots=True)
class RefusalKey:
    """What is counted together: the same thing, tried by the same principal in the hour that begins at `hour`."""

    tenant: Tenant
    principal: str
    action: Action
    target: str
    method: str
    hour: datetime


@dataclass(frozen=True, slots=True)
class Refusal:
    """How often something was refused in an hour, first and last when. `number` is the store's, 0 if it has none."""

    key: RefusalKey
    count: int
    first_at: datetime
    last_at: datetime
    number: int = 0

    def joined(self, other: Refusal) -> Refusal:
        """Both counts of one key as one."""
        first, last = min(self.first_at, other.first_at), max(self.last_at, other.last_at)
        return replace(self, count=self.count + other.count, first_at=first, last_at=last)


class RefusalStore(Protocol):
    """Where refusals are kept. Methods raise StoreUnavailableError."""

    async def add(self, refusals: Sequence[Refusal], keep: int) -> None:
        """Add to the counts; of each tenant among them the newest `keep` rows stay."""
        ...

    async def list_refusals(
        self, tenant: Tenant, principal: str, since: datetime, before: tuple[datetime, int] | None, limit: int
    ) -> list[Refusal]:
        """Up to `limit` refusals of hours from `since` on, newest first: by falling (hour, number), below `before`.

        With a `principal` those of it, without one all.
        """
        ...

    async def prune(self, before: datetime) -> None:
        """Remove what is of hours before a time."""
        ...


class Refusals:
    """Counts refusals in memory and writes them about once a second; a store that is down delays that, nothing else."""

    def __init__(self, store: RefusalStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._waiting: dict[RefusalKey, Refusal] = {}
        self._dropped = 0
        self._noted = asyncio.Event()
        self._prune_at = clock.now()

    def note(self, tenant: Tenant, principal: str, action: Action, target: str, method: str) -> None:
        """Count one refusal; never waits and never fails."""
        now = self._clock.now()
        hour = now.replace(minute=0, second=0, microsecond=0)
        self._add(Refusal(RefusalKey(tenant, principal, action, target, method, hour), 1, now, now))

    async def run(self) -> None:
        """Write what was noted, for ever. A write that fails is tried again."""
        while True:
            await self._noted.wait()
            await self.write()
            await self._clock.sleep(_PAUSE_SECONDS)

    async def write(self) -> None:
        """Write what was noted so far. If the store fails, all waits for the next time."""
        batch, self._waiting = list(self._waiting.values()), {}
        dropped, self._dropped = self._dropped, 0
        self._noted.clear()
        if dropped:
            _log.warning("%d refusals were not recorded: %d others wait to be", dropped, MAX_WAITING)
        try:
            await self._store_away(batch)
        except MnemoError as error:
            self._take_back(batch)
            _log.log(level_of(error), "refusals that wait to be recorded: %d: %s", len(self._waiting), error)
        except BaseException:  # also one that is cancelled loses nothing
            self._take_back(batch)
            raise

    async def finish(self) -> None:
        """Write what was noted for the last time; what the store does not take now is lost, with a warning."""
        await self.write()
        if self._waiting:
            _log.warning("refusals that were not recorded: %d; the store did not take them", len(self._waiting))

    async def list_refusals(self, tenant: Tenant, principal: str, size: int, token: str) -> tuple[list[Refusal], str]:
        """A page of what was refused in the last 30 days, newest hours first, and the token of the next page.

        What was refused in this process until now is there. Raises PageTokenMismatchError.
        """
        refuse_nul({"principal": principal})
        await self.write()
        query = ["refusals", tenant, principal]
        before = _place(paging.decode(query, token))
        limit = paging.page_size(size)
        since = self._clock.now() - KEPT_FOR
        found = await self._store.list_refusals(tenant, principal, since, before, limit + 1)
        page = found[:limit]
        if len(found) <= limit:
            return page, ""
        return page, paging.encode(query, [page[-1].key.hour.isoformat(), page[-1].number])

    async def _store_away(self, batch: Sequence[Refusal]) -> None:
        if batch:
            await self._store.add(batch, KEPT)
        now = self._clock.now()
        if now >= self._prune_at:
            await self._store.prune(now - KEPT_FOR)
            self._prune_at = now + timedelta(hours=1)

    def _take_back(self, batch: Sequence[Refusal]) -> None:
        for refusal in batch:
            self._add(refusal)

    def _add(self, refusal: Refusal) -> None:
        known = self._waiting.get(refusal.key)
        if known is None and len(self._waiting) >= MAX_WAITING:
            self._dropped += 1
            return
        self._waiting[refusal.key] = known.joined(refusal) if known else refusal
        self._noted.set()


def _place(position: list[object] | None) -> tuple[datetime, int] | None:
    if position is None:
        return None
    match position:
        case [str(hour), int(number)]:
            return datetime.fromisoformat(hour), number
    raise PageTokenMismatchError
