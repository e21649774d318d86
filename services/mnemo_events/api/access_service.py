"""The servicer of `mnemocore.events.v1.AccessService`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mnemo_events.domain.access import Action
from mnemo_events.wire.access import from_policy, from_refusal, to_actions
from mnemo_events.wire.names import id_of
from mnemocore.calls import caller
from mnemocore.events.v1 import access_service_pb2 as pb
from mnemocore.events.v1 import access_service_pb2_grpc

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

    from mnemo_events.domain.policies import Policies
    from mnemo_events.domain.refusals import Refusals

    Context = ServicerContext[Any, Any]


class AccessServicer(access_service_pb2_grpc.AccessServiceServicer):
    """Converts requests, calls the domain, converts back."""

    def __init__(self, policies: Policies, refusals: Refusals) -> None:
        self._policies = policies
        self._refusals = refusals

    async def CreatePolicy(self, request: pb.CreatePolicyRequest, context: Context) -> pb.CreatePolicyResponse:
        policy = await self._policies.create(
            caller().tenant,
            request.policy_id,
            request.policy.principal,
            to_actions(request.policy.actions, "policy.actions"),
            request.policy.types,
            request.policy.subjects,
        )
        return pb.CreatePolicyResponse(policy=from_policy(policy))

    async def ListPolicies(self, request: pb.ListPoliciesRequest, context: Context) -> pb.ListPoliciesResponse:
        page, token = await self._policies.list_policies(
            caller().tenant, request.principal, request.page_size, request.page_token
        )
        return pb.ListPoliciesResponse(policies=[from_policy(policy) for policy in page], next_page_token=token)

    async def DeletePolicy(self, request: pb.DeletePolicyRequest, context: Context) -> pb.DeletePolicyResponse:
        deleted = await self._policies.delete(caller().tenant, id_of("policies", request.name))
        return pb.DeletePolicyResponse(deleted=deleted)

    async def ListRefusals(self, request: pb.ListRefusalsRequest, context: Context) -> pb.ListRefusalsResponse:
        page, token = await self._refusals.list_refusals(
            caller().tenant, request.principal, request.page_size, request.page_token
        )
        return pb.ListRefusalsResponse(refusals=[from_refusal(refusal) for refusal in page], next_page_token=token)

    async def CheckAccess(self, request: pb.CheckAccessRequest, context: Context) -> pb.CheckAccessResponse:
        policy = await self._policies.allowing(
            caller().tenant, request.principal, Action(request.action), request.type, request.subject
        )
        return pb.CheckAccessResponse(allowed=policy is not None, policy=from_policy(policy) if policy else None)
