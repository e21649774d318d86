"""Recall: ask the index, load what it found, blend relevance with recency and importance, and explain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mnemo_memory.domain.consistency import decode_token, encode_token
from mnemo_memory.domain.memories import MAX_ANSWER, fitting
from mnemo_memory.domain.memory import Filter, Memory, Profile, Space, State
from mnemo_memory.domain.ports import Hit, Index, ScorePart, Store
from mnemocore.errors import InvalidFieldError, Violation

if TYPE_CHECKING:
    from datetime import datetime

    from mnemocore.calls import Identity
    from mnemocore.clock import Clock

DEFAULT_LIMIT: Final = 10
MAX_LIMIT: Final = 1000
RECENCY_HALF_LIFE_DAYS: Final = 30.0
_SPARE_HITS: Final = 10


@dataclass(frozen=True, slots=True)
class Weights:
    """What relevance, recency and importance count for in a score; they sum to 1."""

    relevance: float
    recency: float
    importance: float


WEIGHTS: Final = {
    Profile.BALANCED: Weights(0.98, 0.01, 0.01),
    Profile.SEMANTIC: Weights(1.0, 0.0, 0.0),
    Profile.RECENT: Weights(0.5, 0.49, 0.01),
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
class Recalled:
    """A memory that answers, its score from 0 to 1, and the parts that sum to it."""

    memory: Memory
    score: float
    parts: tuple[ScorePart, ...]


class Recall:
    """Finds the memories of a space that answer a question."""

    def __init__(self, store: Store, index: Index, clock: Clock) -> None:
        self._store = store
        self._index = index
        self._clock = clock

    async def recall(
        self,
        caller: Identity,
        slug: str,
        query: str,
        limit: int,
        where: Filter,
        profile: Profile,
        freshness: Freshness,
    ) -> tuple[Space, list[Recalled], str]:
        """The space, the best memories (best first) and a token of how fresh the answer is.

        `limit` 0 means 10, more than 1,000 means 1,000.
        Raises SpaceNotFoundError, ForeignTokenError, IndexLaggingError, PeerUnavailableError.
        """
        space = await self._store.get_space(caller.tenant, slug)
        wanted = min(limit, MAX_LIMIT) or DEFAULT_LIMIT
        needed = self._min_revision(space, freshness)
        desired = 0 if freshness.at_once or freshness.token else space.revision
        found = await self._index.search(space.uid, query, 2 * wanted + _SPARE_HITS, where, needed, desired)
        memories = await self._store.get(space, [hit.memory_id for hit in found.hits])
        now = self._clock.now()
        recalled = [
            blend(memory, hit, WEIGHTS[profile], now)
            for hit in found.hits
            if (memory := memories.get(hit.memory_id)) is not None and memory.state is State.ACTIVE
        ]
        recalled.sort(key=lambda each: (-each.score, -each.memory.created_revision))
        best = recalled[:wanted]
        if fitting(each.memory for each in best) < len(best):
            raise InvalidFieldError.of([Violation("limit", f"{len(best)} results exceed {MAX_ANSWER}; ask for fewer")])
        return space, best, encode_token(self._store.store_id, space.uid, found.applied_revision)

    def _min_revision(self, space: Space, freshness: Freshness) -> int:
        if freshness.everything:
            return space.revision
        return decode_token(freshness.token, self._store.store_id, space.uid) if freshness.token else 0


def blend(memory: Memory, hit: Hit, weights: Weights, now: datetime) -> Recalled:
    """Weigh the index's parts with recency and importance; the contributions sum to the score within 1e-9."""
    parts = [
        ScorePart(part.name, part.value, part.weight * weights.relevance, part.contribution * weights.relevance)
        for part in hit.parts
    ]
    for name, value, weight in (
        ("recency", recency(memory.occurred_at, now), weights.recency),
        ("importance", memory.importance, weights.importance),
    ):
        parts.append(ScorePart(name, value, weight, value * weight))
    return Recalled(memory, math.fsum(part.contribution for part in parts), tuple(parts))


def recency(occurred_at: datetime, now: datetime) -> float:
    """1 for now and the future, halved every 30 days."""
    age_days = max(0.0, (now - occurred_at).total_seconds() / 86400)
    return float(2.0 ** (-age_days / RECENCY_HALF_LIFE_DAYS))
