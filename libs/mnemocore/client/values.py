"""What the client takes and gives: plain, frozen values.

Times are timezone-aware, UTC when they come from a server. Ids are the last part of a resource name. Every enumeration
has UNKNOWN for a value that a newer server sends and this release cannot name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from mnemocore.errors import MnemoError

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
"""What metadata may hold. Numbers travel as doubles: integral ones come back as int."""


class MemoryKind(StrEnum):
    """What sort of thing a memory holds."""

    UNKNOWN = "unknown"
    OBSERVATION = "observation"
    FACT = "fact"
    EPISODE = "episode"
    PROCEDURE = "procedure"
    PREFERENCE = "preference"
    DECISION = "decision"
    SUMMARY = "summary"


class MemoryState(StrEnum):
    """Where a memory is in its life."""

    UNKNOWN = "unknown"
    ACTIVE = "active"
    ARCHIVED = "archived"


class ChangeType(StrEnum):
    """What happened to a memory."""

    UNKNOWN = "unknown"
    CREATED = "created"
    ARCHIVED = "archived"
    RESTORED = "restored"
    ERASED = "erased"
    REPUBLISHED = "republished"


class RecallProfile(StrEnum):
    """How the parts of the score are weighed."""

    UNKNOWN = "unknown"
    BALANCED = "balanced"
    SEMANTIC = "semantic"
    RECENT = "recent"


class DegradedPart(StrEnum):
    """A part that did not take part in an answer."""

    UNKNOWN = "unknown"
    INDEX = "index"
    ENCODER = "encoder"


class JobState(StrEnum):
    """Where a job is."""

    UNKNOWN = "unknown"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True, slots=True)
class MemoryInput:
    """What a caller says of a memory when it creates one. None and empty values leave the choice to the server.

    `id` is a UUID of the caller's choice, `ordinal` the place in the session, `occurred_at` a time with a time zone,
    `importance` and `confidence` are between 0 and 1.
    """

    content: str
    kind: MemoryKind | str = MemoryKind.OBSERVATION
    metadata: Mapping[str, Json] = field(default_factory=dict, hash=False)
    tags: Sequence[str] = ()
    actor: str = ""
    session: str = ""
    ordinal: int | None = None
    occurred_at: datetime | None = None
    importance: float | None = None
    confidence: float | None = None
    id: str = ""


@dataclass(frozen=True, slots=True)
class Memory:
    """A memory as it is stored."""

    id: str
    space: str
    kind: MemoryKind
    content: str
    metadata: dict[str, Json] = field(hash=False)
    tags: tuple[str, ...]
    actor: str
    session: str
    ordinal: int | None
    occurred_at: datetime | None
    importance: float
    confidence: float
    state: MemoryState
    revision: int
    create_time: datetime | None
    update_time: datetime | None
    etag: str

    @property
    def name(self) -> str:
        """The resource name."""
        return f"spaces/{self.space}/memories/{self.id}"


@dataclass(frozen=True, slots=True)
class MemoryFilter:
    """Which memories a call is about: every named condition must hold, an empty one matches all.

    Any of `kinds`, all of `tags`, any of `actors`, any of `sessions`, happened from `occurred_from` (included) to
    `occurred_to` (excluded), and exactly these values under these top-level keys of the metadata.
    """

    kinds: Sequence[MemoryKind | str] = ()
    tags: Sequence[str] = ()
    actors: Sequence[str] = ()
    sessions: Sequence[str] = ()
    occurred_from: datetime | None = None
    occurred_to: datetime | None = None
    metadata: Mapping[str, Json] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class ScorePart:
    """One part of a score: the value of a signal, the weight it was given, and what it added to the score."""

    name: str
    value: float
    weight: float
    contribution: float


@dataclass(frozen=True, slots=True)
class RecallHit:
    """One recalled memory. The contributions of the explanation sum to the score, which is between 0 and 1."""

    score: float
    memory: Memory
    explanation: tuple[ScorePart, ...]


class RecallHits(list[RecallHit]):
    """The recalled memories, best first, and which parts of the system did not take part in finding them."""

    def __init__(self, hits: Sequence[RecallHit] = (), degraded: Sequence[DegradedPart] = ()) -> None:
        super().__init__(hits)
        self.degraded = tuple(degraded)


@dataclass(frozen=True, slots=True)
class ItemError:
    """Why an item was refused; `index` is its place among the items, from 0."""

    index: int
    error: MnemoError


@dataclass(frozen=True, slots=True)
class RememberedMany:
    """What became of many items: the ids of the memories written, in the order of the items, and the refused items."""

    ids: list[str]
    errors: list[ItemError]


@dataclass(frozen=True, slots=True)
class FoundMany:
    """Memories that were asked for by id, in that order, and the ids that name none."""

    memories: list[Memory]
    missing: list[str]


@dataclass(frozen=True, slots=True)
class SpaceInfo:
    """A space and its counts. `uid` is its internal id, which events carry."""

    id: str
    uid: str
    description: str
    revision: int
    active_memories: int
    archived_memories: int
    published_revision: int
    create_time: datetime | None


@dataclass(frozen=True, slots=True)
class Revision:
    """One committed change. The content of an erased memory is gone from its revisions."""

    revision: int
    change: ChangeType
    memory: Memory
    commit_time: datetime | None
    principal: str
    reason: str


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A memory that says what another one says, its similarity to that one, and whether it was archived."""

    id: str
    similarity: float
    archived: bool


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """Memories that say the same: the id of the one that stays, and the others."""

    kept: str
    duplicates: tuple[Duplicate, ...]


@dataclass(frozen=True, slots=True)
class ConsolidationReport:
    """What a consolidation found and did; `pairs` examined, `archived` memories."""

    min_similarity: float
    dry_run: bool
    pairs: int
    groups: tuple[DuplicateGroup, ...]
    archived: int
    markdown: str


@dataclass(frozen=True, slots=True)
class Job:
    """A near-duplicate consolidation of one space. `error` says why it failed."""

    id: str
    space: str
    state: JobState
    report: ConsolidationReport
    error: str
    create_time: datetime | None
    start_time: datetime | None
    end_time: datetime | None


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The version of the server, who the caller is to it, the readiness of each service, and the public methods."""

    version: str
    tenant: str
    principal: str
    scopes: tuple[str, ...]
    services: dict[str, bool] = field(hash=False)
    methods: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key, without its secret."""

    id: str
    tenant: str
    principal: str
    scopes: tuple[str, ...]
    create_time: datetime | None
    expire_time: datetime | None


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """An API key with its secret, which nobody can ask for again."""

    api_key: ApiKey
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Event:
    """An event of the log, with the attributes of CloudEvents; `position` is its place."""

    position: int
    id: str
    source: str
    type: str
    subject: str
    time: datetime | None
    datacontenttype: str
    dataschema: str
    data: bytes
    space_uid: str
    revision: int
    stored_at: datetime | None
