"""Removing spaces with every trace of them, and telling the event log."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from mnemo_memory.domain.memory import Role
from mnemocore import paging
from mnemocore.errors import InvalidFieldError, MnemoError, UnavailableError, Violation
from mnemocore.ids import new_uuid

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from mnemo_memory.domain.access import Access
    from mnemo_memory.domain.memory import Space
    from mnemo_memory.domain.ports import Author, EventLog
    from mnemocore.calls import Identity
    from mnemocore.clock import Clock
    from mnemocore.ids import SpaceUid, Tenant

RECEIPTS_A_ROUND: Final = 64
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Receipt:
    """Proof that a space was erased, without any of its content.

    `id` is a UUID, `number` grows from receipt to receipt, `revision` is the last one the space had. `log_erased_at` is
    None until the event log has confirmed that it has erased the events.
    """

    id: str
    number: int
    tenant: Tenant
    space_uid: SpaceUid
    principal: str
    reason: str
    erased_at: datetime
    log_erased_at: datetime | None
    revision: int
    memories: int
    revisions: int
    media: int
    associations: int


class ErasureStore(Protocol):
    """Removes spaces and keeps the receipts."""

    async def erase_space(self, space: Space, receipt_id: str, author: Author, etag: str) -> Receipt:
        """Remove everything of a space in one transaction; its name is free when this returns.

        Raises SpaceNotFoundError, SpaceEtagMismatchError.
        """
        ...

    async def delete_space(self, space: Space, receipt_id: str, author: Author) -> Receipt | None:
        """Remove a space in which there is nothing; a receipt if the log may have heard of it.

        Raises SpaceNotFoundError, SpaceNotEmptyError.
        """
        ...

    async def list_receipts(self, tenant: Tenant, before: int | None, limit: int) -> list[Receipt]:
        """Receipts of a tenant by falling number, below `before`; None means from the newest on."""
        ...

    async def unconfirmed(self, limit: int) -> list[Receipt]:
        """Receipts the log has not confirmed, some of them, others every time."""
        ...

    async def confirm(self, receipt: Receipt, at: datetime) -> None:
        """Remember that the log has erased the events."""
        ...

    async def reclaim(self) -> None:
        """Give the room of removed rows back, so that it is written over. Takes as long as it takes."""
        ...


class Erasures:
    """Removes spaces of all tenants; every call is made for one of them.

    `removed` is called after each removal, to wake the relay and to drop what this process holds of the space.
    """

    def __init__(self, store: ErasureStore, access: Access, clock: Clock, removed: Callable[[SpaceUid], None]) -> None:
        self._store = store
        self._access = access
        self._clock = clock
        self._removed = removed

    async def erase(self, caller: Identity, slug: str, confirm: str, etag: str, reason: str) -> Receipt:
        """Erase a space with everything in it; `confirm` is its name once more.

        Raises SpaceNotFoundError, RoleRequiredError, SpaceEtagMismatchError, InvalidFieldError.
        """
        entry = await self._access.enter(caller, slug, Role.OWNER)
        if confirm != slug:
            described = f"{confirm!r} is not the name of the space; allowed is {slug!r}"
            raise InvalidFieldError.of([Violation("confirm", described)])
        now = self._clock.now()
        receipt = await self._store.erase_space(entry.space, new_uuid(now), entry.author(now, reason), etag)
        self._removed(entry.space.uid)
        return receipt

    async def delete(self, caller: Identity, slug: str) -> None:
        """Remove an empty space. Raises SpaceNotFoundError, RoleRequiredError, SpaceNotEmptyError.

        If there ever were memories in it, a receipt is written, and the log and the index forget what they know.
        """
        entry = await self._access.enter(caller, slug, Role.OWNER)
        now = self._clock.now()
        await self._store.delete_space(entry.space, new_uuid(now), entry.author(now, "deleted when it was empty"))
        self._removed(entry.space.uid)

    async def receipts(self, caller: Identity, page_size: int, page_token: str) -> tuple[list[Receipt], str]:
        """One page of the receipts of the tenant, newest first, and the token of the next page."""
        query = ["erasures", caller.tenant]
        position = paging.decode(query, page_token)
        size = paging.page_size(page_size)
        found = await self._store.list_receipts(caller.tenant, position[0] if position else None, size + 1)
        page, more = found[:size], len(found) > size
        return page, paging.encode(query, [page[-1].number]) if more else ""


class ErasureRelay:
    """Tells the event log of erased spaces until it has confirmed each. `wake` after an erasure makes it look at once.

    The log takes nothing of a space any more once it knows that it was erased. So it does not matter when a relay
    publishes what it read before the erasure: until then it is removed with the rest, afterwards it is not taken.
    """

    def __init__(self, store: ErasureStore, log: EventLog, clock: Clock, poll_seconds: float) -> None:
        self._store = store
        self._log = log
        self._clock = clock
        self._poll_seconds = poll_seconds
        self._wake = asyncio.Event()
        self._reclaim = asyncio.Event()

    def wake(self) -> None:
        """Say that a space was erased."""
        self._wake.set()

    async def run(self) -> None:
        """Tell the log until cancelled. Ends with the error of the store or the log; to be started again."""
        while True:
            self._wake.clear()
            if await self.tell_pending() == 0:
                await self._wait()

    async def tell_pending(self) -> int:
        """Tell the log of some spaces that were erased and wait for its confirmation; returns how many it confirmed.

        Raises UnavailableError if the store or the log does not answer.
        """
        confirmed = 0
        for receipt in await self._store.unconfirmed(RECEIPTS_A_ROUND):
            try:
                await self._log.erase(receipt.tenant, receipt.space_uid, receipt.revision + 1, receipt.erased_at)
                await self._store.confirm(receipt, self._clock.now())
            except UnavailableError:
                raise  # the log does not answer: it can be told of no space
            except MnemoError as error:
                _log.error("the log has not erased space %s, the others go on: %s", receipt.space_uid, error)
            else:
                confirmed += 1
        if confirmed:
            self._reclaim.set()
        return confirmed

    async def reclaim(self) -> None:
        """After erasures have the store write over what was removed, until cancelled; erasures meanwhile wait for one.

        Ends with the error of the store: then the store does it at a time of its own choice.
        """
        while True:
            await self._reclaim.wait()
            self._reclaim.clear()
            await self._store.reclaim()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._poll_seconds):
                await self._wake.wait()
        except TimeoutError:
            return
