"""What tests of the index share: documents and an index with the encoder of the product."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING

from mnemo_index.domain.documents import Change, Document
from mnemo_index.domain.space_index import SpaceIndex
from mnemo_index.domain.words import Stems
from mnemo_index.storage.hamming_scan import hamming_distances
from mnemo_index.storage.wordllama_encoder import WordLlamaEncoder
from mnemocore.ids import MemoryId

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mnemo_index.domain.documents import State
    from mnemo_index.domain.state import SpaceState

START = datetime(2024, 1, 1, tzinfo=UTC)
STEMS = Stems()


@cache
def encoder() -> WordLlamaEncoder:
    """One encoder for all tests."""
    return WordLlamaEncoder.load()


def space(exact_rows: int = 50_000) -> SpaceIndex:
    """An empty index."""
    return SpaceIndex(encoder(), STEMS, hamming_distances, exact_rows)


def restored(state: SpaceState, exact_rows: int = 50_000) -> SpaceIndex:
    """An index from a state."""
    return SpaceIndex.restored(state, encoder(), STEMS, hamming_distances, exact_rows)


def memory_id(number: int) -> MemoryId:
    """The id of the memory of this number."""
    return MemoryId(f"00000000-0000-7000-8000-{number:012x}")


def document(
    number: int,
    content: str,
    *,
    kind: str = "observation",
    actor: str = "",
    session: str = "",
    ordinal: int | None = None,
    tags: tuple[str, ...] = (),
    metadata: Mapping[str, object] | None = None,
) -> Document:
    """A document that happened `number` hours after the start of 2024."""
    happened = START + timedelta(hours=number)
    return Document(
        memory_id(number), content, kind, happened, actor, session, ordinal, tags, {} if metadata is None else metadata
    )


def created(revision: int, written: Document, state: State | None = None) -> Change:
    """The change that brings a document, in another state if one is given."""
    return Change(revision, written.memory_id, written if state is None else replace(written, state=state))


def removed(revision: int, number: int) -> Change:
    """The change that leaves nothing of a memory."""
    return Change(revision, memory_id(number))


def filled(*contents: str) -> SpaceIndex:
    """An index of texts, numbered from 1."""
    index = space()
    index.apply([created(number, document(number, content)) for number, content in enumerate(contents, 1)])
    return index


def found(index: SpaceIndex, query: str, limit: int = 10) -> list[int]:
    """The numbers of the memories found, best first."""
    return [int(hit.memory_id[-12:], 16) for hit in index.search(query, limit)]
