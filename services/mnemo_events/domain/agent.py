"""Agents as values: what one says of itself, whether it is there, and what is told of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

from mnemo_events.domain.outbox import Notice
from mnemocore.errors import PermissionDeniedError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime

    from mnemocore.calls import Identity
    from mnemocore.ids import Tenant

SILENCE: Final = timedelta(seconds=60)
"""An agent that was not heard for longer is offline."""
MAX_AGENTS: Final = 10_000
"""Agents of a tenant."""
ADMIN: Final = "events:admin"
"""Whoever has this scope may speak for every agent of the tenant."""


class Presence(IntEnum):
    """Whether an agent is there. The numbers are those of the contract."""

    ONLINE = 1
    OFFLINE = 2


@dataclass(frozen=True, slots=True)
class Description:
    """What an agent says of itself; `capabilities` are sorted and each is there once."""

    capabilities: tuple[str, ...]
    description: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Agent:
    """A program that works for a tenant.

    `uid` names this very agent: one that is forgotten and registered again has another. `principal` registered it.
    `online` is what was told last, whatever the clock says; `period` counts the times it was online, from 1, and
    `edition` its registrations.
    """

    tenant: Tenant
    id: str
    uid: str
    description: Description
    principal: str
    load: float
    heard_at: datetime
    online: bool
    period: int
    edition: int
    created_at: datetime

    @property
    def name(self) -> str:
        """The public resource name."""
        return f"agents/{self.id}"

    def presence_at(self, now: datetime) -> Presence:
        """Whether it is there."""
        return Presence.ONLINE if self.online and now - self.heard_at <= SILENCE else Presence.OFFLINE

    def can(self, capabilities: Collection[str]) -> bool:
        """Whether it has all these capabilities."""
        return set(capabilities) <= set(self.description.capabilities)

    def check_speaker(self, speaker: Identity) -> None:
        """Raise PermissionDeniedError unless a caller may speak for the agent."""
        check_speaker(self.name, self.principal, speaker)

    def is_speaker(self, speaker: Identity) -> bool:
        """Whether a caller may speak for the agent."""
        return may_speak(self.principal, speaker)

    def registered(self) -> Notice:
        """Tells that it is there for the first time, online."""
        return self._notice("agent.registered", f"{self.uid}/registered", self.created_at)

    def came_online(self) -> Notice:
        """Tells that its period began."""
        return self._notice("agent.online", f"{self.uid}/{self.period}/online", self.heard_at)

    def went_offline(self) -> Notice:
        """Tells that its period ended: when it had been silent for too long."""
        return self._notice("agent.offline", f"{self.uid}/{self.period}/offline", self.heard_at + SILENCE)

    def deregistered(self, now: datetime) -> Notice:
        """Tells that it was forgotten."""
        return self._notice("agent.deregistered", f"{self.uid}/deregistered", now)

    def _notice(self, type: str, id: str, time: datetime) -> Notice:
        content = {
            "name": self.name,
            "capabilities": list(self.description.capabilities),
            "load": self.load,
            "principal": self.principal,
        }
        return Notice(self.tenant, id, type, self.name, time, content)


def may_speak(principal: str, speaker: Identity) -> bool:
    """Whether a caller may speak for the agent that `principal` registered."""
    return speaker.principal == principal or speaker.allows(ADMIN)


def check_speaker(name: str, principal: str, speaker: Identity) -> None:
    """Raise PermissionDeniedError unless a caller may speak for the agent that `principal` registered."""
    if not may_speak(principal, speaker):
        text = f"{name!r} was registered by {principal!r}, you are {speaker.principal!r}"
        raise PermissionDeniedError(f"{text}; only its principal and the scope {ADMIN} may speak for it", scope=ADMIN)
