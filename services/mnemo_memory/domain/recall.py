"""Recall: ask the index, load what it found, blend relevance with the rest of what is known, and explain.

When the index does not answer, memories are found by their words in the store, and the answer says so.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Protocol

from mnemo_memory.domain.consistency import decode_token, encode_token
from mnemo_memory.domain.memories import MAX_ANSWER, fitting
from mnemo_memory.domain.memory import Filter, Memory, Profile, Role, Space, State
from mnemo_memory.domain.ports import Found, Hit, Index, Question, ScorePart, Store
from mnemo_memory.domain.retention import reliability, strength_of
from mnemocore import calls
from mnemocore.errors import (
    DeadlineExceededError,
    IndexLaggingError,
    InvalidFieldError,
    UnavailableError,
    Violation,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mnemo_memory.domain.access import Access, Entry
    from mnemo_memory.domain.uses import Uses
    from mnemocore.calls import Identity
    from mnemocore.clock import Clock
    from mnemocore.ids import MemoryId

DEFAULT_LIMIT: Final = 10
MAX_LIMIT: Final = 1000
RECENCY_HALF_LIFE_DAYS: Final = 30.0
_SPARE_HITS: Final = 10
_MOST_HITS: Final = 2000
_SEEDS: Final = 20
"""So many of the best hits begin the spreading of activation."""
_INDEX_SHARE: Final = 0.7
"""The share of the remaining time that the index gets, so that there is time to do without it."""
_EVERYTHING: Final = Filter()
_LAST_MOMENT: Final = datetime.max.replace(tzinfo=UTC)
_EVERY_STATE: Final = (State.ACTIVE, State.ARCHIVED, State.SUPERSEDED, State.EXPIRED)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Weights:
    """What each part counts for in a score; they sum to 1."""

    relevance: float
    recency: float = 0.0
    importance: float = 0.0
    strength: float = 0.0
    reliability: float = 0.0
    associations: float = 0.0


WEIGHTS: Final = {
    Profile.BALANCED: Weights(0.98, recency=0.008, importance=0.006, strength=0.003, reliability=0.003),
    Profile.SEMANTIC: Weights(1.0),
    Profile.RECENT: Weights(0.5, recency=0.49, importance=0.004, strength=0.003, reliability=0.003),
    Profile.GRAPH: Weights(0.78, recency=0.008, importance=0.006, strength=0.003, reliability=0.003, associations=0.2),
}


@dataclass(frozen=True, slots=True)
class Freshness:
    """How fresh an answer must be: at least as fresh as `token`, or, with `everything`, as all acknowledged writes.

    With neither it should be as fresh as all acknowledged writes, unless that takes longer than a moment; with
    `at_once` it need not be.
    """

    token: str = ""
    everything: bool = False
    at_once: bool = False


@dataclass(frozen=True, slots=True)
class Inquiry:
    """What is asked. `limit` 0 means 10, more than 1,000 means 1,000.

    `states` empty means ACTIVE, and SUPERSEDED too if the filter asks for a time of validity. With `known_at` the
    answer is what was known then.
    """

    query: str
    limit: int = 0
    where: Filter = _EVERYTHING
    profile: Profile = Profile.BALANCED
    freshness: Freshness = Freshness()
    states: tuple[State, ...] = ()
    known_at: datetime | None = None
    min_score: float = 0.0

    @property
    def wanted(self) -> int:
        """The greatest number of results."""
        return min(self.limit, MAX_LIMIT) or DEFAULT_LIMIT

    @property
    def wanted_states(self) -> tuple[State, ...]:
        """The states looked at."""
        if self.states:
            return tuple(sorted(set(self.states) - {State.ERASED}))
        return (State.ACTIVE,) if self.where.valid_at is None else (State.ACTIVE, State.SUPERSEDED)


@dataclass(frozen=True, slots=True)
class Recalled:
    """A memory that answers, its score from 0 to 1, and the parts that sum to it."""

    memory: Memory
    score: float
    parts: tuple[ScorePart, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """The best memories (best first), a token of how fresh the answer is, whether they were found without the index.

    With `without_encoder` the index searched words only.
    """

    space: Space
    recalled: list[Recalled]
    token: str
    without_index: bool = False
    without_encoder: bool = False


class Spreading(Protocol):
    """Follows associations and the order of sessions."""

    async def spread(self, entry: Entry, seeds: Mapping[MemoryId, float], now: datetime) -> dict[MemoryId, float]:
        """The activation of the active memories the seeds reach, without the seeds."""
        ...


class Recall:
    """Finds the memories of a space that answer a question."""

    def __init__(
        self, store: Store, index: Index, access: Access, spreading: Spreading, uses: Uses, clock: Clock
    ) -> None:
        self._store = store
        self._index = index
        self._access = access
        self._spreading = spreading
        self._uses = uses
        self._clock = clock

    async def recall(self, caller: Identity, slug: str, inquiry: Inquiry) -> Answer:
        """The memories that answer.

        Raises SpaceNotFoundError, ForeignTokenError, IndexLaggingError, KeyUnavailableError, and PeerUnavailableError
        if the index does not answer for an encrypted space.
        """
        entry = await self._access.enter(caller, slug, Role.READ)
        needed = self._min_revision(entry.space, inquiry.freshness)
        try:
            with calls.share_of_the_time(_INDEX_SHARE):
                if inquiry.known_at is not None:
                    return await self._known(entry, inquiry, inquiry.known_at, needed)
                found = await self._found(entry, inquiry, needed)
        except IndexLaggingError:
            raise
        except (UnavailableError, DeadlineExceededError) as error:
            _log.warning("space %s is searched without the index: %s", entry.space.uid, error)
            return await self._without_index(entry, inquiry)
        return await self._answer(entry, inquiry, found)

    async def _found(self, entry: Entry, inquiry: Inquiry, needed: int) -> Found:
        fresh = inquiry.freshness
        question = Question(
            query=inquiry.query,
            limit=2 * inquiry.wanted + _SPARE_HITS,
            where=entry.narrow(inquiry.where),
            states=inquiry.wanted_states,
            now=self._clock.now(),
            min_revision=needed,
            wanted_revision=0 if fresh.at_once or fresh.token else entry.space.revision,
        )
        if question.where.nothing:
            return Found((), needed)
        return await self._index.search(entry.space, question)

    async def _answer(self, entry: Entry, inquiry: Inquiry, found: Found) -> Answer:
        now = self._clock.now()
        hits = {hit.memory_id: hit for hit in found.hits}
        activation = await self._activation(entry, inquiry, found, now)
        memories = await self._store.get(entry.space, [*hits, *(each for each in activation if each not in hits)], now)
        weights = WEIGHTS[inquiry.profile]
        recalled = [
            blend(memory, hits.get(memory.id), weights, now, activation.get(memory.id, 0.0))
            for memory in self._matching(entry, inquiry, memories.values())
        ]
        token = encode_token(self._store.store_id, entry.space.uid, found.applied_revision)
        return replace(self._best(entry, inquiry, recalled, token), without_encoder=found.without_encoder)

    async def _activation(self, entry: Entry, inquiry: Inquiry, found: Found, now: datetime) -> dict[MemoryId, float]:
        """What spreads from the best hits, as a share of the greatest relevance; only for the profile GRAPH."""
        if inquiry.profile is not Profile.GRAPH or not found.hits:
            return {}
        seeds = {hit.memory_id: hit.relevance for hit in found.hits[:_SEEDS] if hit.relevance > 0}
        if not seeds:
            return {}
        reached = await self._spreading.spread(entry, seeds, now)
        return {memory_id: min(1.0, energy) for memory_id, energy in {**reached, **seeds}.items()}

    async def _known(self, entry: Entry, inquiry: Inquiry, at: datetime, needed: int) -> Answer:
        """The memories as they were known at a time; more and more are looked at until enough match."""
        space, limit = entry.space, 4 * inquiry.wanted + _SPARE_HITS
        while True:
            question = Question(
                inquiry.query,
                min(limit, _MOST_HITS),
                _written_by(at),
                _EVERY_STATE,
                self._clock.now(),
                needed,
                space.revision,
            )
            found = await self._index.search(space, question)
            hits = {hit.memory_id: hit for hit in found.hits}
            then = await self._store.get_as_of(space, list(hits), at)
            visible = await self._still_visible(entry, then)
            matching = [
                memory
                for memory in visible
                if memory.state in inquiry.wanted_states and entry.narrow(inquiry.where).matches(memory)
            ]
            if len(matching) >= inquiry.wanted or len(found.hits) < question.limit or limit >= _MOST_HITS:
                break
            limit *= 4
        weights = WEIGHTS[inquiry.profile]
        recalled = [blend(memory, hits[memory.id], weights, at) for memory in matching]
        token = encode_token(self._store.store_id, space.uid, found.applied_revision)
        return replace(self._best(entry, inquiry, recalled, token), without_encoder=found.without_encoder)

    async def _still_visible(self, entry: Entry, then: Mapping[MemoryId, Memory]) -> list[Memory]:
        """Those of the memories of another time that the caller may see now."""
        if entry.whole:
            return list(then.values())
        now = await self._store.get(entry.space, list(then), self._clock.now())
        return [memory for memory_id, memory in then.items() if memory_id in now and entry.sees(now[memory_id])]

    async def _without_index(self, entry: Entry, inquiry: Inquiry) -> Answer:
        """The memories that share words with the question, as they are, or were known at a time."""
        space, now = entry.space, self._clock.now()
        where, states = entry.narrow(inquiry.where), inquiry.wanted_states
        if inquiry.known_at is not None:
            where, states = _written_by(inquiry.known_at), _EVERY_STATE
        limit = 2 * inquiry.wanted + _SPARE_HITS if inquiry.known_at is None else _MOST_HITS
        found = await self._store.search_words(space, inquiry.query, where, states, limit, now)
        ranks = {memory.id: rank for memory, rank in found}
        memories = {memory.id: memory for memory, _ in found}
        if inquiry.known_at is not None:
            then = await self._store.get_as_of(space, list(ranks), inquiry.known_at)
            memories = {memory.id: memory for memory in await self._still_visible(entry, then)}
        weights = WEIGHTS[inquiry.profile]
        recalled = [
            blend(memory, _by_words(memory.id, ranks[memory.id]), weights, inquiry.known_at or now)
            for memory in self._matching(entry, inquiry, memories.values())
        ]
        token = encode_token(self._store.store_id, space.uid, space.revision)
        return replace(self._best(entry, inquiry, recalled, token), without_index=True)

    def _matching(self, entry: Entry, inquiry: Inquiry, memories: Iterable[Memory]) -> list[Memory]:
        """Those that are what was asked for now: the index may be a moment behind."""
        where, states = entry.narrow(inquiry.where), inquiry.wanted_states
        return [memory for memory in memories if memory.state in states and where.matches(memory)]

    def _best(self, entry: Entry, inquiry: Inquiry, recalled: list[Recalled], token: str) -> Answer:
        recalled.sort(key=lambda each: (-each.score, -each.memory.created_revision))
        best = [each for each in recalled[: inquiry.wanted] if each.score >= inquiry.min_score]
        if fitting(each.memory for each in best) < len(best):
            raise InvalidFieldError.of([Violation("limit", f"{len(best)} results exceed {MAX_ANSWER}; ask for fewer")])
        self._uses.note(entry.space.uid, [each.memory.id for each in best])
        return Answer(entry.space, best, token)

    def _min_revision(self, space: Space, freshness: Freshness) -> int:
        if freshness.everything:
            return space.revision
        return decode_token(freshness.token, self._store.store_id, space.uid) if freshness.token else 0


def blend(memory: Memory, hit: Hit | None, weights: Weights, now: datetime, activation: float = 0.0) -> Recalled:
    """Weigh the index's parts with what is known of the memory; the contributions sum to the score within 1e-9."""
    parts = [
        ScorePart(part.name, part.value, part.weight * weights.relevance, part.contribution * weights.relevance)
        for part in (hit.parts if hit else ())
    ]
    for name, value, weight in (
        ("recency", recency(memory.occurred_at, now), weights.recency),
        ("importance", memory.importance, weights.importance),
        ("strength", strength_of(memory, now), weights.strength),
        ("reliability", reliability(memory.alpha, memory.beta), weights.reliability),
        ("associations", activation, weights.associations),
    ):
        if weight:
            parts.append(ScorePart(name, value, weight, value * weight))
    return Recalled(memory, math.fsum(part.contribution for part in parts), tuple(parts))


def recency(occurred_at: datetime, now: datetime) -> float:
    """1 for now and the future, halved every 30 days."""
    age_days = max(0.0, (now - occurred_at).total_seconds() / 86400)
    return float(2.0 ** (-age_days / RECENCY_HALF_LIFE_DAYS))


def _written_by(at: datetime) -> Filter:
    """What was written at a time or before it."""
    return _EVERYTHING if at == _LAST_MOMENT else Filter(created_to=at + timedelta(microseconds=1))


def _by_words(memory_id: MemoryId, rank: float) -> Hit:
    return Hit(memory_id, rank, (ScorePart("words", rank, 1.0, rank),))
