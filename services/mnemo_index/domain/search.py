"""Search: the rows of a space ranked against a question.

Each row has two signals of its own, both absolute, so that they mean the same in every space and under every filter:

- semantic: the cosine of question and text above what every text of the space has in common, as a share of what is left
  up to 1. The question's words count by their rarity in the space; texts are encoded as they are.
- lexical: BM25 as a share of what a short text with every word of the question would get.

A row also gets a share of what its neighbours in the session have of their own, the more the stronger they are, and
one more of the text before it if that ends with a question; and bonuses if its actor is the one whom the question
names, if it happened when the question says, and if it has the phrases that the question quotes. What itself ends with
a question counts a little less: it rarely holds the answer. The sum `t` is unbounded; relevance is tanh(t), and each
part contributes in proportion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import numpy as np

from mnemo_index.domain.dates import dates, may_name_dates
from mnemo_index.domain.half_vectors import products, products_of
from mnemo_index.domain.tables import SKETCH_BITS
from mnemocore.ids import MemoryId

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from mnemo_index.domain.documents import Filter
    from mnemo_index.domain.tables import Tables
    from mnemo_index.domain.wording import Wording
    from mnemo_index.domain.words import Stems

    HammingScan: TypeAlias = Callable[[NDArray[np.uint8], NDArray[np.uint8]], NDArray[np.int32]]
    """Distances in bits between one packed vector, shape (b,), and each row of a table, shape (n, b)."""

SEMANTIC: Final = 0.45
LEXICAL: Final = 0.55
SPEAKER: Final = 0.25
DATE: Final = 0.2
PHRASE: Final = 0.3
NEIGHBOURS: Final = (0.4, 0.25, 0.15)
"""Share of what a neighbour at distance 1, 2, 3 in the session passes on."""
ANSWER: Final = 0.3
"""Share of what a text that ends with a question passes on to the next one, besides."""
ASKING: Final = 0.95
"""What the total of a text that ends with a question is multiplied by."""
STRONG: Final = 0.35
"""A row whose own signals sum to this or more passes on all of it; a weaker one a smaller part, by the square root."""

EXACT_ROWS: Final = 10_000
"""Up to this many matching rows every cosine is computed; beyond, sketches choose the rows that get one."""

_POOL: Final = 4096
_SURVIVORS: Final = 1024
_LEADERS: Final = 256
_SCALE: Final = 1e6  # what agrees to 6 digits is equal
_ROUGHLY: Final = 1e-2  # more than the rounding of vectors changes a product
_FAR: Final = 1 << 30


class ScorePart(NamedTuple):
    """One part of a relevance: `contribution` = `weight` * `value`. Parts that add nothing to a hit are left out."""

    name: str
    value: float
    weight: float
    contribution: float


class Hit(NamedTuple):
    """A memory that was found; `relevance` is 0 to 1, the sum of the contributions of its `components`."""

    memory_id: MemoryId
    relevance: float
    components: tuple[ScorePart, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """A query made ready: its text, its wording, expanded when it is searched for, and its vector."""

    text: str
    wording: Wording
    vector: NDArray[np.float32]


def weights_of(found: list[str], stems: Stems, rarity: Callable[[str], float]) -> list[float]:
    """How much each word of a question counts for its vector: its rarity; stop words only if there are no others."""
    weights = [0.0 if word in stems.stop_words else rarity(stems.terms([word])[0]) for word in found]
    return weights if any(weights) else [1.0] * len(found)


def search(
    tables: Tables, scan: HammingScan, question: Question, limit: int, wanted: Filter, exact_rows: int
) -> list[Hit]:
    """The best `limit` of the rows that match `wanted`, or all of them if there are fewer.

    Ordered by relevance, then cosine, then the newer revision, then id.
    """
    allowed = tables.allowed(wanted)
    matching = int(np.count_nonzero(allowed))
    if not matching:
        return []
    ranking = _Ranking(tables, question, allowed, wanted.now)
    if matching <= exact_rows:
        ranking.compare(np.flatnonzero(allowed))
    else:
        ranking.compare(_promising(tables, scan, question, allowed, ranking, max(_SURVIVORS, 4 * limit)))
        ranking.compare_neighbours(max(_LEADERS, 2 * limit), allowed)
    return ranking.best(limit)


def _promising(
    tables: Tables,
    scan: HammingScan,
    question: Question,
    allowed: NDArray[np.bool_],
    ranking: _Ranking,
    count: int,
) -> NDArray[np.intp]:
    """The allowed rows that are nearest by sketch, best by words, quoted or of the days named; all without a sketch."""
    sketches = tables.sketches.values
    distances = scan(tables.sketch_of(question.vector), sketches)
    sketched = allowed[: len(sketches)]
    distances[~sketched | tables.waiting.values[: len(sketches)]] = _FAR
    nearest = _smallest(distances, min(count, int(np.count_nonzero(sketched))))
    unsketched = np.flatnonzero(allowed[len(sketches) :]) + len(sketches)
    worded = np.flatnonzero((ranking.lexical > 0) & allowed)
    worth = ranking.lexical[worded]
    if question.wording.phrases:
        worth += np.float32(PHRASE / LEXICAL) * ranking.phrased[worded]
    worded = worded[_smallest(-worth, min(count, len(worded)))]
    dated = np.flatnonzero((ranking.dated[: len(sketches)] > 0) & sketched)
    away = distances[dated] - np.float32(SKETCH_BITS) * ranking.dated[dated]
    dated = dated[_smallest(away, min(count, len(dated)))]
    promising = np.zeros(len(allowed), dtype=np.bool_)
    promising[np.concatenate((nearest, unsketched, worded, dated))] = True
    return np.flatnonzero(promising)


def similar(
    tables: Tables, vector: NDArray[np.float32], limit: int, least: float, wanted: Filter
) -> list[tuple[int, float]]:
    """The `limit` rows that match `wanted` and have the greatest cosines with `vector`, of at least `least`.

    Cosines are those of the vectors as they are kept, computed for every row. The greatest first, then the newer
    revision.
    """
    rounded = vector.astype(np.float16).astype(np.float32)
    allowed = tables.allowed(wanted) & ~tables.waiting.values
    near = products(tables.vectors.values, rounded) >= np.float32(least - _ROUGHLY)
    rows = np.flatnonzero(allowed & near)
    vectors = tables.vectors.values[rows].astype(np.float32)
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(rounded)
    cosines = np.minimum((vectors * rounded).sum(axis=1) / np.maximum(lengths, np.float32(1e-9)), np.float32(1.0))
    held = np.flatnonzero(cosines >= np.float32(least - 1 / _SCALE))
    order = held[np.lexsort((-tables.columns["revisions"].values[rows[held]], -cosines[held]))][:limit]
    return list(zip(rows[order].tolist(), np.maximum(cosines[order], 0.0).astype(np.float64).tolist(), strict=True))


class _Ranking:
    """The signals of all rows against one question; rows that were not compared have none."""

    def __init__(self, tables: Tables, question: Question, allowed: NDArray[np.bool_], now: datetime | None) -> None:
        self._tables = tables
        self._question = question
        self._common = max(0.0, float(tables.centre() @ question.vector))
        wording = question.wording
        self.lexical = tables.postings.scores(wording.terms, wording.variants)
        self.phrased = _phrased(tables, wording.phrases)
        self._named = tables.named_actor(wording.words, allowed)
        self.dated = _dated(tables, question.text, now)
        self._cosine = np.zeros(len(tables), dtype=np.float32)
        self._own = np.zeros(len(tables) + 1, dtype=np.float32)  # by slot
        self._passed = np.zeros(len(tables) + 1, dtype=np.float32)  # by slot
        self._rows: NDArray[np.intp] = np.empty(0, dtype=np.intp)

    def compare(self, rows: NDArray[np.intp]) -> None:
        """Compute the own signals of `rows` (ascending, none of those before), which can be found from then on too."""
        self._rows = np.sort(np.concatenate((self._rows, rows))) if len(self._rows) else rows
        vectors, query = self._tables.vectors.values, self._question.vector
        if len(rows) == len(vectors):
            self._cosine = products(vectors, query)
        else:
            self._cosine[rows] = products_of(vectors, rows, query)
        own = SEMANTIC * self._semantic(self._cosine[rows]) + LEXICAL * self.lexical[rows]
        self._own[rows + 1] = own
        self._passed[rows + 1] = own * np.minimum(np.sqrt(own / np.float32(STRONG)), np.float32(1.0))

    def compare_neighbours(self, count: int, allowed: NDArray[np.bool_]) -> None:
        """Compare also the allowed neighbours of the `count` best rows so far."""
        further = np.zeros(len(allowed), dtype=np.bool_)
        further[self._leading(count)] = True
        further &= allowed
        further[self._rows] = False
        self.compare(np.flatnonzero(further))

    def best(self, limit: int) -> list[Hit]:
        """The best `limit` of the compared rows."""
        rows = self._pool(max(_POOL, 2 * limit))
        speaker, neighbours, answer = self._speaker(rows), self._neighbours(rows), self._answer(rows)
        dated, phrased, own = self.dated[rows], self.phrased[rows], self._own[rows + 1]
        factor = np.where(self._asks[rows], np.float32(ASKING), np.float32(1.0))
        totals = factor * (own + SPEAKER * speaker + neighbours + ANSWER * answer + DATE * dated + PHRASE * phrased)
        totals = np.rint(totals * _SCALE).astype(np.int64)
        count = min(limit, len(rows))
        chosen = np.flatnonzero(totals >= np.partition(totals, len(rows) - count)[len(rows) - count])
        cosines = np.rint(self._cosine[rows[chosen]] * _SCALE)
        revisions = self._tables.columns["revisions"].values[rows[chosen]]
        order = chosen[np.lexsort((-revisions, -cosines, -totals[chosen]))][:limit]
        semantic = self._semantic(self._cosine[rows[order]])
        signals = zip(
            rows[order].tolist(),
            semantic.tolist(),
            self.lexical[rows[order]].tolist(),
            speaker[order].tolist(),
            neighbours[order].tolist(),
            answer[order].tolist(),
            dated[order].tolist(),
            phrased[order].tolist(),
            strict=True,
        )
        ids, factors = self._tables.ids, factor[order].tolist()
        return [_hit(ids[row], parts, each) for (row, *parts), each in zip(signals, factors, strict=True)]

    def _semantic(self, cosines: NDArray[np.float32]) -> NDArray[np.float32]:
        above = np.maximum(cosines - np.float32(self._common), np.float32(0.0))
        return np.asarray(above / np.float32(max(1.0 - self._common, 1e-6)), dtype=np.float32)

    def _speaker(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        if self._named < 0:
            return np.zeros(len(rows), dtype=np.float32)
        return np.asarray(self._tables.columns["actors"].values[rows] == self._named, dtype=np.float32)

    def _neighbours(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        links = self._tables.neighbours
        gained = np.zeros(len(rows), dtype=np.float32)
        before = after = (rows + 1).astype(np.int32)
        for share in NEIGHBOURS:
            before, after = links.before.values[before], links.after.values[after]
            gained += np.float32(share) * (self._passed[before] + self._passed[after])
        return gained

    def _answer(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """What a question just before passes on; the slot of no row passes nothing."""
        before = self._tables.neighbours.before.values[rows + 1]
        return np.asarray(np.where(self._asks[before - 1], self._passed[before], np.float32(0.0)), dtype=np.float32)

    @property
    def _asks(self) -> NDArray[np.bool_]:
        asks: NDArray[np.bool_] = self._tables.columns["asks"].values
        return asks

    def _pool(self, count: int) -> NDArray[np.intp]:
        """The compared rows if they are few; else the best `count` before neighbours count, and their neighbours."""
        if len(self._rows) <= 4 * count:
            return self._rows
        return np.intersect1d(self._rows, self._leading(count), assume_unique=True)

    def _leading(self, count: int) -> NDArray[np.intp]:
        """The best `count` of the compared rows before neighbours count, and all their neighbours, ascending."""
        rows = self._rows
        leading = self._own[rows + 1] + np.float32(SPEAKER) * self._speaker(rows) + np.float32(DATE) * self.dated[rows]
        if self._question.wording.phrases:
            leading += np.float32(PHRASE) * self.phrased[rows]
        slots = (rows[_smallest(-leading, count)] + 1).astype(np.int32)
        links = self._tables.neighbours
        reached, before, after = [slots], slots, slots
        for _ in NEIGHBOURS:
            before, after = links.before.values[before], links.after.values[after]
            reached += [before, after]
        marked = np.zeros(len(self._own), dtype=np.bool_)
        marked[np.concatenate(reached)] = True
        return np.flatnonzero(marked[1:])


def _phrased(tables: Tables, phrases: Sequence[Sequence[str]]) -> NDArray[np.float32]:
    """For each row the share of the phrases that it has."""
    phrased = np.zeros(len(tables), dtype=np.float32)
    for phrase in phrases:
        phrased[tables.postings.having_phrase(phrase)] += np.float32(1.0 / len(phrases))
    return phrased


def _dated(tables: Tables, text: str, now: datetime | None) -> NDArray[np.float32]:
    """The nearness of each row to the days that `text` names; seen from the latest active row if there is no `now`."""
    period = tables.period() if may_name_dates(text) else None
    if period is None:
        return np.zeros(len(tables), dtype=np.float32)
    first, last = period
    today = last if now is None else now.astimezone(UTC).date()
    return tables.nearness(dates(text, today, first, last))


def _hit(memory_id: str, signals: list[float], factor: float) -> Hit:
    parts = list(zip(_NAMES, signals, _WEIGHTS, strict=True))
    total = sum(weight * value for _, value, weight in parts)
    squash = math.tanh(factor * total) / total if total else 1.0
    components = tuple(
        ScorePart(name, value, weight * squash, weight * squash * value) for name, value, weight in parts if value
    )
    return Hit(MemoryId(memory_id), sum(part.contribution for part in components), components)


_NAMES: Final = ("semantic", "lexical", "speaker", "neighbours", "answer", "date", "phrase")
_WEIGHTS: Final = (SEMANTIC, LEXICAL, SPEAKER, 1.0, ANSWER, DATE, PHRASE)


def _smallest(values: NDArray[np.generic], count: int) -> NDArray[np.intp]:
    """Places of the `count` smallest values, in no order."""
    if count >= len(values):
        return np.arange(len(values))
    if count <= 0:
        return np.empty(0, dtype=np.intp)
    return np.argpartition(values, count - 1)[:count]
