"""Which versions of schemas there are, kept in memory: every publication asks for it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from mnemocore.clock import Clock
    from mnemocore.ids import Tenant

K = TypeVar("K")
V = TypeVar("V")

TENANTS: Final = 1000
"""Tenants whose versions are kept; of others they are read again."""
ANSWERS: Final = 10_000
"""Answers that are kept for a tenant, those that there is no schema among them."""


class VersionStore(Protocol):
    """Where it is known. Methods raise StoreUnavailableError."""

    async def current(self, tenant: Tenant, types: Sequence[str]) -> dict[str, tuple[int, int]]:
        """(version, uid) of the newest version of each of the types that have one."""
        ...

    async def uids(self, tenant: Tenant, versions: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """The uids of those of the (type, version) that there are."""
        ...


class SchemaVersions:
    """Answers as a store does, from memory.

    What this process changes (`forget`) counts at once; what others change when `forget` is called for their
    notification, and after `poll_seconds` at the latest. That a type has no schema is kept as well.
    """

    def __init__(
        self,
        store: VersionStore,
        clock: Clock,
        poll_seconds: float,
        *,
        tenants: int = TENANTS,
        answers: int = ANSWERS,
    ) -> None:
        self._newest = _Answers(store.current, clock, poll_seconds, tenants, answers)
        self._uids = _Answers(store.uids, clock, poll_seconds, tenants, answers)

    async def current(self, tenant: Tenant, types: Sequence[str]) -> dict[str, tuple[int, int]]:
        """(version, uid) of the newest version of each of the types that have one. Raises StoreUnavailableError."""
        return await self._newest.of(tenant, types)

    async def uids(self, tenant: Tenant, versions: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """The uids of those of the (type, version) that there are. Raises StoreUnavailableError."""
        return await self._uids.of(tenant, versions)

    def forget(self, tenant: Tenant | None = None) -> None:
        """The schemas of a tenant, or of any, have changed: ask the store before the next answer."""
        self._newest.forget(tenant)
        self._uids.forget(tenant)


@dataclass(slots=True)
class _Known(Generic[K, V]):
    """What was answered about a tenant, and until when on the monotonic clock that counts; None: there is none."""

    loading: asyncio.Lock = field(default_factory=asyncio.Lock)
    answers: dict[K, tuple[V | None, float]] = field(default_factory=dict)

    def fresh(self, asked: Sequence[K], now: float) -> dict[K, V | None]:
        """The answers that count still."""
        found = {key: self.answers[key] for key in asked if key in self.answers}
        return {key: answer for key, (answer, until) in found.items() if now < until}

    def keep(self, answers: Mapping[K, V | None], until: float, most: int) -> None:
        """Keep answers, `most` of them; room is made for them by forgetting all others."""
        if len(self.answers) + len(answers) > most:
            self.answers.clear()
        self.answers.update({key: (answer, until) for key, answer in answers.items()})


class _Answers(Generic[K, V]):
    """The answers of one method of the store."""

    def __init__(
        self,
        ask: Callable[[Tenant, Sequence[K]], Awaitable[Mapping[K, V]]],
        clock: Clock,
        poll_seconds: float,
        tenants: int,
        answers: int,
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._poll_seconds = poll_seconds
        self._tenants = tenants
        self._answers = answers
        self._known: OrderedDict[Tenant, _Known[K, V]] = OrderedDict()

    def forget(self, tenant: Tenant | None) -> None:
        """Of a tenant, or of any."""
        if tenant is None:
            self._known.clear()
        else:
            self._known.pop(tenant, None)

    async def of(self, tenant: Tenant, asked: Sequence[K]) -> dict[K, V]:
        """What there is. What was forgotten while it was read serves those who asked before, nobody else."""
        known = self._of_tenant(tenant)
        answers = known.fresh(asked, self._clock.monotonic())
        if not all(key in answers for key in asked):
            async with known.loading:
                answers = await self._loaded(tenant, known, asked)
        return {key: answer for key, answer in answers.items() if answer is not None}

    def _of_tenant(self, tenant: Tenant) -> _Known[K, V]:
        known = self._known.setdefault(tenant, _Known())
        self._known.move_to_end(tenant)
        if len(self._known) > self._tenants:
            self._known.popitem(last=False)
        return known

    async def _loaded(self, tenant: Tenant, known: _Known[K, V], asked: Sequence[K]) -> dict[K, V | None]:
        asked_at = self._clock.monotonic()
        answers = known.fresh(asked, asked_at)
        missing = [key for key in asked if key not in answers]
        if missing:
            found = await self._ask(tenant, missing)
            read: dict[K, V | None] = {key: found.get(key) for key in missing}
            known.keep(read, asked_at + self._poll_seconds, self._answers)
            answers |= read
        return answers
