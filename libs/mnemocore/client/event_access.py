"""Access policies: who may publish and read which events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnemocore.client import convert
from mnemocore.client import event_values as values
from mnemocore.client.event_convert import policy_from_wire, refusal_from_wire
from mnemocore.events.v1 import access_service_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from mnemocore.client.services import Services


class Policies:
    """The access policies of a tenant. Comes from `Events.policies`; takes the scope `events:admin`.

    What no policy allows is refused; who has the scope `events:admin` needs none.
    """

    def __init__(self, services: Services) -> None:
        self._services = services

    async def allow(
        self,
        id: str,
        principal: str,
        actions: Sequence[values.AccessAction | str],
        types: Sequence[str],
        *,
        subjects: Sequence[str] = (),
    ) -> values.AccessPolicy:
        """Allow a principal (`*`: every one) to `publish` or `subscribe` to events of these types, or both.

        `subjects` narrows it down. Takes effect within seconds everywhere. The same policy again changes nothing.
        Raises PolicyExistsError if there is another of the name `id`.
        """
        request = wire.CreatePolicyRequest()
        convert.assign(request, "policy_id", id, "id")
        convert.assign(request.policy, "principal", principal)
        request.policy.actions.extend(convert.enums_to_wire(values.AccessAction, actions, "actions"))
        convert.extend(request.policy, "types", types)
        convert.extend(request.policy, "subjects", subjects)
        return policy_from_wire((await self._services.call(self._services.access.CreatePolicy, request)).policy)

    async def list(self, principal: str = "", *, page_size: int = 0) -> AsyncIterator[values.AccessPolicy]:
        """All policies by name, or those of a principal. Reads page by page."""
        request = wire.ListPoliciesRequest(page_size=page_size)
        convert.assign(request, "principal", principal)
        async for page in self._services.pages(self._services.access.ListPolicies, request):
            for policy in page.policies:
                yield policy_from_wire(policy)

    async def remove(self, id: str) -> bool:
        """Remove a policy, which ends streams that it allowed; whether there was one."""
        request = wire.DeletePolicyRequest()
        convert.assign(request, "name", f"policies/{id}", "id")
        return (await self._services.call(self._services.access.DeletePolicy, request)).deleted

    async def refusals(self, principal: str = "", *, page_size: int = 0) -> AsyncIterator[values.Refusal]:
        """What was refused in the last 30 days, newest first, to anybody or to one principal. Reads page by page."""
        request = wire.ListRefusalsRequest(page_size=page_size)
        convert.assign(request, "principal", principal)
        async for page in self._services.pages(self._services.access.ListRefusals, request):
            for refusal in page.refusals:
                yield refusal_from_wire(refusal)

    async def check(
        self, principal: str, action: values.AccessAction | str, type: str, subject: str = ""
    ) -> values.AccessDecision:
        """Whether a principal may do something with events of a type, and of a subject or any; and by which policy."""
        request = wire.CheckAccessRequest(action=convert.enum_to_wire(values.AccessAction, action, "action"))
        convert.assign(request, "principal", principal)
        convert.assign(request, "type", type)
        convert.assign(request, "subject", subject)
        response = await self._services.call(self._services.access.CheckAccess, request)
        policy = policy_from_wire(response.policy) if response.HasField("policy") else None
        return values.AccessDecision(response.allowed, policy)
