"""Who may publish and read which events: nothing is allowed that no policy allows."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Final, Protocol

from mnemo_events.domain.filter import covers
from mnemo_events.domain.texts import NUL
from mnemocore.errors import AccessDeniedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from mnemocore.calls import Identity
    from mnemocore.clock import Clock
    from mnemocore.ids import Tenant

ADMIN_SCOPE: Final = "events:admin"
"""Whoever has this scope needs no policy."""
EVERYBODY: Final = "*"
"""The principal of a policy for every principal of the tenant."""
MAX_POLICIES: Final = 1000
"""Policies of a tenant."""
MAX_TARGET: Final = 500
"""Characters of what is said to be refused."""
_ANY: Final = "**"
_TENANTS: Final = 1000
"""Tenants whose policies are kept; of others they are read again."""
_DECISIONS: Final = 1000
"""Decisions that are kept for a tenant."""
_AT_ONCE: Final = 8
"""Policies after which others have their turn: of each all patterns may be looked at."""


class Action(IntEnum):
    """What is done with events. The numbers are those of the contract and of the database."""

    PUBLISH = 1
    SUBSCRIBE = 2

    @property
    def verb(self) -> str:
        """The action in a sentence."""
        return "publish" if self is Action.PUBLISH else "read"


@dataclass(frozen=True, slots=True)
class Policy:
    """Allows a principal, or everybody of the tenant, actions with events of some types and subjects.

    `types` and `subjects` are patterns; no subjects means any, as does the subject `**`. `created_at` is
    timezone-aware.
    """

    tenant: Tenant
    id: str
    principal: str
    actions: tuple[Action, ...]
    types: tuple[str, ...]
    subjects: tuple[str, ...]
    created_at: datetime

    def concerns(self, principal: str, action: Action) -> bool:
        """Whether it allows a principal an action at all."""
        return self.principal in (principal, EVERYBODY) and action in self.actions

    def allows(self, principal: str, action: Action, type_pattern: str, subject: str | None) -> bool:
        """Whether it allows a principal an action with all that one pattern of types and one of subjects matches.

        The subject None stands for any subject, and for none.
        """
        return (
            self.concerns(principal, action)
            and any(covers(allowed, type_pattern) for allowed in self.types)
            and (not self.subjects or any(_covers_subject(allowed, subject) for allowed in self.subjects))
        )


def _covers_subject(allowed: str, wanted: str | None) -> bool:
    if allowed == _ANY:
        return True
    return wanted is not None and "" not in wanted.split("/") and covers(allowed, wanted, "/")


class PolicyStore(Protocol):
    """Where policies are kept. Methods raise StoreUnavailableError."""

    async def create(self, policy: Policy, limit: int) -> Policy | None:
        """Make a policy; one of that name that is there stays, and is returned then.

        None if the tenant has `limit` policies already.
        """
        ...

    async def delete(self, tenant: Tenant, policy_id: str) -> bool:
        """Delete a policy; whether it was there."""
        ...

    async def list_policies(self, tenant: Tenant, principal: str, after_id: str, limit: int) -> list[Policy]:
        """Up to `limit` policies of a principal ("": of any) whose ids come after `after_id`, by id."""
        ...


class RefusalRecord(Protocol):
    """Where refusals are noted."""

    def note(self, tenant: Tenant, principal: str, action: Action, target: str, method: str) -> None:
        """Note one refusal; never waits and never fails."""
        ...


@dataclass(slots=True)
class _Known:
    """What is known of a tenant's policies, until `until` on the monotonic clock."""

    loading: asyncio.Lock = field(default_factory=asyncio.Lock)
    policies: tuple[Policy, ...] = ()
    until: float = -1.0
    decisions: dict[tuple[str, Action, str, str | None], Policy | None] = field(default_factory=dict)

    async def first_for(self, principal: str, action: Action, type_pattern: str, subject: str | None) -> Policy | None:
        """The first policy, by id, that allows it; None if none does."""
        asked, decisions = (principal, action, type_pattern, subject), self.decisions
        if asked not in decisions:
            found = await self._looked_for(*asked)
            if len(decisions) >= _DECISIONS:
                decisions.clear()
            decisions[asked] = found
            return found
        return decisions[asked]

    async def _looked_for(
        self, principal: str, action: Action, type_pattern: str, subject: str | None
    ) -> Policy | None:
        concerned = [policy for policy in self.policies if policy.concerns(principal, action)]
        for looked_at, policy in enumerate(concerned, start=1):
            if policy.allows(principal, action, type_pattern, subject):
                return policy
            if looked_at % _AT_ONCE == 0:
                await asyncio.sleep(0)
        return None


class Access:
    """Decides by the policies of a tenant. They are kept in memory: asking is cheap, for every page of a stream too.

    What this process changes (`forget`) takes effect at once; what others change when `forget` is called for their
    notification, and after `poll_seconds` at the latest. When the policies cannot be read, StoreUnavailableError is
    raised: nothing is allowed by policies that may be gone.
    """

    def __init__(self, policies: PolicyStore, refusals: RefusalRecord, clock: Clock, poll_seconds: float) -> None:
        self._policies = policies
        self._refusals = refusals
        self._clock = clock
        self._poll_seconds = poll_seconds
        self._known: OrderedDict[Tenant, _Known] = OrderedDict()

    async def check(
        self, identity: Identity, action: Action, types: Sequence[str], subjects: Sequence[str], method: str
    ) -> None:
        """Return if the caller may do this with all that the patterns match: by its scope, or by policies.

        No types means all types, no subjects any subject. Each pair of a type and a subject must be covered by one
        policy. Raises AccessDeniedError, and notes it under the name of the method.
        """
        if identity.allows(ADMIN_SCOPE):
            return
        refused = await self._refused(identity.tenant, identity.principal, action, types, subjects)
        if refused:
            target = _named(refused)
            self._refusals.note(identity.tenant, identity.principal, action, target, method)
            raise AccessDeniedError(action=action.verb, target=target)

    async def allows(
        self, tenant: Tenant, principal: str, action: Action, types: Sequence[str], subjects: Sequence[str]
    ) -> bool:
        """Whether policies allow this, whatever scopes the principal has; a refusal is not noted."""
        return not await self._refused(tenant, principal, action, types, subjects)

    async def policy_for(
        self, tenant: Tenant, principal: str, action: Action, type_pattern: str, subject: str | None
    ) -> Policy | None:
        """The first policy, by id, that allows this; None if none does."""
        known = await self._current(tenant)
        return await known.first_for(principal, action, type_pattern, subject)

    def forget(self, tenant: Tenant | None = None) -> None:
        """The policies of a tenant, or of any, have changed: read them again before the next decision."""
        if tenant is None:
            self._known.clear()
        else:
            self._known.pop(tenant, None)

    async def _refused(
        self, tenant: Tenant, principal: str, action: Action, types: Sequence[str], subjects: Sequence[str]
    ) -> list[tuple[str, str | None]]:
        known = await self._current(tenant)
        refused = []
        for type_pattern, subject in _pairs(types, subjects):
            if await known.first_for(principal, action, type_pattern, subject) is None:
                refused.append((type_pattern, subject))
        return refused

    async def _current(self, tenant: Tenant) -> _Known:
        """The policies of a tenant. What was forgotten while it was read serves those who asked before, nobody else."""
        known = self._known.get(tenant)
        if known is None:
            known = self._known[tenant] = _Known()
            if len(self._known) > _TENANTS:
                self._known.popitem(last=False)
        self._known.move_to_end(tenant)
        async with known.loading:
            if self._clock.monotonic() >= known.until:
                asked_at = self._clock.monotonic()
                known.policies = tuple(await self._policies.list_policies(tenant, "", "", MAX_POLICIES))
                known.decisions = {}
                known.until = asked_at + self._poll_seconds
        return known


def _pairs(types: Sequence[str], subjects: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    for type_pattern in types or (_ANY,):
        for subject in subjects or (None,):
            yield type_pattern, subject


def _named(refused: Sequence[tuple[str, str | None]]) -> str:
    types = dict.fromkeys(type_pattern for type_pattern, _ in refused)
    subjects = dict.fromkeys(subject for _, subject in refused if subject is not None)
    text = ", ".join(types) + (f" of {', '.join(subjects)}" if subjects else "")
    return text[:MAX_TARGET].replace(NUL, "")
