"""Watching the agents of a tenant: first all of them, then what changes, at most once a second, with a sign of life.

What happens at this replica comes at once, or a second after the last look; what happens at others, and that an agent
was silent for too long, within `poll_seconds`. That an agent was heard is no change; that it is more or less busy is.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mnemo_events.domain.agent import SILENCE, Presence
from mnemo_events.domain.news import wait
from mnemocore.errors import ShuttingDownError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
    from datetime import datetime

    from mnemo_events.domain.agent import Agent
    from mnemo_events.domain.agents import AgentStore
    from mnemo_events.domain.news import News
    from mnemocore.clock import Clock
    from mnemocore.ids import Tenant

PAGE: Final = 100
"""Agents in one page at most."""
HEARTBEAT_SECONDS: Final = 15.0
GAP_SECONDS: Final = 1.0
"""Between two looks at what has changed."""


@dataclass(frozen=True, slots=True)
class Watched:
    """Agents that are new or changed, names of those that were forgotten, and whether all have been named now."""

    agents: tuple[Agent, ...] = ()
    gone: tuple[str, ...] = ()
    complete: bool = False


@dataclass(slots=True)
class _Known:
    """What the watcher was told of an agent, and when the agent was heard."""

    uid: str
    edition: int
    load: float
    presence: Presence
    heard_at: datetime

    def is_news(self, agent: Agent, presence: Presence) -> bool:
        """Whether the watcher is to be told of it again."""
        return (self.uid, self.edition, self.load, self.presence) != (agent.uid, agent.edition, agent.load, presence)

    def turns(self, now: datetime) -> bool:
        """Whether the agent has fallen silent since."""
        return self.presence is Presence.ONLINE and now - self.heard_at > SILENCE


class AgentWatch:
    """One watcher of the agents of a tenant that have some capabilities."""

    def __init__(
        self, store: AgentStore, clock: Clock, tenant: Tenant, capabilities: Sequence[str], poll_seconds: float
    ) -> None:
        self.changed = asyncio.Event()
        """Set when something may have changed."""
        self._store = store
        self._clock = clock
        self._tenant = tenant
        self._capabilities = tuple(capabilities)
        self._poll_seconds = poll_seconds
        self._known: dict[str, _Known] = {}
        self._horizon = 0
        self._ended = False

    def end(self) -> None:
        """End the pages with ShuttingDownError."""
        self._ended = True
        self.changed.set()

    async def pages(self) -> AsyncGenerator[Watched]:
        """All agents, a page that is `complete`, then changes, and an empty page whenever there was none for 15 s.

        An agent that loses a capability is named once more, as it is then. Raises ShuttingDownError.
        """
        self._horizon = await self._store.horizon()
        async for page in self._all():
            yield page
        yield Watched(complete=True)
        sent_at = looked_at = self._clock.monotonic()
        while True:
            await self._rest(looked_at, sent_at)
            self.changed.clear()
            looked_at = self._clock.monotonic()
            pages = await self._look()
            for page in pages:
                yield page
            if not pages and looked_at - sent_at >= HEARTBEAT_SECONDS:
                yield Watched()
                sent_at = looked_at
            elif pages:
                sent_at = looked_at

    async def _rest(self, looked_at: float, sent_at: float) -> None:
        """Return when it is time to look again. Raises ShuttingDownError."""
        now = self._clock.monotonic()
        latest = min(looked_at + self._poll_seconds, sent_at + HEARTBEAT_SECONDS)
        if not self.changed.is_set():
            await wait(self.changed, max(0.0, latest - now), self._clock)
        while not self._ended and (left := looked_at + GAP_SECONDS - self._clock.monotonic()) > 0:
            self.changed.clear()
            await wait(self.changed, left, self._clock)
        if self._ended:
            raise ShuttingDownError

    async def _all(self) -> AsyncGenerator[Watched]:
        after = ""
        while True:
            now = self._clock.now()
            found = await self._store.list_agents(self._tenant, after, PAGE, self._capabilities, None, now)
            if self._ended:
                raise ShuttingDownError
            for agent in found:
                self._take(agent, now)
            if found:
                yield Watched(agents=tuple(found))
            if len(found) < PAGE:
                return
            after = found[-1].id

    async def _look(self) -> list[Watched]:
        """What is to be told now."""
        changes = await self._store.changes(self._tenant, self._horizon)
        self._horizon = changes.horizon
        now = self._clock.now()
        gone = [f"agents/{id}" for id in changes.gone if self._known.pop(id, None)]
        fresh = {agent.id: agent for agent in changes.agents}
        silent = [id for id, known in self._known.items() if id not in fresh and known.turns(now)]
        if silent:
            fresh |= {agent.id: agent for agent in await self._store.find_all(self._tenant, silent)}
        told = [agent for agent in fresh.values() if self._take(agent, now)]
        pages = [Watched(tuple(told[start : start + PAGE])) for start in range(0, len(told), PAGE)]
        return [Watched(gone=tuple(gone)), *pages] if gone else pages

    def _take(self, agent: Agent, now: datetime) -> bool:
        """Take in how an agent is; whether the watcher is to be told."""
        presence, known = agent.presence_at(now), self._known.get(agent.id)
        if not agent.can(self._capabilities):
            return self._known.pop(agent.id, None) is not None
        self._known[agent.id] = _Known(agent.uid, agent.edition, agent.load, presence, agent.heard_at)
        return known is None or known.is_news(agent, presence)


class AgentWatches:
    """Opens watches, and ends them all when the service drains."""

    def __init__(self, store: AgentStore, news: News, clock: Clock, poll_seconds: float) -> None:
        self._store = store
        self._news = news
        self._clock = clock
        self._poll_seconds = poll_seconds
        self._open: set[AgentWatch] = set()
        self._draining = False

    @contextmanager
    def open(self, tenant: Tenant, capabilities: Iterable[str]) -> Iterator[AgentWatch]:
        """A watch that learns of news inside the block. Raises ShuttingDownError while draining."""
        if self._draining:
            raise ShuttingDownError
        watch = AgentWatch(self._store, self._clock, tenant, tuple(capabilities), self._poll_seconds)
        self._open.add(watch)
        try:
            with self._news.watch(tenant, watch.changed):
                yield watch
        finally:
            self._open.discard(watch)

    def drain(self) -> None:
        """End all watches with ShuttingDownError, so that watchers go to another replica, and take no more."""
        self._draining = True
        for watch in self._open:
            watch.end()
