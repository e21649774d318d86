"""What the client takes and gives: plain, frozen values.

Times are timezone-aware, UTC when they come from a server. Ids are the last part of a resource name. Every enumeration
has UNKNOWN for a value that a newer server sends and this release cannot name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date, datetime, timedelta

    from mnemocore.client.media import Media
    from mnemocore.errors import MnemoError

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
"""What metadata may hold. Numbers travel as doubles: integral ones come back as int."""


class Unchanged(Enum):
    """Stands for a field that an update leaves as it is."""

    UNCHANGED = "unchanged"

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED: Final = Unchanged.UNCHANGED
"""The value of every field of an update that the caller does not give."""


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
    SUPERSEDED = "superseded"
    EXPIRED = "expired"
    ERASED = "erased"


class Modality(StrEnum):
    """What a memory is made of."""

    UNKNOWN = "unknown"
    TEXT = "text"
    IMAGE = "image"
    AUDIO = "audio"
    VIDEO = "video"
    DOCUMENT = "document"


class Tier(StrEnum):
    """How close at hand a memory is kept; all tiers are searched."""

    UNKNOWN = "unknown"
    HOT = "hot"
    WARM = "warm"
    COLD = "cold"


class RetentionState(StrEnum):
    """What is to be done about a memory as it is forgotten."""

    UNKNOWN = "unknown"
    KEEP = "keep"
    REVIEW = "review"
    FORGET = "forget"


class OnDuplicate(StrEnum):
    """What to do with a memory whose kind, actor, content and media are those of an active one."""

    UNKNOWN = "unknown"
    KEEP = "keep"
    REINFORCE = "reinforce"
    REJECT = "reject"


class NoveltyGate(StrEnum):
    """Whether a new memory is compared in meaning with those of its kind before it is written."""

    UNKNOWN = "unknown"
    OFF = "off"
    ON = "on"


class NoveltyDecision(StrEnum):
    """What the novelty gate decided. UNKNOWN also if the index did not answer, so that nothing was compared."""

    UNKNOWN = "unknown"
    NEW = "new"
    REDUNDANT = "redundant"
    UPDATE = "update"
    CORRECTION = "correction"
    REFINEMENT = "refinement"


class Origin(StrEnum):
    """Where a memory comes from. UNKNOWN also if nobody said."""

    UNKNOWN = "unknown"
    USER = "user"
    AGENT = "agent"
    TOOL = "tool"
    DOCUMENT = "document"
    DERIVED = "derived"
    IMPORT = "import"


class SpaceAccess(StrEnum):
    """Who of the tenant may use a space: everybody, or its owner and those it is shared with."""

    UNKNOWN = "unknown"
    TENANT = "tenant"
    OWNER = "owner"


class GrantRole(StrEnum):
    """What a principal may do in a space. Each role includes those before; OWNER is never granted."""

    UNKNOWN = "unknown"
    READ = "read"
    ANNOTATE = "annotate"
    WRITE = "write"
    OWNER = "owner"


class AssociationType(StrEnum):
    """What sort of link leads from one memory to another."""

    UNKNOWN = "unknown"
    RELATED = "related"
    PRECEDES = "precedes"
    FOLLOWS = "follows"
    SUPPORTS = "supports"
    CONTRADICTS = "contradicts"
    EXTENDS = "extends"
    REFERENCES = "references"
    DERIVED_FROM = "derived_from"
    CO_RECALLED = "co_recalled"


class Direction(StrEnum):
    """Which way links are followed, where it is not both ways."""

    UNKNOWN = "unknown"
    OUTGOING = "outgoing"
    INCOMING = "incoming"


class ChangeType(StrEnum):
    """What happened to a memory."""

    UNKNOWN = "unknown"
    CREATED = "created"
    ARCHIVED = "archived"
    RESTORED = "restored"
    ERASED = "erased"
    REPUBLISHED = "republished"
    UPDATED = "updated"
    SUPERSEDED = "superseded"
    EXPIRED = "expired"
    PROTECTED = "protected"
    FEEDBACK = "feedback"
    REINFORCED = "reinforced"


class RecallProfile(StrEnum):
    """How the parts of the score are weighed."""

    UNKNOWN = "unknown"
    BALANCED = "balanced"
    SEMANTIC = "semantic"
    RECENT = "recent"
    GRAPH = "graph"


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
class Provenance:
    """Where a memory comes from: what sort of source, whatever leads to the sources, and the agent that wrote it."""

    origin: Origin | str = Origin.UNKNOWN
    sources: Sequence[str] = ()
    agent: str = ""


@dataclass(frozen=True, slots=True)
class MemoryInput:
    """What a caller says of a memory when it creates one. None and empty values leave the choice to the server.

    `id` is a UUID of the caller's choice, `ordinal` the place in the session, times need a time zone, `importance` and
    `confidence` are between 0 and 1. `media` are at most 10 MiB of bytes that belong to it, or what
    `Space.upload_media` returned; `media_type` is the MIME type they are said to have. It is true in the world from
    `valid_from` until `valid_to`. It expires at `expires_at`, or `ttl` after it is sent by the clock of this machine;
    only one of the two can be given.
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
    media: bytes | Media | None = field(default=None, repr=False)
    media_type: str = ""
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    expires_at: datetime | None = None
    ttl: timedelta | None = None
    provenance: Provenance | None = None
    protected: bool = False
    on_duplicate: OnDuplicate | str | None = None
    novelty_gate: NoveltyGate | str | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """A memory as it is stored.

    `supersedes` and `superseded_by` are ids of memories of the same space, empty if there is none. `strength` says how
    firmly it is held, `reliability` how often it proved right when it was used (0.5 without feedback), both from 0 to
    1. `access_count` is how often it was recalled, read for use or reinforced; 1 when it is new. `retention`, 0 to 1,
    fades with the days of use since it was last used; it and `retention_state` come with a memory that is read alone.
    """

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
    modality: Modality
    media: Media | None
    valid_from: datetime | None
    valid_to: datetime | None
    expires_at: datetime | None
    provenance: Provenance | None
    supersedes: str
    superseded_by: str
    protected: bool
    strength: float = field(compare=False)
    access_count: int = field(compare=False)
    last_accessed_at: datetime | None = field(compare=False)
    reliability: float
    tier: Tier
    retention: float | None = field(default=None, compare=False)
    retention_state: RetentionState | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """The resource name."""
        return f"spaces/{self.space}/memories/{self.id}"


@dataclass(frozen=True, slots=True)
class MemoryFilter:
    """Which memories a call is about: every named condition must hold, an empty one matches all.

    Any of `kinds`, all of `tags`, any of `actors`, any of `sessions`, happened from `occurred_from` (included) to
    `occurred_to` (excluded), exactly these values under these top-level keys of the metadata, true in the world at
    `valid_at`, written from `created_from` (included) to `created_to` (excluded), at least so important, and any of
    `modalities`.
    """

    kinds: Sequence[MemoryKind | str] = ()
    tags: Sequence[str] = ()
    actors: Sequence[str] = ()
    sessions: Sequence[str] = ()
    occurred_from: datetime | None = None
    occurred_to: datetime | None = None
    metadata: Mapping[str, Json] = field(default_factory=dict, hash=False)
    valid_at: datetime | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None
    min_importance: float | None = None
    modalities: Sequence[Modality | str] = ()


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
class Remembered:
    """What became of a memory: as it is stored, or the `duplicate` that was there and says the same.

    `novelty` is what the novelty gate decided, None if it was not asked.
    """

    memory: Memory
    duplicate: bool
    novelty: NoveltyDecision | None


@dataclass(frozen=True, slots=True)
class ItemError:
    """Why an item was refused; `index` is its place among the items, from 0."""

    index: int
    error: MnemoError


@dataclass(frozen=True, slots=True)
class RememberedMany:
    """What became of many items: the ids of their memories, in the order of the items, and the refused items.

    `duplicates` are the places of the items, from 0, that said the same as a memory that was there: theirs are the ids
    of those.
    """

    ids: list[str]
    errors: list[ItemError]
    duplicates: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class FoundMany:
    """Memories that were asked for by id, in that order, and the ids that name none."""

    memories: list[Memory]
    missing: list[str]


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """How long memories are kept that are out of recall; None: for good. Protected ones are kept."""

    erase_expired_after: timedelta | None = None
    erase_archived_after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class SpaceLimits:
    """What a space may hold: memories in whatever state, bytes of content, metadata and media, and bytes of the content
    of one memory; None: no limit.
    """

    max_memories: int | None = None
    max_bytes: int | None = None
    max_content_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class SpacePolicy:
    """Who may use a space, what is done by itself in it, and what it may hold.

    `novelty_gate` says whether new memories are compared with what is known unless the caller says otherwise.
    """

    access: SpaceAccess | str = SpaceAccess.TENANT
    novelty_gate: NoveltyGate | str = NoveltyGate.OFF
    retention: RetentionPolicy = RetentionPolicy()
    limits: SpaceLimits = SpaceLimits()


@dataclass(frozen=True, slots=True)
class SpaceInfo:
    """A space and its counts. `uid` is its internal id, which events carry.

    `encrypted` says whether what the memories hold is encrypted at rest, `role` what the caller may do in it, `owner`
    is the principal that made it.
    """

    id: str
    uid: str
    description: str
    revision: int
    active_memories: int
    archived_memories: int
    published_revision: int
    create_time: datetime | None
    policy: SpacePolicy
    encrypted: bool
    etag: str
    role: GrantRole
    owner: str


@dataclass(frozen=True, slots=True)
class DayCount:
    """Memories written on a day of UTC, and the bytes of their content and metadata."""

    day: date
    memories: int
    content_bytes: int


@dataclass(frozen=True, slots=True)
class SpaceStats:
    """What is in a space: numbers of memories, and bytes.

    `kinds` and `tiers` count memories in whatever state, `content_bytes` is the size of content and metadata. `growth`
    has the last days, oldest first; days on which nothing was written are left out.
    """

    kinds: dict[MemoryKind, int] = field(hash=False)
    states: dict[MemoryState, int] = field(hash=False)
    tiers: dict[Tier, int] = field(hash=False)
    content_bytes: int
    media_bytes: int
    associations: int
    growth: tuple[DayCount, ...]


@dataclass(frozen=True, slots=True)
class ErasureReceipt:
    """Proof that a space was erased, without any of its content; the numbers say how much of each was erased.

    `log_erase_time` is None until the event log has confirmed that it has erased the events.
    """

    id: str
    space_uid: str
    principal: str
    reason: str
    erase_time: datetime | None
    log_erase_time: datetime | None
    memories: int
    revisions: int
    media: int
    associations: int


@dataclass(frozen=True, slots=True)
class KeyRotation:
    """The key a space is now encrypted with, and how many memories, revisions and media were encrypted anew."""

    key_id: str
    sealed_again: int


@dataclass(frozen=True, slots=True)
class Grant:
    """A space, or part of it, shared with a principal.

    `space` is its id for its owner, `accepted_as` the one under which it was accepted, empty before and within one
    tenant. Only memories of any of `kinds` and with all of `tags` are shared; all if both are empty.
    """

    id: str
    space: str
    tenant: str
    principal: str
    role: GrantRole
    kinds: tuple[MemoryKind, ...]
    tags: tuple[str, ...]
    expire_time: datetime | None
    create_time: datetime | None
    grantor: str
    grantor_tenant: str
    accepted_as: str


@dataclass(frozen=True, slots=True)
class Association:
    """A weighted link from the memory `source` to the memory `target`, both ids of the space.

    `weight` is above 0 and at most 1, `activations` how often it was reinforced; 1 when it is new.
    """

    source: str
    target: str
    type: AssociationType
    weight: float
    activations: int
    create_time: datetime | None
    update_time: datetime | None
    principal: str


@dataclass(frozen=True, slots=True)
class AssociationPath:
    """Links in the order of a path, and the product of their weights."""

    associations: tuple[Association, ...]
    weight: float


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A memory that activation reached: how much of it, and after how many hops first."""

    memory: Memory
    activation: float
    hops: int


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """The memories that activation reached, the most active first, and the links between them and where it began."""

    neighbours: tuple[Neighbour, ...]
    associations: tuple[Association, ...]


@dataclass(frozen=True, slots=True)
class WorkingItem:
    """What an agent has in mind for a session; `memory` is what it would become.

    `access_count` is how often it was listed for use or pushed again. `expire_time` is None for protected items.
    """

    id: str
    agent: str
    session: str
    memory: MemoryInput
    protected: bool
    access_count: int
    create_time: datetime | None
    expire_time: datetime | None


@dataclass(frozen=True, slots=True)
class Pushed:
    """An item put into working memory, and the id of the one that made room for it; empty if none did."""

    item: WorkingItem
    evicted: str


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A conversation or run. `end_time` is None while it goes on; `memories` belong to it, whatever their state."""

    id: str
    agent: str
    metadata: dict[str, Json] = field(hash=False)
    start_time: datetime | None
    end_time: datetime | None
    memories: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of an agent at a moment of a session; listings leave `state` out (None).

    `working_items` is the number of items of working memory it holds, `revision` that of the space when it was made.
    """

    id: str
    session: str
    label: str
    state: dict[str, Json] | None = field(hash=False)
    create_time: datetime | None
    working_items: int
    revision: int


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
