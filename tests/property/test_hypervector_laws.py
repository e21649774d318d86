"""The laws of the algebra, for any vectors."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mnemocore.hypervector import (
    DIMENSION,
    Hypervector,
    SignProjection,
    bind,
    bundle,
    nearest,
    permute,
    random_hypervector,
    random_hypervectors,
    similarity,
)

seeds = st.text(max_size=8)
vectors = st.builds(random_hypervector, seeds)
shifts = st.integers(-2 * DIMENSION, 2 * DIMENSION)


@given(vectors, vectors, vectors)
def test_bind_is_a_commutative_group_of_its_own_inverses(a: Hypervector, b: Hypervector, c: Hypervector) -> None:
    assert np.array_equal(bind(a, b), bind(b, a))
    assert np.array_equal(bind(bind(a, b), c), bind(a, bind(b, c)))
    assert np.array_equal(bind(bind(a, b), b), a)
    assert not bind(a, a).any()


@given(vectors, vectors, vectors)
def test_bind_keeps_distances(a: Hypervector, b: Hypervector, key: Hypervector) -> None:
    assert similarity(bind(a, key), bind(b, key)) == similarity(a, b)


@given(vectors, vectors, shifts, shifts)
def test_permute_adds_up_keeps_distances_and_distributes(a: Hypervector, b: Hypervector, i: int, j: int) -> None:
    assert np.array_equal(permute(permute(a, i), j), permute(a, i + j))
    assert np.array_equal(permute(permute(a, i), -i), a)
    assert similarity(permute(a, i), permute(b, i)) == similarity(a, b)
    assert np.array_equal(permute(bind(a, b), i), bind(permute(a, i), permute(b, i)))


@given(vectors, vectors)
def test_similarity_is_symmetric_and_one_only_for_equals(a: Hypervector, b: Hypervector) -> None:
    assert similarity(a, b) == similarity(b, a)
    assert similarity(a, a) == 1.0
    assert (similarity(a, b) == 1.0) == np.array_equal(a, b)
    assert similarity(a, ~a) == 0.0


@given(st.lists(seeds, min_size=1, max_size=9))
def test_bundle_does_not_depend_on_the_order(names: list[str]) -> None:
    table = random_hypervectors(names)
    assert np.array_equal(bundle(table), bundle(table[::-1]))


@given(st.lists(seeds, min_size=1, max_size=7, unique=True), vectors)
def test_bundle_is_like_each_part_and_commutes_with_bind(names: list[str], key: Hypervector) -> None:
    table = random_hypervectors(names)
    together = bundle(table)
    assert np.all(similarity(together, table) > 0.6)
    if len(names) % 2:
        assert np.array_equal(bundle(bind(table, key)), bind(together, key))


@given(st.lists(seeds, min_size=1, max_size=20), vectors, st.integers(1, 25))
def test_nearest_agrees_with_a_full_comparison(names: list[str], query: Hypervector, count: int) -> None:
    table = random_hypervectors(names)
    bits = np.unpackbits(table, axis=1) != np.unpackbits(query)
    expected = np.argsort(bits.sum(axis=1), kind="stable")[:count]
    assert np.array_equal(nearest(query, table, count)[0], expected)


@given(st.integers(3, 300), st.integers(0, 2**32 - 1), st.floats(0.01, 100))
def test_projection_ignores_length_and_turns_over_with_the_vector(dimension: int, seed: int, factor: float) -> None:
    vector = np.random.default_rng(seed).normal(size=(1, dimension)).astype(np.float32)
    projection = SignProjection(dimension)
    bits = projection.project(vector)
    assert similarity(projection.project(vector * np.float32(factor)), bits)[0] > 0.999
    assert similarity(projection.project(-vector), bits)[0] < 0.001
