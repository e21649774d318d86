"""What some options may be: the members of the client's enumerations, which load gRPC and so are not asked for them."""

from __future__ import annotations

from typing import Final

import click

KINDS: Final = ("observation", "fact", "episode", "procedure", "preference", "decision", "summary")
STATES: Final = ("active", "archived", "superseded", "expired")
MODALITIES: Final = ("text", "image", "audio", "video", "document")
PROFILES: Final = ("balanced", "semantic", "recent", "graph")
ON_DUPLICATE: Final = ("keep", "reinforce", "reject")
ORIGINS: Final = ("user", "agent", "tool", "document", "derived", "import")
ACCESS: Final = ("tenant", "owner")
ROLES: Final = ("read", "annotate", "write")
LINK_TYPES: Final = (
    "related",
    "precedes",
    "follows",
    "supports",
    "contradicts",
    "extends",
    "references",
    "derived_from",
    "co_recalled",
)
DIRECTIONS: Final = ("outgoing", "incoming")
FAILURE_REASONS: Final = (
    "handler_error",
    "unavailable",
    "timeout",
    "lease_expired",
    "invalid_event",
    "rejected",
    "refused_by_target",
)
SCHEMA_FORMATS: Final = ("json", "protobuf")
COMPATIBILITIES: Final = ("none", "backward", "forward", "full")
EVENT_ACTIONS: Final = ("publish", "subscribe")
AGENT_STATES: Final = ("online", "offline")
TASK_STATES: Final = ("queued", "running", "done", "dead", "cancelled")
ENDED_TASK_STATES: Final = ("done", "dead", "cancelled")

kind = click.Choice(KINDS)
state = click.Choice(STATES)
modality = click.Choice(MODALITIES)
profile = click.Choice(PROFILES)
on_duplicate = click.Choice(ON_DUPLICATE)
origin = click.Choice(ORIGINS)
access = click.Choice(ACCESS)
role = click.Choice(ROLES)
link_type = click.Choice(LINK_TYPES)
direction = click.Choice(DIRECTIONS)
failure_reason = click.Choice(FAILURE_REASONS)
schema_format = click.Choice(SCHEMA_FORMATS)
compatibility = click.Choice(COMPATIBILITIES)
event_action = click.Choice(EVENT_ACTIONS)
agent_state = click.Choice(AGENT_STATES)
task_state = click.Choice(TASK_STATES)
ended_task_state = click.Choice(ENDED_TASK_STATES)
