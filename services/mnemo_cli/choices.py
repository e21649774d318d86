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
