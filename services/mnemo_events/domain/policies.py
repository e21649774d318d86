"""The policies of a tenant, for those who administer them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnemo_events.domain.access import MAX_POLICIES, Action, Policy
from mnemo_events.domain.filter import check_subjects, check_types
from mnemo_events.domain.texts import refuse_nul
from mnemocore import paging
from mnemocore.errors import PolicyExistsError, QuotaExceededError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mnemo_events.domain.access import Access, PolicyStore
    from mnemocore.clock import Clock
    from mnemocore.ids import Tenant


class Policies:
    """Makes, lists and deletes policies; `access` decides by them at once."""

    def __init__(self, store: PolicyStore, access: Access, clock: Clock) -> None:
        self._store = store
        self._access = access
        self._clock = clock

    async def create(
        self,
        tenant: Tenant,
        policy_id: str,
        principal: str,
        actions: Iterable[Action],
        types: Sequence[str],
        subjects: Sequence[str],
    ) -> Policy:
        """Make a policy; the same one again changes nothing. The order of actions and patterns does not matter.

        Raises InvalidFieldError for malformed patterns, PolicyExistsError if there is another of that name, and
        QuotaExceededError if the tenant has MAX_POLICIES.
        """
        refuse_nul({"policy.principal": principal})
        policy = Policy(
            tenant,
            policy_id,
            principal,
            tuple(sorted(set(actions))),
            tuple(sorted(set(check_types(types, "policy.types")))),
            tuple(sorted(set(check_subjects(subjects, "policy.subjects")))),
            self._clock.now(),
        )
        found = await self._store.create(policy, MAX_POLICIES)
        if found is None:
            text = f"the tenant has {MAX_POLICIES} policies, as many as are allowed; delete some first"
            raise QuotaExceededError(text, quota="policies", limit=str(MAX_POLICIES))
        self._access.forget(tenant)
        if _content(found) != _content(policy):
            raise PolicyExistsError(policy=policy_id)
        return found

    async def delete(self, tenant: Tenant, policy_id: str) -> bool:
        """Delete a policy; whether there was one."""
        deleted = await self._store.delete(tenant, policy_id)
        self._access.forget(tenant)
        return deleted

    async def list_policies(self, tenant: Tenant, principal: str, size: int, token: str) -> tuple[list[Policy], str]:
        """A page of policies by their ids, and the token of the next one. Raises PageTokenMismatchError.

        With a `principal` those that name it, without one all.
        """
        refuse_nul({"principal": principal})
        query = ["policies", tenant, principal]
        after = paging.decode(query, token)
        limit = paging.page_size(size)
        found = await self._store.list_policies(tenant, principal, str(after[0]) if after else "", limit + 1)
        page = found[:limit]
        return page, paging.encode(query, [page[-1].id]) if len(found) > limit else ""

    async def allowing(
        self, tenant: Tenant, principal: str, action: Action, type_pattern: str, subject: str
    ) -> Policy | None:
        """The first policy, by id, that allows the principal this; None if none does. No subject means any.

        Raises InvalidFieldError for a malformed type.
        """
        refuse_nul({"principal": principal, "subject": subject})
        check_types([type_pattern], "type")
        return await self._access.policy_for(tenant, principal, action, type_pattern, subject or None)


def _content(policy: Policy) -> tuple[object, ...]:
    return policy.principal, policy.actions, policy.types, policy.subjects
