"""Memories and spaces as memory-core knows them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from mnemocore.ids import MemoryId, SpaceUid, Tenant


class Kind(IntEnum):
    """What sort of thing a memory holds. The numbers are those of the contract and of the database."""

    OBSERVATION = 1
    FACT = 2
    EPISODE = 3
    PROCEDURE = 4
    PREFERENCE = 5
    DECISION = 6
    SUMMARY = 7


class State(IntEnum):
    """Where a memory is in its life. The numbers are those of the contract and of the database."""

    ACTIVE = 1
    ARCHIVED = 2


class Change(IntEnum):
    """What a revision did. The numbers are those of the contract and of the database."""

    CREATED = 1
    ARCHIVED = 2
    RESTORED = 3
    ERASED = 4
    REPUBLISHED = 5


class Profile(IntEnum):
    """How the parts of a score are weighed. The numbers are those of the contract."""

    BALANCED = 1
    SEMANTIC = 2
    RECENT = 3


@dataclass(frozen=True, slots=True)
class Space:
    """A space with its counts. `slug` is the last part of its public name, `uid` its internal id."""

    uid: SpaceUid
    tenant: Tenant
    slug: str
    description: str
    revision: int
    published_revision: int
    active: int
    archived: int
    created_at: datetime

    @property
    def name(self) -> str:
        """The public resource name."""
        return f"spaces/{self.slug}"


@dataclass(frozen=True, slots=True)
class Draft:
    """A memory before it is written. `id` None lets the store choose, `ordinal` None means the order of arrival."""

    content: str
    id: MemoryId | None = None
    kind: Kind = Kind.OBSERVATION
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    actor: str = ""
    session: str = ""
    ordinal: int | None = None
    occurred_at: datetime | None = None
    importance: float = 0.5
    confidence: float = 1.0


@dataclass(frozen=True, slots=True)
class Memory:
    """A memory as it is stored. `created_revision` and `revision` are the first and the newest change of it."""

    id: MemoryId
    kind: Kind
    content: str
    metadata: Mapping[str, Any]
    tags: tuple[str, ...]
    actor: str
    session: str
    ordinal: int | None
    occurred_at: datetime
    importance: float
    confidence: float
    state: State
    revision: int
    created_revision: int
    created_at: datetime
    updated_at: datetime

    @property
    def etag(self) -> str:
        """Changes with every change of the memory."""
        return f"{self.revision:x}"


@dataclass(frozen=True, slots=True)
class Revision:
    """One committed change of one memory. `memory` is None once the memory was erased."""

    revision: int
    memory_id: MemoryId
    change: Change
    memory: Memory | None
    committed_at: datetime
    principal: str
    reason: str


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions that must all hold; empty ones hold for every memory. Times are half-open: from <= t < to."""

    kinds: tuple[Kind, ...] = ()
    tags: tuple[str, ...] = ()
    actors: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    occurred_from: datetime | None = None
    occurred_to: datetime | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def as_query(self) -> list[Any]:
        """The filter as JSON values, for page tokens."""
        return [
            [int(kind) for kind in self.kinds],
            self.tags,
            self.actors,
            self.sessions,
            self.occurred_from and self.occurred_from.isoformat(),
            self.occurred_to and self.occurred_to.isoformat(),
            dict(self.metadata),
        ]
