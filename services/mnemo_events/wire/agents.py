"""Agents of the contract as values of the domain, and back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from mnemo_events.domain.agent import Description, Presence
from mnemo_events.domain.texts import refuse_nul
from mnemocore.errors import InvalidFieldError, Violation
from mnemocore.events.v1 import resources_pb2
from mnemocore.wire import dict_to_struct, struct_to_dict, to_timestamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from mnemo_events.domain.agent import Agent

MAX_METADATA_BYTES: Final = 16 * 1024
"""Of the metadata of an agent, as JSON."""
_EMPTY: Final = "is empty; allowed are 1 to 64 characters"


def to_capabilities(field: str, capabilities: Iterable[str]) -> tuple[str, ...]:
    """Capabilities, sorted, each once. Raises InvalidFieldError for an empty one or the character U+0000."""
    found = {f"{field}[{place}]": capability for place, capability in enumerate(capabilities)}
    refuse_nul(found)
    if empty := [Violation(place, _EMPTY) for place, capability in found.items() if not capability]:
        raise InvalidFieldError.of(empty)
    return tuple(sorted(set(found.values())))


def to_description(message: resources_pb2.Agent, field: str = "agent") -> Description:
    """What an agent says of itself. Raises InvalidFieldError."""
    metadata = struct_to_dict(message.metadata)
    refuse_nul({f"{field}.description": message.description, f"{field}.metadata": "".join(_texts(metadata))})
    if (size := len(json.dumps(metadata, ensure_ascii=False).encode())) > MAX_METADATA_BYTES:
        described = f"has {size} bytes as JSON; allowed are {MAX_METADATA_BYTES}"
        raise InvalidFieldError.of([Violation(f"{field}.metadata", described)])
    capabilities = to_capabilities(f"{field}.capabilities", message.capabilities)
    return Description(capabilities, message.description, metadata)


def to_presence(state: int) -> Presence | None:
    """The state of a request; None if it is not set."""
    return Presence(state) if state else None


def from_agent(agent: Agent, now: datetime) -> resources_pb2.Agent:
    """An agent for an answer, as it is at a time."""
    return resources_pb2.Agent(
        name=agent.name,
        capabilities=agent.description.capabilities,
        description=agent.description.description,
        metadata=dict_to_struct(agent.description.metadata),
        state=resources_pb2.AgentState.ValueType(agent.presence_at(now)),
        load=agent.load,
        last_heartbeat_time=to_timestamp(agent.heard_at),
        create_time=to_timestamp(agent.created_at),
        principal=agent.principal,
    )


def _texts(value: Any) -> Iterator[str]:
    """All texts in JSON-like data."""
    if isinstance(value, dict):
        yield from value
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value
