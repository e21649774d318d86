"""The servicer of `mnemocore.events.v1.AgentService`."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from mnemo_events.wire.agents import from_agent, to_capabilities, to_description, to_presence
from mnemo_events.wire.names import id_of
from mnemocore import paging
from mnemocore.calls import caller
from mnemocore.events.v1 import agent_service_pb2 as pb
from mnemocore.events.v1 import agent_service_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from grpc.aio import ServicerContext

    from mnemo_events.domain.agent_watch import AgentWatches
    from mnemo_events.domain.agents import Agents
    from mnemocore.clock import Clock

    Context = ServicerContext[Any, Any]


class AgentServicer(agent_service_pb2_grpc.AgentServiceServicer):
    """Converts requests, calls the domain, converts back."""

    def __init__(self, agents: Agents, watches: AgentWatches, clock: Clock) -> None:
        self._agents = agents
        self._watches = watches
        self._clock = clock

    async def RegisterAgent(self, request: pb.RegisterAgentRequest, context: Context) -> pb.RegisterAgentResponse:
        said = to_description(request.agent)
        agent = await self._agents.register(caller(), request.agent_id, said)
        return pb.RegisterAgentResponse(agent=from_agent(agent, self._clock.now()))

    async def Heartbeat(self, request: pb.HeartbeatRequest, context: Context) -> pb.HeartbeatResponse:
        agent = await self._agents.heartbeat(caller(), id_of("agents", request.name), request.load)
        return pb.HeartbeatResponse(agent=from_agent(agent, self._clock.now()))

    async def GetAgent(self, request: pb.GetAgentRequest, context: Context) -> pb.GetAgentResponse:
        agent = await self._agents.get(caller().tenant, id_of("agents", request.name))
        return pb.GetAgentResponse(agent=from_agent(agent, self._clock.now()))

    async def ListAgents(self, request: pb.ListAgentsRequest, context: Context) -> pb.ListAgentsResponse:
        tenant, size = caller().tenant, paging.page_size(request.page_size)
        capabilities = to_capabilities("capabilities", request.capabilities)
        query = ["agents", tenant, capabilities, request.state]
        after = paging.decode(query, request.page_token)
        found = await self._agents.list_agents(
            tenant, after[0] if after else "", size + 1, capabilities, to_presence(request.state)
        )
        token = paging.encode(query, [found[size - 1].id]) if len(found) > size else ""
        now = self._clock.now()
        return pb.ListAgentsResponse(agents=[from_agent(agent, now) for agent in found[:size]], next_page_token=token)

    async def DeregisterAgent(self, request: pb.DeregisterAgentRequest, context: Context) -> pb.DeregisterAgentResponse:
        deregistered = await self._agents.deregister(caller(), id_of("agents", request.name))
        return pb.DeregisterAgentResponse(deregistered=deregistered)

    async def WatchAgents(
        self, request: pb.WatchAgentsRequest, context: Context
    ) -> AsyncIterator[pb.WatchAgentsResponse]:
        capabilities = to_capabilities("capabilities", request.capabilities)
        with self._watches.open(caller().tenant, capabilities) as watch:
            async with aclosing(watch.pages()) as pages:
                async for page in pages:
                    now = self._clock.now()
                    yield pb.WatchAgentsResponse(
                        agents=[from_agent(agent, now) for agent in page.agents],
                        deregistered=page.gone,
                        complete=page.complete,
                    )
