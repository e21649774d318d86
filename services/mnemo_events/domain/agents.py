"""Registering agents, hearing them, and noticing when they are silent."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol

from mnemo_events.domain.agent import MAX_AGENTS
from mnemo_events.domain.heartbeats import Beat, Heartbeats
from mnemo_events.domain.limits import Limit
from mnemocore.errors import AgentNotFoundError
from mnemocore.ids import new_uuid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from mnemo_events.domain.agent import Agent, Description, Presence
    from mnemo_events.domain.heartbeats import Heard
    from mnemo_events.domain.news import News
    from mnemocore.calls import Identity
    from mnemocore.clock import Clock
    from mnemocore.ids import Tenant

SWEEP_SECONDS: Final = 10.0
"""How often silent agents are looked for."""
BATCH: Final = 256
"""Silent agents of one transaction."""

LATELY: Final = timedelta(seconds=10)
"""An agent that was heard so lately need not be heard again."""
REMEMBERED: Final = timedelta(hours=1)
"""How long it is known that an agent was forgotten."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What has changed since a horizon: agents as they are now, ids of those that are gone, and the next horizon."""

    agents: tuple[Agent, ...]
    gone: tuple[str, ...]
    horizon: int


class AgentStore(Protocol):
    """The agents of all tenants. What is to be told of a change is written in its transaction."""

    async def register(
        self, speaker: Identity, agent_id: str, said: Description, uid: str, now: datetime, limit: int | None
    ) -> Agent:
        """Take in an agent, or what it says of itself now; it is online and heard.

        A new one gets `uid`. With `limit` the agents of the tenant are counted: raises QuotaExceededError if there are
        so many. Raises PermissionDeniedError if it is not the speaker's.
        """
        ...

    async def hear(self, beats: Sequence[Beat], now: datetime) -> list[Heard | None]:
        """Take signs of life, of those who may speak for their agents; what came of each, None for an unknown agent.

        An agent that was silent for too long begins a new period; the tasks it had are taken from it.
        """
        ...

    async def find(self, tenant: Tenant, agent_id: str) -> Agent | None:
        """The agent of that name."""
        ...

    async def find_all(self, tenant: Tenant, ids: Sequence[str]) -> list[Agent]:
        """Those of the agents that are there."""
        ...

    async def list_agents(
        self,
        tenant: Tenant,
        after_id: str,
        limit: int,
        capabilities: Sequence[str],
        presence: Presence | None,
        now: datetime,
    ) -> list[Agent]:
        """Up to `limit` agents whose ids come after `after_id`, by id, that have all capabilities and are so."""
        ...

    async def deregister(self, speaker: Identity, agent_id: str, now: datetime) -> bool:
        """Forget an agent and take its tasks from it; whether it was there. Raises PermissionDeniedError."""
        ...

    async def end_silent(self, now: datetime, limit: int) -> list[Agent]:
        """Mark up to `limit` agents that are silent for too long as offline, each once, and take their tasks."""
        ...

    async def count(self, tenant: Tenant, most: int) -> int:
        """How many agents a tenant has, counting up to `most`."""
        ...

    async def horizon(self) -> int:
        """A point from which on `changes` shows whatever is not visible yet."""
        ...

    async def changes(self, tenant: Tenant, since: int) -> Changes:
        """What has changed since a horizon; some of it may have been visible before."""
        ...

    async def forget_gone(self, before: datetime) -> None:
        """Those who watch have heard by now of agents that were forgotten before that time."""
        ...


class Agents:
    """What can be done with agents. `told` is called when there is something to publish."""

    def __init__(self, store: AgentStore, news: News, tasks: News, clock: Clock, told: Callable[[], None]) -> None:
        self._store = store
        self._news = news
        self._tasks = tasks
        self._clock = clock
        self._told = told
        self._limit = Limit(MAX_AGENTS, store.count, clock)
        self._heartbeats = Heartbeats(self._hear)

    async def register(self, speaker: Identity, agent_id: str, said: Description) -> Agent:
        """Register an agent, or change what it says of itself. Raises PermissionDeniedError, QuotaExceededError."""
        limit = await self._limit.near(speaker.tenant)
        now = self._clock.now()
        agent = await self._store.register(speaker, agent_id, said, new_uuid(now), now, limit)
        self._spread([agent.tenant])
        return agent

    async def heartbeat(self, speaker: Identity, agent_id: str, load: float | None) -> Agent:
        """Hear an agent. Raises AgentNotFoundError, PermissionDeniedError."""
        heard = await self._heartbeats.add(Beat(speaker, agent_id, load))
        if heard is None:
            raise AgentNotFoundError(agent=f"agents/{agent_id}")
        heard.agent.check_speaker(speaker)
        return heard.agent

    async def present(self, speaker: Identity, agent_id: str) -> Agent:
        """An agent that has shown that it is there: it is heard, unless it was in the last LATELY.

        Raises AgentNotFoundError, PermissionDeniedError.
        """
        agent = await self.get(speaker.tenant, agent_id)
        if agent.online and self._clock.now() - agent.heard_at <= LATELY:
            agent.check_speaker(speaker)
            return agent
        return await self.heartbeat(speaker, agent_id, None)

    async def get(self, tenant: Tenant, agent_id: str) -> Agent:
        """Read an agent. Raises AgentNotFoundError."""
        agent = await self._store.find(tenant, agent_id)
        if agent is None:
            raise AgentNotFoundError(agent=f"agents/{agent_id}")
        return agent

    async def list_agents(
        self, tenant: Tenant, after_id: str, limit: int, capabilities: Sequence[str], presence: Presence | None
    ) -> list[Agent]:
        """Agents by id."""
        return await self._store.list_agents(tenant, after_id, limit, capabilities, presence, self._clock.now())

    async def deregister(self, speaker: Identity, agent_id: str) -> bool:
        """Forget an agent; whether it was there. Raises PermissionDeniedError."""
        gone = await self._store.deregister(speaker, agent_id, self._clock.now())
        if gone:
            self._spread([speaker.tenant])
        return gone

    async def sweep(self) -> int:
        """Mark those offline that are silent for too long; how many that were now."""
        total, now = 0, self._clock.now()
        while silent := await self._store.end_silent(now, BATCH):
            total += len(silent)
            self._spread({agent.tenant for agent in silent})
        await self._store.forget_gone(now - REMEMBERED)
        return total

    async def run_sweeps(self) -> None:
        """Sweep until cancelled. Ends with an error of the store; nothing is lost by starting again."""
        while True:
            await self.sweep()
            await self._clock.sleep(SWEEP_SECONDS)

    async def _hear(self, beats: Sequence[Beat]) -> list[Heard | None]:
        heard = await self._store.hear(beats, self._clock.now())
        for tenant in {each.agent.tenant for each in heard if each}:
            self._news.tell(tenant)
        if revived := {each.agent.tenant for each in heard if each and each.revived}:
            self._spread(revived)
        return heard

    def _spread(self, tenants: Iterable[Tenant]) -> None:
        """Agents of these tenants have changed, and tasks may be free."""
        for tenant in tenants:
            self._news.tell(tenant)
            self._tasks.tell(tenant)
        self._told()
