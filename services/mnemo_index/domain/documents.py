"""What the index is told: changes of memories; and what it is asked for: filters."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mnemocore.ids import MemoryId

_canonical_json: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""What moments are counted from."""


class State(IntEnum):
    """Where a memory is in its life. The numbers are those of the contract.

    No memory that is held is ERASED. UNKNOWN stands for the states that this version does not know.
    """

    ACTIVE = 1
    ARCHIVED = 2
    SUPERSEDED = 3
    EXPIRED = 4
    ERASED = 5
    UNKNOWN = 127


ACTIVE: Final = frozenset({State.ACTIVE})
"""The states that are looked at unless others are named."""


@dataclass(frozen=True, slots=True)
class Document:
    """What is searched of one memory. `actor` and `session` are empty if there is none; times are timezone-aware.

    `state` is the one it was committed in. It counts as EXPIRED from `expires_at` on unless it is ARCHIVED. `modality`
    is the number of the contract.
    """

    memory_id: MemoryId
    content: str
    kind: str
    occurred_at: datetime
    actor: str = ""
    session: str = ""
    ordinal: int | None = None
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, object] = field(default_factory=dict)
    state: State = State.ACTIVE
    created_at: datetime = EPOCH
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    expires_at: datetime | None = None
    importance: float = 0.5
    modality: int = 1


@dataclass(frozen=True, slots=True)
class Change:
    """One committed change of a memory: what it is afterwards, in the open or, in an encrypted space, sealed.

    A change with neither says that nothing is left of the memory.
    """

    revision: int
    memory_id: MemoryId
    document: Document | None = None
    sealed: bytes = b""

    @property
    def removes(self) -> bool:
        """Whether nothing is left of the memory."""
        return self.document is None and not self.sealed


@dataclass(frozen=True, slots=True)
class Filter:
    """Which memories are looked at: every named condition must hold, an empty one holds for all.

    Any of `kinds`, all of `tags`, any of `actors`, any of `sessions`, `occurred_from` <= time < `occurred_to`, equal
    values of the top-level keys of `metadata`, true at `valid_at`, `created_from` <= time of writing < `created_to`, at
    least of `min_importance`, any of `modalities`; and any of `states` (at least one) at the time `now`, without which
    every memory is in the state it was committed in.
    """

    kinds: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    actors: frozenset[str] = frozenset()
    sessions: frozenset[str] = frozenset()
    occurred_from: datetime | None = None
    occurred_to: datetime | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)
    valid_at: datetime | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None
    min_importance: float | None = None
    modalities: frozenset[int] = frozenset()
    states: frozenset[State] = ACTIVE
    now: datetime | None = None


def microseconds(moment: datetime) -> int:
    """Microseconds from 1970 to `moment` (timezone-aware)."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def marks(tags: tuple[str, ...] | frozenset[str], metadata: Mapping[str, object]) -> Iterator[int]:
    """One 64-bit number for each tag and each top-level pair of metadata; equal for equal ones only."""
    for tag in tags:
        yield fingerprint("tag", tag)
    for key, value in metadata.items():
        yield fingerprint("metadata", key, _canonical(value))


def digest(document: Document) -> int:
    """A 64-bit number that changes with what is searched of the document: all but what a row changes in its place."""
    return fingerprint(
        document.content,
        document.kind,
        document.actor,
        document.session,
        str(document.ordinal),
        document.occurred_at.isoformat(),
        *sorted(document.tags),
        _canonical(document.metadata),
    )


def fingerprint(*parts: str) -> int:
    """A signed 64-bit hash of `parts`, the same on every machine."""
    sizes = ",".join([str(len(part)) for part in parts])
    hashed = hashlib.blake2b("".join((sizes, ":", *parts)).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(hashed, "little", signed=True)


def _canonical(value: object) -> str:
    return _canonical_json(_plain(value))


def _plain(value: object) -> object:
    """`value` with every whole float as an int, since JSON numbers do not tell 1 from 1.0."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
