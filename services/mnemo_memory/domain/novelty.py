"""The novelty gate: whether a new memory says something new, and what it does to what is known.

By rules alone, without a model of language: how similar it is to the nearest active memory of its kind, whether one of
them negates the other, and whether they give another value for the same thing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final, Protocol

from mnemo_memory.domain.memory import Filter, Kind, State
from mnemocore import calls
from mnemocore.errors import DeadlineExceededError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from mnemo_memory.domain.access import Entry
    from mnemo_memory.domain.memory import Draft, Memory, Space
    from mnemo_memory.domain.ports import Author, Store
    from mnemocore.clock import Clock
    from mnemocore.ids import MemoryId

REDUNDANT_FACT: Final = 0.95
REDUNDANT: Final = 0.92
AMBIGUOUS_FACT: Final = 0.82
AMBIGUOUS: Final = 0.78
_NEIGHBOURS: Final = 5
_INDEX_SHARE: Final = 0.7
"""The share of the remaining time for the comparison, so that there is time to write without it."""
_WORD: Final = re.compile(r"[\w']+")
_NEGATIONS: Final = frozenset(
    {"not", "no", "never", "none", "nobody", "nothing", "neither", "nor", "cannot", "without", "stopped", "quit"}
)
_CORRECTIONS: Final = frozenset({"actually", "correction", "wrong", "mistake", "mistaken", "meant", "rather"})


class Decision(IntEnum):
    """What the gate decided. The numbers are those of the contract."""

    NEW = 1
    REDUNDANT = 2
    UPDATE = 3
    CORRECTION = 4
    REFINEMENT = 5
    UNKNOWN = 6


@dataclass(frozen=True, slots=True)
class Judgement:
    """The decision, and the known memory it is about; None if it is about none."""

    decision: Decision
    known: Memory | None = None

    @property
    def replaces(self) -> bool:
        """Whether the new memory takes the place of the known one."""
        return self.decision in (Decision.UPDATE, Decision.CORRECTION)


class SimilarFinder(Protocol):
    """Finds memories that say something like a text."""

    async def similar(
        self, space: Space, text: str, limit: int, where: Filter, least: float, revision: int, now: datetime
    ) -> Sequence[tuple[MemoryId, float]]:
        """Active memories with a cosine of at least `least` to `text`, most similar first, in a state with `revision`.

        Raises UnavailableError.
        """
        ...


class Linker(Protocol):
    """Links memories."""

    async def extend(self, space: Space, source: MemoryId, target: MemoryId, author: Author) -> None:
        """Say that one memory extends another."""
        ...


class Novelty:
    """Compares what is to be written with what is known."""

    def __init__(self, finder: SimilarFinder, store: Store, linker: Linker, clock: Clock) -> None:
        self._finder = finder
        self._store = store
        self._linker = linker
        self._clock = clock

    async def judge(self, entry: Entry, draft: Draft) -> Judgement:
        """What a draft is to what the caller may see of the space; UNKNOWN if the index does not answer.

        What is protected is not replaced: what would do so is new beside it.
        """
        least = AMBIGUOUS_FACT if draft.kind is Kind.FACT else AMBIGUOUS
        try:
            with calls.share_of_the_time(_INDEX_SHARE):
                found = await self._nearest(entry, draft, least)
        except (UnavailableError, DeadlineExceededError):
            return Judgement(Decision.UNKNOWN)
        if found is None:
            return Judgement(Decision.NEW)
        known, similarity = found
        judgement = Judgement(decide(draft, known, similarity), known)
        return Judgement(Decision.NEW) if judgement.replaces and known.protected else judgement

    async def of(self, space: Space, draft: Draft) -> float | None:
        """1 minus the similarity to the nearest active memory of the kind; None if the index does not answer."""
        try:
            found = await self._finder.similar(
                space, draft.content, 1, Filter(kinds=(draft.kind,)), 0.0, 0, self._clock.now()
            )
        except (UnavailableError, DeadlineExceededError):
            return None
        return 1.0 - found[0][1] if found else 1.0

    async def link(self, entry: Entry, source: MemoryId, target: MemoryId) -> None:
        """Say that a new memory extends a known one."""
        await self._linker.extend(entry.space, source, target, entry.author(self._clock.now()))

    async def _nearest(self, entry: Entry, draft: Draft, least: float) -> tuple[Memory, float] | None:
        now = self._clock.now()
        where = entry.narrow(Filter(kinds=(draft.kind,)))
        found = await self._finder.similar(
            entry.space, draft.content, _NEIGHBOURS, where, least, entry.space.revision, now
        )
        memories = await self._store.get(entry.space, [memory_id for memory_id, _ in found], now)
        for memory_id, similarity in found:
            memory = memories.get(memory_id)
            if memory is None or memory.actor != draft.actor or not stands(entry, memory):
                continue
            if not memory.protected or similarity >= _redundant(draft):
                return memory, similarity
        return None


def stands(entry: Entry, memory: Memory) -> bool:
    """Whether a memory is one that others are compared with: active, and one the caller may see."""
    return memory.state is State.ACTIVE and entry.sees(memory)


def decide(draft: Draft, known: Memory, similarity: float) -> Decision:
    """What a draft is to the nearest known memory of its kind and actor (cosine `similarity` of their texts).

    Equal words are redundant. A negation on one side, or other numbers, names or values in the same frame, change what
    was known: a correction if the new text says so, an update otherwise. More words on the same thing refine it.
    """
    new_words, old_words = _words(draft.content), _words(known.content)
    if new_words == old_words:
        return Decision.REDUNDANT
    negated = bool(_NEGATIONS & set(new_words)) != bool(_NEGATIONS & set(old_words)) or _contracted(
        draft.content
    ) != _contracted(known.content)
    if negated or _same_frame(new_words, old_words):
        return Decision.CORRECTION if _CORRECTIONS & set(new_words) else Decision.UPDATE
    if similarity >= _redundant(draft):
        return Decision.REDUNDANT
    return Decision.REFINEMENT if set(old_words) <= set(new_words) else Decision.NEW


def _redundant(draft: Draft) -> float:
    return REDUNDANT_FACT if draft.kind is Kind.FACT else REDUNDANT


def _words(text: str) -> list[str]:
    return list(_WORD.findall(text.casefold()))


def _contracted(text: str) -> bool:
    return "n't" in text.casefold().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")


def _same_frame(new: Sequence[str], old: Sequence[str]) -> bool:
    """Whether two texts begin alike and differ in their last few words: another value for the same thing."""
    said = [word for word in new if word not in _CORRECTIONS]
    common = 0
    for left, right in zip(said, old, strict=False):
        if left != right:
            break
        common += 1
    rest_new, rest_old = len(said) - common, len(old) - common
    return common >= 2 and 0 < rest_new <= 3 and 0 < rest_old <= 3
