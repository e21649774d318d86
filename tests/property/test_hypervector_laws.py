"""The laws of the algebra, for any vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mnemocore.hypervector import (
    DIMENSION,
    Codebook,
    Hypervector,
    SignProjection,
    bind,
    bundle,
    concept,
    nearest,
    nearest_by_sketch,
    permute,
    random_hypervector,
    random_hypervectors,
    similarity,
    sketch,
)

if TYPE_CHECKING:
    from random import Random

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


@given(st.lists(st.tuples(seeds, st.integers(-3, 3).filter(bool)), min_size=1, max_size=8), st.randoms())
def test_a_weight_is_so_many_rows_and_a_negative_one_the_opposite(
    weighted: list[tuple[str, int]], random: Random
) -> None:
    table = random_hypervectors([name for name, _ in weighted])
    spelled_out = [~row if weight < 0 else row for row, (_, weight) in zip(table, weighted, strict=True)]
    many = np.repeat(np.stack(spelled_out), [abs(weight) for _, weight in weighted], axis=0)
    votes = 2 * np.unpackbits(many, axis=1).sum(axis=0, dtype=np.int64) - len(many)
    weights = [float(weight) for _, weight in weighted]
    bits = np.unpackbits(bundle(table, weights))
    assert np.array_equal(bits[votes != 0], (votes > 0)[votes != 0])

    order = list(range(len(weighted)))
    random.shuffle(order)
    tenths = [weight / 10 for weight in weights]
    mixed = bundle(table[order], [tenths[place] for place in order])
    assert np.array_equal(mixed, bundle(table, tenths))


@given(st.lists(seeds, min_size=4, max_size=8, unique=True))
def test_bundles_of_different_rows_are_unrelated(names: list[str]) -> None:
    half = len(names) // 2
    left, right = bundle(random_hypervectors(names[:half])), bundle(random_hypervectors(names[half:]))
    assert abs(float(similarity(left, right)) - 0.5) < 0.022


@given(vectors, vectors, st.integers(1, DIMENSION // 64))
def test_a_sketch_estimates_the_similarity(a: Hypervector, b: Hypervector, words: int) -> None:
    bits = 64 * words
    near = bundle(np.stack([a, b]), [1.5, 1.0])
    for left, right in ((a, b), (a, near)):
        estimated = float(similarity(sketch(left, bits), sketch(right, bits)))
        assert abs(estimated - float(similarity(left, right))) < 5 * 0.5 / bits**0.5
    key = random_hypervector("key")
    assert np.array_equal(sketch(bind(a, key), bits), np.bitwise_xor(sketch(a, bits), sketch(key, bits)))


@given(st.lists(seeds, min_size=1, max_size=20, unique=True), vectors, st.integers(1, 25))
def test_all_candidates_by_sketch_are_all_there_are(names: list[str], query: Hypervector, count: int) -> None:
    table = random_hypervectors(names)
    rows, similarities = nearest_by_sketch(query, table, count, candidates=25)
    expected, exact = nearest(query, table, count)
    assert np.array_equal(rows, expected)
    assert np.array_equal(similarities, exact)


@given(st.lists(seeds, min_size=1, max_size=12, unique=True), st.integers(0, 2**32 - 1), st.data())
def test_clean_up_leads_home_also_among_entries_alike(names: list[str], seed: int, data: st.DataObject) -> None:
    common = random_hypervector("what all entries have in common")
    codebook = Codebook()
    for number, name in enumerate(names):
        for own in random_hypervectors([f"{number}, one", f"{number}, other"]):
            codebook.add(f"{len(codebook)}", bundle(np.stack([common, random_hypervector(name), own])))
    wanted = data.draw(st.sampled_from(list(codebook)))
    assert codebook.clean_up(codebook[wanted]).name == wanted
    flipped = np.random.default_rng(seed).random(DIMENSION) < 0.3
    assert codebook.clean_up(bind(codebook[wanted], np.packbits(flipped))).name == wanted


@given(st.lists(seeds, min_size=1, max_size=9, unique=True))
def test_every_role_of_a_concept_gives_its_filler_back(names: list[str]) -> None:
    roles = random_hypervectors([f"role {name}" for name in names])
    fillers = Codebook()
    for name in names:
        fillers.symbol(f"filler {name}")
    whole = concept(roles, fillers.table)
    for role, name in zip(roles, names, strict=True):
        assert fillers.clean_up(bind(whole, role)).name == f"filler {name}"
