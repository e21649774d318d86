"""Which memories count as saying the same."""

from __future__ import annotations

import numpy as np
import pytest
from tests.index_space import created, document, filled, memory_id, removed, space

from mnemo_index.domain.duplicates import near_duplicates


def test_the_same_said_twice_is_found_first_written_first() -> None:
    index = filled("Alice likes green tea", "The report is due", "Alice really likes green tea", "Bob plays chess")
    pairs, more = index.near_duplicates(0.85, 10)
    assert [(pair.first, pair.second) for pair in pairs] == [(memory_id(1), memory_id(3))]
    assert 0.85 <= pairs[0].similarity <= 1
    assert not more


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The ticket costs 40 euros", "The ticket costs 50 euros"),
        ("Alice likes green tea", "Alice does not like green tea"),
        ("Alice likes green tea", "Alice doesn't like green tea"),
        ("The meeting is on Monday", "The meeting is on Tuesday"),
        ("She has two dogs at home", "She has three dogs at home"),
    ],
)
def test_other_numbers_days_and_negations_say_something_else(one: str, other: str) -> None:
    assert filled(one, other).near_duplicates(0.5, 10) == ([], False)


def test_only_active_memories_of_one_kind_and_actor_are_compared() -> None:
    index = space()
    index.apply(
        [
            created(1, document(1, "I like tea", actor="Alice")),
            created(2, document(2, "I like tea", actor="Bob")),
            created(3, document(3, "I like tea", actor="Alice", kind="fact")),
            created(4, document(4, "I like tea", actor="Bob")),
            removed(5, 4),
        ]
    )
    assert index.near_duplicates(0.9, 10) == ([], False)
    index.apply([created(6, document(6, "I like tea!", actor="Bob"))])
    (pair,), _ = index.near_duplicates(0.9, 10)
    assert (pair.first, pair.second) == (memory_id(2), memory_id(6))


def test_the_most_similar_pairs_come_first_and_more_is_said() -> None:
    index = filled(*["the very same text"] * 6)
    pairs, more = index.near_duplicates(0.9, 4)
    assert len(pairs) == 4
    assert more
    pairs, more = index.near_duplicates(0.9, 15)
    assert len(pairs) == 15
    assert not more


def test_blocks_find_what_a_full_comparison_finds() -> None:
    draw = np.random.default_rng(2)
    vectors = draw.normal(size=(2600, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    kept = vectors.astype(np.float16)  # as an index keeps them
    vectors = kept.astype(np.float32)
    statements = draw.integers(0, 3, size=2600)
    rows = np.flatnonzero(draw.random(2600) < 0.9)
    cosines = vectors @ vectors.T
    expected = [
        (int(left), int(right), float(cosines[left, right]))
        for left, right in np.argwhere(np.triu(cosines, 1) >= 0.97)
        if statements[left] == statements[right] and left in rows and right in rows
    ]
    expected.sort(key=lambda pair: -pair[2])
    for limit in (50, 5000, 100_000):
        pairs, more = near_duplicates(kept, statements, rows, 0.97, limit)
        assert [cosine for _, _, cosine in pairs] == pytest.approx([pair[2] for pair in expected[:limit]], abs=1e-5)
        assert more == (len(expected) > limit)
    assert {pair[:2] for pair in pairs} == {pair[:2] for pair in expected}
