"""Agents: who is there, what they can do and how busy they are."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Final

from mnemocore.client import convert
from mnemocore.client import event_values as values
from mnemocore.client.event_convert import agent_from_wire
from mnemocore.client.reconnecting import BREAKS, PATIENCE, Reconnecting, stream_ended
from mnemocore.errors import AgentNotFoundError, MnemoError
from mnemocore.events.v1 import agent_service_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from mnemocore.client.services import Services
    from mnemocore.client.streams import StreamCall
    from mnemocore.client.values import Json

HEARTBEAT_SECONDS: Final = 10.0
"""Between two heartbeats; an agent that was silent for 60 s is offline."""

_log = logging.getLogger(__name__)


class Agents:
    """The agents of a tenant. Comes from `Connection.agents`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def register(
        self,
        id: str,
        capabilities: Sequence[str] = (),
        *,
        description: str = "",
        metadata: Mapping[str, Json] | None = None,
    ) -> values.Agent:
        """Say that an agent is there and what it can do, or change that. One name is one agent."""
        request = wire.RegisterAgentRequest()
        convert.assign(request, "agent_id", id, "id")
        convert.extend(request.agent, "capabilities", capabilities)
        convert.assign(request.agent, "description", description)
        convert.struct_to_wire(metadata or {}, request.agent.metadata, "metadata")
        return agent_from_wire((await self._services.call(self._services.agents.RegisterAgent, request)).agent)

    async def heartbeat(self, id: str, load: float = 0.0) -> values.Agent:
        """Say that an agent is there, and how busy: 0 idle, 1 full. Raises AgentNotFoundError."""
        request = wire.HeartbeatRequest(name=agent_name(id))
        convert.assign(request, "load", load)
        return agent_from_wire((await self._services.call(self._services.agents.Heartbeat, request)).agent)

    async def get(self, id: str) -> values.Agent:
        """An agent. Raises AgentNotFoundError."""
        request = wire.GetAgentRequest(name=agent_name(id))
        return agent_from_wire((await self._services.call(self._services.agents.GetAgent, request)).agent)

    async def list(
        self,
        *,
        capabilities: Sequence[str] = (),
        state: values.AgentState | str | None = None,
        page_size: int = 0,
    ) -> AsyncIterator[values.Agent]:
        """All agents by name, or those that can do all of this, or that are in a state. Reads page by page."""
        request = wire.ListAgentsRequest(page_size=page_size)
        convert.extend(request, "capabilities", capabilities)
        if state is not None:
            request.state = convert.enum_to_wire(values.AgentState, state, "state")
        async for page in self._services.pages(self._services.agents.ListAgents, request):
            for agent in page.agents:
                yield agent_from_wire(agent)

    async def deregister(self, id: str) -> bool:
        """Forget an agent; tasks it had go to others. Whether there was one."""
        request = wire.DeregisterAgentRequest(name=agent_name(id))
        return (await self._services.call(self._services.agents.DeregisterAgent, request)).deregistered

    async def watch(
        self, *, capabilities: Sequence[str] = (), patience: float | None = PATIENCE
    ) -> AsyncGenerator[values.AgentChanges]:
        """The agents there are, then each that changes, for ever; those that can do all of this, or all.

        A stream that breaks is opened again, and all agents come once more; what went meanwhile is said to be gone. Its
        error is raised if nobody has answered for `patience` seconds (None: never).
        """
        request = wire.WatchAgentsRequest()
        convert.extend(request, "capabilities", capabilities)
        reconnecting = Reconnecting(self._services, patience)
        known: set[str] = set()
        complete = False
        while True:
            try:
                found: set[str] = set()
                async with aclosing(self._watch(request)) as stream:
                    async for response in stream:
                        reconnecting.answered()
                        agents = tuple(map(agent_from_wire, response.agents))
                        gone = {convert.last_part(name) for name in response.deregistered}
                        found |= {agent.id for agent in agents}
                        if response.complete:
                            gone |= known - found
                        known = (known | {agent.id for agent in agents}) - gone
                        first = response.complete and not complete
                        complete = complete or first
                        if agents or gone or first:
                            yield values.AgentChanges(agents, tuple(sorted(gone)), first)
            except BREAKS as error:
                await reconnecting.pause(error)

    def agent(
        self,
        id: str,
        capabilities: Sequence[str] = (),
        *,
        description: str = "",
        metadata: Mapping[str, Json] | None = None,
        deregister: bool = True,
    ) -> Presence:
        """An agent that is there between enter and exit of an `async with`: it registers, then sends heartbeats.

        At the end it is forgotten, so that its tasks go to others at once; not `deregister`: it turns offline later.
        """
        return Presence(self, id, capabilities, description, metadata, deregister=deregister)

    async def _watch(self, request: wire.WatchAgentsRequest) -> AsyncGenerator[wire.WatchAgentsResponse]:
        call: StreamCall[wire.WatchAgentsRequest, wire.WatchAgentsResponse]
        call = self._services.agents.WatchAgents(request)  # type: ignore[assignment]  # on a resilient channel
        try:
            async for response in call:
                yield response
        finally:
            call.cancel()
        raise stream_ended("the server")


class Presence:
    """An agent that is there. Comes from `Agents.agent`. Set `load` to how busy it is: the next heartbeat says so."""

    def __init__(
        self,
        agents: Agents,
        id: str,
        capabilities: Sequence[str],
        description: str,
        metadata: Mapping[str, Json] | None,
        *,
        deregister: bool,
    ) -> None:
        self.id = id
        self.load = 0.0
        self._agents = agents
        self._capabilities = capabilities
        self._description = description
        self._metadata = metadata
        self._deregister = deregister
        self._beating: asyncio.Task[None] | None = None

    async def open(self) -> Self:
        """Register, and begin with the heartbeats; `async with` does it too. Raises what registering raises."""
        if self._beating is None:
            await self.register()
            self._beating = asyncio.create_task(self._beat())
        return self

    async def close(self) -> None:
        """End the heartbeats, and deregister if that was asked for. Closing twice does nothing.

        An agent that cannot be deregistered, since nobody answers, turns offline by itself.
        """
        beating, self._beating = self._beating, None
        if beating is None:
            return
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
        if self._deregister:
            with suppress(MnemoError):
                await self._agents.deregister(self.id)

    async def register(self) -> values.Agent:
        """Say again that it is there and what it can do."""
        return await self._agents.register(
            self.id, self._capabilities, description=self._description, metadata=self._metadata
        )

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.close()

    async def _beat(self) -> None:
        clock = self._agents._services.clock  # noqa: SLF001 - the two are one thing
        while True:
            await clock.sleep(HEARTBEAT_SECONDS)
            try:
                await self._agents.heartbeat(self.id, min(1.0, max(0.0, self.load)))
            except AgentNotFoundError:
                await self._register_again()
            except MnemoError as error:  # the next heartbeat may come through
                _log.warning("heartbeat of agent %s failed: %s", self.id, error)

    async def _register_again(self) -> None:
        """Somebody has deregistered it: it is there all the same."""
        try:
            await self.register()
        except MnemoError as error:
            _log.warning("agent %s could not be registered again: %s", self.id, error)

    def __repr__(self) -> str:
        return f"Presence({self.id!r})"


def agent_name(id: str) -> str:
    """The resource name of an agent."""
    return f"agents/{id.removeprefix('agents/')}"
