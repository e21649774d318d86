"""BM25 over growing and shrinking postings, against the formula written out."""

from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pytest

from mnemo_index.domain.postings import K1, B, Postings


def empty() -> Postings:
    return Postings([], np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.bool_))


def expected(documents: list[list[str]], dead: set[int], query: list[str]) -> list[float]:
    live = [set(document) for row, document in enumerate(documents) if row not in dead]
    mean = sum(len(document) for row, document in enumerate(documents) if row not in dead) / len(live)
    rarity = {}
    for term in query:
        having = sum(term in document for document in live)
        rarity[term] = math.log(1 + (len(live) - having + 0.5) / (having + 0.5))
    ideal = sum(rarity.values()) * (K1 + 1) / (1 + K1 * (1 - B))
    scores = []
    for document in documents:
        counts, score = Counter(document), 0.0
        for term in query:
            repeated = counts[term]
            score += rarity[term] * repeated * (K1 + 1) / (repeated + K1 * (1 - B + B * len(document) / mean))
        scores.append(min(1.0, score / ideal))
    return scores


def corpus(count: int) -> list[list[str]]:
    draw = random.Random(7)
    return [[f"t{int(draw.paretovariate(0.6)) % 900}" for _ in range(draw.randrange(1, 25))] for _ in range(count)]


def test_scores_follow_the_formula_through_merges_and_removals() -> None:
    documents, postings, dead = corpus(3000), empty(), set[int]()
    query = ["t1", "t7", "t500", "unknown"]
    for start in range(0, len(documents), 250):
        postings.extend(documents[start : start + 250])
        for row in range(start, start + 250, 9):
            postings.remove(row)
            dead.add(row)
        assert postings.scores(query) == pytest.approx(expected(documents[: start + 250], dead, query), abs=1e-5)


def test_the_same_postings_come_back_from_their_columns() -> None:
    documents, postings = corpus(500), empty()
    postings.extend(documents)
    alive = np.ones(500, np.bool_)
    for row in (3, 77, 499):
        postings.remove(row)
        alive[row] = False
    copy = Postings(postings.vocabulary.listed(), postings.terms.values, postings.sizes.values, alive)
    query = ["t1", "t3", "t12"]
    assert np.allclose(copy.scores(query), postings.scores(query))
    copy.extend([["t1", "new"]])
    postings.extend([["t1", "new"]])
    assert np.allclose(copy.scores(["t1", "new"]), postings.scores(["t1", "new"]))
    assert copy.rarity("new") == postings.rarity("new")


def test_a_row_is_found_at_once_and_repeating_counts_less_and_less() -> None:
    postings = empty()
    postings.extend([["tea"], ["tea", "tea"], ["coffee"], [], ["tea"] * 70_000])
    scores = postings.scores(["tea"])
    assert 0 < scores[0] <= scores[1]
    assert scores[2] == scores[3] == 0
    assert scores.max() <= 1
    assert not postings.scores([]).any()


def test_nothing_is_something_that_can_be_searched() -> None:
    assert len(empty().scores(["tea"])) == 0
    assert empty().rarity("tea") > 0


def test_phrases_are_found_where_their_terms_stand_together_in_order() -> None:
    documents, postings = corpus(2000), empty()
    for start in range(0, 2000, 100):
        postings.extend(documents[start : start + 100])
    draw = random.Random(3)
    phrases = [["t1", "t2"], ["t2", "t1"], ["t1", "t1"], ["t1"], ["t1", "unknown"], [f"t{n}" for n in range(1, 30)]]
    for document in draw.sample([each for each in documents if len(each) > 4], 60):
        at = draw.randrange(len(document) - 3)
        phrases.append(document[at : at + draw.randrange(2, 5)])
    for phrase in phrases:
        size = len(phrase)
        having = [
            row
            for row, document in enumerate(documents)
            if any(document[at : at + size] == phrase for at in range(len(document) - size + 1))
        ]
        assert postings.having_phrase(phrase).tolist() == having


def test_variants_count_as_one_term() -> None:
    documents, postings = corpus(800), empty()
    postings.extend(documents)
    group = ("t3", "t4", "t90", "unknown")
    joined = [["joined" if term in group else term for term in document] for document in documents]
    together = empty()
    together.extend(joined)
    having = sum(postings.frequency(term) for term in group)
    assert having >= together.frequency("joined")
    exact, estimated = together.scores(["joined"]), postings.scores([], [group])
    assert np.array_equal(exact > 0, estimated > 0)
    assert estimated == pytest.approx(exact, abs=1e-5)  # alone its rarity cancels out
    assert not postings.scores([], [()]).any()
    assert postings.scores(["t1"], [("t7",)]) == pytest.approx(postings.scores(["t1", "t7"]))
    with_unknown = postings.scores(["t1", "unknown"])
    assert postings.scores(["t1"], [()]) == pytest.approx(with_unknown)
