"""A memory as a row of Milvus, and filters as its expressions.

Strings that callers chose never stand in an expression: they are compared by their 64-bit fingerprints. The words of a
text are kept as tokens that every analyzer of Milvus leaves whole. `TEXT` and `VECTOR` are what is searched, the other
fields what rows are chosen and ranked by. A row whose state is 0 is no memory: it says how far its space is.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from mnemo_index.domain.documents import EPOCH, Document, State, fingerprint, marks, microseconds
from mnemo_index.domain.tables import Conditions, Row
from mnemocore.ids import MemoryId, SpaceUid

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import date

    from numpy.typing import NDArray

    from mnemo_index.domain.dates import Days
    from mnemo_index.domain.documents import Filter

Entity: TypeAlias = Mapping[str, Any]
"""A row as the client of Milvus takes and gives it: values by the names of fields."""

KEY: Final = "id"
SPACE: Final = "space"
TEXT: Final = "terms"
WORDS: Final = "words"
VECTOR: Final = "vector"
BOOK: Final = "book"
NUMBERS: Final = (
    *("revision", "digest", "statement", "ordinal", "occurred", "kind_mark", "actor_mark", "session_mark"),
    *("state", "created", "valid_from", "valid_to", "expires", "modality"),
)
"""Fields of 64-bit integers."""
NAMES: Final = ("kind", "actor", "session")
"""Fields of strings that are given back and not searched."""
MARKS: Final = "marks"
IMPORTANCE: Final = "importance"
ASKS: Final = "asks"
STORED: Final = (KEY, TEXT, VECTOR, MARKS, IMPORTANCE, ASKS, *NUMBERS, *NAMES)
"""What a row is read back from."""

LONGEST_TEXT: Final = 65_535
"""Bytes of a row's tokens; what Milvus allows in a string."""
LONGEST_NAME: Final = 4096
"""Bytes of a kind, actor or session; longer ones are cut, and still told apart by their fingerprints."""
MOST_MARKS: Final = 1024
"""Tags and pairs of metadata of a row."""

_NO_SPACE: Final = "-"
LABEL: Final = f'{SPACE} == "{_NO_SPACE}"'
"""The row that says what the collection is made for."""

_FEW: Final = 6  # bytes: as hexadecimal digits they are shorter than a fingerprint
_BYTES = re.compile(rf"x(?:[0-9a-f]{{2}}){{1,{_FEW}}}")
_PLAIN = re.compile(r"[a-z0-9]{1,64}")


@dataclass(frozen=True, slots=True)
class StoredRow:
    """What Milvus holds of a memory: `row` with its terms as tokens and its place in the session, and the vector."""

    row: Row
    vector: NDArray[np.float32]

    @property
    def active(self) -> bool:
        """Whether its state is ACTIVE, as the changes left it."""
        return self.row.document.state == State.ACTIVE


@dataclass(frozen=True, slots=True)
class Book:
    """How far a space is: every change up to `applied` is in its rows, of which `live` are active."""

    applied: int
    live: int


def token(term: str) -> str:
    """A term as a word of ASCII letters and digits: itself if it is one, else its bytes or, of many, a fingerprint."""
    if _PLAIN.fullmatch(term):
        return term
    encoded = term.encode("utf-8", "surrogatepass")
    if len(encoded) <= _FEW:
        return "x" + encoded.hex()
    return "x" + hashlib.blake2b(term.encode("utf-8", "surrogatepass"), digest_size=7).hexdigest()


def term_of(token_: str) -> str:
    """The term that a token is of; the token itself if that cannot be told."""
    if not _BYTES.fullmatch(token_):
        return token_
    try:
        term = bytes.fromhex(token_[1:]).decode("utf-8")
    except UnicodeDecodeError:
        return token_
    return term if token(term) == token_ else token_


def tokens(terms: Iterable[str]) -> list[str]:
    """Terms as tokens, in order."""
    return [token(term) for term in terms]


def fitting(terms: Sequence[str]) -> list[str]:
    """Those of a text's tokens that fit into LONGEST_TEXT bytes, in order: of a very long text first each once."""
    if sum(map(len, terms)) + len(terms) <= LONGEST_TEXT:
        return list(terms)
    known: set[str] = set()
    again = [term in known or bool(known.add(term)) for term in terms]  # type: ignore[func-returns-value]
    preferred = sorted(range(len(terms)), key=again.__getitem__)
    lengths = accumulate(len(terms[place]) + 1 for place in preferred)
    kept = (place for place, length in zip(preferred, lengths, strict=True) if length <= LONGEST_TEXT)
    return [terms[place] for place in sorted(kept)]


def entity_of(space_uid: SpaceUid, stored: StoredRow) -> dict[str, Any]:
    """The row as Milvus takes it."""
    row, document = stored.row, stored.row.document
    state, created, valid_from, valid_to, expires, importance, modality = row.conditions
    return {
        KEY: key_of(space_uid, document.memory_id),
        SPACE: space_uid,
        TEXT: " ".join(row.terms),
        VECTOR: stored.vector,
        MARKS: list(row.marks[:MOST_MARKS]),
        IMPORTANCE: importance,
        ASKS: row.asks,
        "revision": row.revision,
        "digest": row.digest,
        "statement": row.statement,
        "ordinal": -1 if document.ordinal is None else document.ordinal,
        "occurred": row.occurred,
        "kind_mark": _name_mark("kind", document.kind),
        "actor_mark": _name_mark("actor", document.actor),
        "session_mark": session_mark(document.session),
        "state": state,
        "created": created,
        "valid_from": valid_from,
        "valid_to": valid_to,
        "expires": expires,
        "modality": modality,
        "kind": _cut(document.kind),
        "actor": _cut(document.actor),
        "session": _cut(document.session),
        BOOK: "",
    }


def stored_of(entity: Entity) -> StoredRow:
    """The row of what Milvus gives back; its content, tags and metadata are not there any more."""
    conditions: Conditions = (
        int(entity["state"]),
        int(entity["created"]),
        int(entity["valid_from"]),
        int(entity["valid_to"]),
        int(entity["expires"]),
        float(entity[IMPORTANCE]),
        int(entity["modality"]),
    )
    ordinal = int(entity["ordinal"])
    document = Document(
        memory_id=memory_of(entity[KEY]),
        content="",
        kind=str(entity["kind"]),
        occurred_at=EPOCH + timedelta(microseconds=int(entity["occurred"])),
        actor=str(entity["actor"]),
        session=str(entity["session"]),
        ordinal=None if ordinal < 0 else ordinal,
        state=State(conditions[0]),
    )
    row = Row(
        document=document,
        revision=int(entity["revision"]),
        digest=int(entity["digest"]),
        statement=int(entity["statement"]),
        occurred=int(entity["occurred"]),
        marks=tuple(int(mark) for mark in entity[MARKS]),
        terms=str(entity[TEXT]).split(),
        asks=bool(entity[ASKS]),
        conditions=conditions,
    )
    return StoredRow(row, np.asarray(entity[VECTOR], dtype=np.float32))


def entity_of_book(space_uid: SpaceUid, book: Book, dimension: int) -> dict[str, Any]:
    """The row that says how far a space is. No filter matches it."""
    return _note(space_uid, json.dumps({"applied": book.applied, "live": book.live}), dimension)


def entity_of_label(text: str, dimension: int) -> dict[str, Any]:
    """The row that says what the collection is made for. It is of no space."""
    return _note(_NO_SPACE, text, dimension)


def book_of(entity: Entity) -> Book:
    """How far the space is of which `entity` says so."""
    kept = json.loads(entity[BOOK])
    return Book(int(kept["applied"]), int(kept["live"]))


def key_of(space_uid: SpaceUid, memory_id: MemoryId) -> str:
    """The primary key of a memory: ids of different spaces never meet."""
    return f"{space_uid}/{memory_id}"


def memory_of(key: str) -> MemoryId:
    """The memory that has a primary key."""
    return MemoryId(key.rpartition("/")[2])


def in_space(space_uid: SpaceUid) -> str:
    """All rows of a space. A `space_uid` is a UUID."""
    return f"{SPACE} == {json.dumps(str(space_uid))}"


def memories(space_uid: SpaceUid) -> str:
    """All memories of a space, whatever their state."""
    return f"{in_space(space_uid)} and state > 0"


def with_keys(space_uid: SpaceUid, memory_ids: Iterable[MemoryId]) -> str:
    """The rows of these memories; ids are UUIDs."""
    keys = [key_of(space_uid, memory_id) for memory_id in memory_ids]
    return f"{in_space(space_uid)} and {KEY} in {json.dumps(keys)}"


def matching(space_uid: SpaceUid, wanted: Filter) -> str:
    """The memories of a space that match `wanted`: the meaning of `Tables.allowed`."""
    clauses = [in_space(space_uid), _in_states(wanted)]
    for name, chosen in (("kind", wanted.kinds), ("actor", wanted.actors), ("session", wanted.sessions)):
        if chosen:
            clauses.append(f"{name}_mark in {sorted(_name_mark(name, value) for value in chosen)}")
    for field, start, end in (
        ("occurred", wanted.occurred_from, wanted.occurred_to),
        ("created", wanted.created_from, wanted.created_to),
    ):
        if start is not None:
            clauses.append(f"{field} >= {microseconds(start)}")
        if end is not None:
            clauses.append(f"{field} < {microseconds(end)}")
    if wanted.valid_at is not None:
        moment = microseconds(wanted.valid_at)
        clauses.append(f"valid_from <= {moment} and valid_to > {moment}")
    if wanted.min_importance is not None:
        clauses.append(f"{IMPORTANCE} >= {wanted.min_importance!r}")
    if wanted.modalities:
        clauses.append(f"modality in {sorted(wanted.modalities)}")
    if wanted.tags or wanted.metadata:
        clauses.append(f"array_contains_all({MARKS}, {sorted(marks(wanted.tags, wanted.metadata))})")
    return " and ".join(clauses)


def during(days: Sequence[Days]) -> str:
    """What happened on any of the days (UTC; at least one)."""
    ranges = ((_midnight(each.start), _midnight(each.end)) for each in days)
    return f"({' or '.join(f'(occurred >= {start} and occurred < {end})' for start, end in ranges)})"


def session_mark(session: str) -> int:
    """The fingerprint of a session."""
    return _name_mark("session", session)


def _note(space_uid: str, text: str, dimension: int) -> dict[str, Any]:
    """A row that is no memory."""
    return {
        **dict.fromkeys(NUMBERS, 0),
        **dict.fromkeys(NAMES, ""),
        KEY: f"{space_uid}/",
        SPACE: space_uid,
        TEXT: "",
        VECTOR: np.zeros(dimension, dtype=np.float32),
        MARKS: [],
        IMPORTANCE: 0.0,
        ASKS: False,
        BOOK: text,
    }


def _in_states(wanted: Filter) -> str:
    """Any of the states at the time of `wanted`."""
    states = sorted(int(state) for state in wanted.states)
    if wanted.now is None:
        return f"state in {states}"
    moment = microseconds(wanted.now)
    archived = int(State.ARCHIVED)
    clauses = [f"(state in {states} and expires > {moment})"]
    if State.ARCHIVED in wanted.states:
        clauses.append(f"state == {archived}")
    if State.EXPIRED in wanted.states:
        clauses.append(f"(expires <= {moment} and state != {archived} and state != 0)")
    return f"({' or '.join(clauses)})"


def _midnight(day: date) -> int:
    return microseconds(datetime(day.year, day.month, day.day, tzinfo=UTC))


def _name_mark(field: str, name: str) -> int:
    return fingerprint(field, name)


def _cut(name: str) -> str:
    return name.encode("utf-8", "replace")[:LONGEST_NAME].decode("utf-8", "ignore")
