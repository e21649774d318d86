"""Memories and spaces as memory-core knows them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta

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
    """Where a memory is in its life. The numbers are those of the contract."""

    ACTIVE = 1
    ARCHIVED = 2
    SUPERSEDED = 3
    EXPIRED = 4
    ERASED = 5


class Modality(IntEnum):
    """What a memory is made of. The numbers are those of the contract and of the database."""

    TEXT = 1
    IMAGE = 2
    AUDIO = 3
    VIDEO = 4
    DOCUMENT = 5


class Tier(IntEnum):
    """How close at hand a memory is kept. The numbers are those of the contract and of the database."""

    HOT = 1
    WARM = 2
    COLD = 3


class Origin(IntEnum):
    """Where a memory comes from. The numbers are those of the contract."""

    UNNAMED = 0
    USER = 1
    AGENT = 2
    TOOL = 3
    DOCUMENT = 4
    DERIVED = 5
    IMPORT = 6


class OnDuplicate(IntEnum):
    """What to do with a memory that equals an active one. The numbers are those of the contract."""

    ALLOW = 0
    KEEP = 1
    REINFORCE = 2
    REJECT = 3


class NoveltyGate(IntEnum):
    """Whether a new memory is compared in meaning with what is known. The numbers are those of the contract."""

    UNNAMED = 0
    OFF = 1
    ON = 2


class Change(IntEnum):
    """What a revision did. The numbers are those of the contract and of the database."""

    CREATED = 1
    ARCHIVED = 2
    RESTORED = 3
    ERASED = 4
    REPUBLISHED = 5
    UPDATED = 6
    SUPERSEDED = 7
    EXPIRED = 8
    PROTECTED = 9
    FEEDBACK = 10
    REINFORCED = 11


class Profile(IntEnum):
    """How the parts of a score are weighed. The numbers are those of the contract."""

    BALANCED = 1
    SEMANTIC = 2
    RECENT = 3
    GRAPH = 4


class Role(IntEnum):
    """What a caller may do in a space; each includes those before. The numbers are those of the contract."""

    READ = 1
    ANNOTATE = 2
    WRITE = 3
    OWNER = 4


class SpaceAccess(IntEnum):
    """Who of the tenant may use a space. The numbers are those of the contract."""

    TENANT = 1
    OWNER = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """What a space may hold; 0 is no limit. `max_bytes` counts content, metadata and media."""

    max_memories: int = 0
    max_bytes: int = 0
    max_content_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Policy:
    """What is done by itself in a space, and what it may hold."""

    access: SpaceAccess = SpaceAccess.TENANT
    novelty_gate: NoveltyGate = NoveltyGate.OFF
    erase_expired_after: timedelta | None = None
    erase_archived_after: timedelta | None = None
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True)
class Space:
    """A space with its counts. `slug` is the last part of its public name, `uid` its internal id.

    `active` counts memories as the last sweep of expired ones left them; `bytes` those of content and metadata.
    """

    uid: SpaceUid
    tenant: Tenant
    slug: str
    description: str
    revision: int
    published_revision: int
    active: int
    archived: int
    created_at: datetime
    owner: str = ""
    policy: Policy = Policy()
    policy_revision: int = 0
    encrypted: bool = False
    bytes: int = 0
    media_bytes: int = 0

    @property
    def name(self) -> str:
        """The public resource name."""
        return f"spaces/{self.slug}"

    @property
    def etag(self) -> str:
        """Changes with every change of the description or the policy."""
        return f"{self.policy_revision:x}"


@dataclass(frozen=True, slots=True)
class Media:
    """Bytes that belong to a memory. `id` is a UUID, `sha256` is in hexadecimal."""

    id: str
    mime_type: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a memory comes from."""

    origin: Origin = Origin.UNNAMED
    sources: tuple[str, ...] = ()
    agent: str = ""


UNNAMED_PROVENANCE: Final = Provenance()
"""Nothing is known of where a memory comes from: by far the most memories share this one."""


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
    modality: Modality = Modality.TEXT
    media: Media | None = None
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    expires_at: datetime | None = None
    provenance: Provenance = UNNAMED_PROVENANCE
    protected: bool = False
    on_duplicate: OnDuplicate = OnDuplicate.ALLOW
    novelty_gate: NoveltyGate = NoveltyGate.UNNAMED


@dataclass(frozen=True, slots=True)
class Memory:
    """A memory as it is stored. `created_revision` and `revision` are the first and the newest change of it.

    `state` is the state at the time it was read. `alpha` and `beta` are the sums of the weights of good and of bad
    feedback, the prior of 1 included. `accesses` and `accessed_at` count uses; they are no part of its history.
    """

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
    modality: Modality = Modality.TEXT
    media: Media | None = None
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    expires_at: datetime | None = None
    archived_at: datetime | None = None
    provenance: Provenance = UNNAMED_PROVENANCE
    supersedes: MemoryId | None = None
    superseded_by: MemoryId | None = None
    protected: bool = False
    alpha: float = 1.0
    beta: float = 1.0
    accesses: int = 1
    accessed_at: datetime | None = None
    tier: Tier = Tier.WARM

    @property
    def etag(self) -> str:
        """Changes with every change of the memory."""
        return f"{self.revision:x}"

    def state_at(self, now: datetime) -> State:
        """The state at `now` of a memory that does not change until then."""
        if self.archived_at is not None:
            return State.ARCHIVED
        if self.expires_at is not None and self.expires_at <= now:
            return State.EXPIRED
        return State.ACTIVE if self.superseded_by is None else State.SUPERSEDED


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
    """Conditions that must all hold; empty ones hold for every memory. Times are half-open: from <= t < to.

    `nothing` holds for no memory.
    """

    kinds: tuple[Kind, ...] = ()
    tags: tuple[str, ...] = ()
    actors: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    occurred_from: datetime | None = None
    occurred_to: datetime | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    valid_at: datetime | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None
    min_importance: float | None = None
    modalities: tuple[Modality, ...] = ()
    nothing: bool = False

    def matches(self, memory: Memory) -> bool:
        """Whether every condition holds for `memory`."""
        return (
            not self.nothing
            and (not self.kinds or memory.kind in self.kinds)
            and set(self.tags) <= set(memory.tags)
            and (not self.actors or memory.actor in self.actors)
            and (not self.sessions or memory.session in self.sessions)
            and _within(memory.occurred_at, self.occurred_from, self.occurred_to)
            and _within(memory.created_at, self.created_from, self.created_to)
            and (self.valid_at is None or _within(self.valid_at, memory.valid_from, memory.valid_to))
            and (self.min_importance is None or memory.importance >= self.min_importance)
            and (not self.modalities or memory.modality in self.modalities)
            and all(
                key in memory.metadata and _same_json(memory.metadata[key], value)
                for key, value in self.metadata.items()
            )
        )

    def as_query(self) -> list[Any]:
        """The filter as JSON values, for page tokens."""
        times = (self.occurred_from, self.occurred_to, self.valid_at, self.created_from, self.created_to)
        return [
            [int(kind) for kind in self.kinds],
            self.tags,
            self.actors,
            self.sessions,
            [time and time.isoformat() for time in times],
            dict(self.metadata),
            self.min_importance,
            [int(modality) for modality in self.modalities],
            self.nothing,
        ]


def _same_json(left: Any, right: Any) -> bool:
    """Whether two JSON values are equal as the database compares them: 1 is 1.0, true is not 1."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same_json(item, right[key]) for key, item in left.items())
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(map(_same_json, left, right))
    return bool(left == right)


def _within(moment: datetime, start: datetime | None, end: datetime | None) -> bool:
    return (start is None or start <= moment) and (end is None or moment < end)
