"""The types of the events that the platform itself publishes: one table for the registry, the checks and the docs."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from mnemo_events.domain.event import SPACE_ERASED

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class PlatformType:
    """A type of event. `message` is the full name of the protobuf message in `data`, `content` the fields of the JSON.

    Neither: `data` is empty. `content` names the JSON type of each field.
    """

    type: str
    subject: str
    description: str
    message: str = ""
    content: Mapping[str, str] = field(default_factory=dict)

    @property
    def json_schema(self) -> bytes:
        """The schema of the JSON in `data`."""
        properties = {name: {"type": kind} for name, kind in self.content.items()}
        return json.dumps({"type": "object", "properties": properties, "required": list(properties)}).encode()


_REVISION: Final = "mnemocore.memory.v1.Revision"
_MEMORY: Final = "spaces/{space}/memories/{memory}"
_AGENT: Final = {"name": "string", "capabilities": "array", "load": "number", "principal": "string"}
_TASK: Final = {
    "name": "string",
    "type": "string",
    "principal": "string",
    "agent": "string",
    "attempts": "integer",
    "retries": "integer",
}

PLATFORM_TYPES: Final = (
    PlatformType("memory.created", _MEMORY, "A memory was written.", _REVISION),
    PlatformType("memory.updated", _MEMORY, "A memory was changed.", _REVISION),
    PlatformType("memory.superseded", _MEMORY, "Another memory has taken the place of this one.", _REVISION),
    PlatformType("memory.archived", _MEMORY, "A memory was archived: recall passes it over.", _REVISION),
    PlatformType("memory.restored", _MEMORY, "An archived memory is active again.", _REVISION),
    PlatformType("memory.expired", _MEMORY, "The time to live of a memory was over.", _REVISION),
    PlatformType("memory.erased", _MEMORY, "A memory was erased; its earlier events have lost their data.", _REVISION),
    PlatformType("memory.protected", _MEMORY, "A memory was protected from fading, or no longer is.", _REVISION),
    PlatformType("memory.feedback", _MEMORY, "Somebody said whether a memory helped.", _REVISION),
    PlatformType("memory.reinforced", _MEMORY, "Using a memory has made it stronger.", _REVISION),
    PlatformType(
        "memory.republished", _MEMORY, "The state of a memory once more, for those who build a projection.", _REVISION
    ),
    PlatformType(
        SPACE_ERASED,
        "spaces/{uid}",
        "A space was erased: its other events are removed, and none of it will come any more. The subject has its "
        "internal id.",
    ),
    PlatformType("agent.registered", "agents/{agent}", "An agent was registered for the first time.", content=_AGENT),
    PlatformType("agent.online", "agents/{agent}", "An agent is heard, after it was not.", content=_AGENT),
    PlatformType("agent.offline", "agents/{agent}", "An agent was not heard for 60 s.", content=_AGENT),
    PlatformType("agent.deregistered", "agents/{agent}", "An agent was forgotten.", content=_AGENT),
    PlatformType("task.done", "tasks/{task}", "An agent has done a task.", content=_TASK),
    PlatformType(
        "task.dead", "tasks/{task}", "A task failed as often as it may.", content=_TASK | {"reason": "string"}
    ),
    PlatformType(
        "events.webhook.test",
        "webhooks/{webhook}",
        "Somebody tries a webhook. It is sent to that webhook only, and is not in the log.",
        content={"webhook": "string"},
    ),
    PlatformType(
        "events.webhook.suspended",
        "webhooks/{webhook}",
        "A webhook failed so often that it was paused.",
        content={"webhook": "string", "reason": "string"},
    ),
)

RESERVED_SEGMENTS: Final = frozenset(
    {
        "memory",
        "space",
        "association",
        "session",
        "working_memory",
        "agent",
        "task",
        "events",
        "index",
        "cognitive",
        "gateway",
    }
    | {each.type.partition(".")[0] for each in PLATFORM_TYPES}
)
"""First segments of types that are the platform's, today or some day."""


def is_reserved(type: str) -> bool:
    """Whether a type is the platform's: no client publishes it or says what it looks like."""
    return type.partition(".")[0] in RESERVED_SEGMENTS
