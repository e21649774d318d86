"""Hypervectors: shapes, exact values, errors."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from mnemocore.errors import InvalidFieldError
from mnemocore.hypervector import (
    BYTES,
    DIMENSION,
    SignProjection,
    bind,
    bundle,
    nearest,
    nearest_by_sketch,
    permute,
    random_hypervector,
    random_hypervectors,
    similarity,
    sketch,
)


def test_random_vectors_never_change() -> None:
    assert random_hypervector("mnemosyne")[:8].tobytes().hex() == "775123d60ad8e37b"


def test_unrelated_vectors_are_at_one_half() -> None:
    table = random_hypervectors([f"v{number}" for number in range(200)])
    off_diagonal = [similarity(table[row], np.delete(table, row, axis=0)) for row in range(200)]
    assert np.abs(np.concatenate(off_diagonal) - 0.5).max() < 0.022
    assert np.std(np.concatenate(off_diagonal)) == pytest.approx(0.0039, abs=0.0005)


def test_a_bundle_is_like_each_of_its_parts_and_like_nothing_else() -> None:
    parts = random_hypervectors(["a", "b", "c"])
    both = bundle(parts)
    assert np.all(similarity(both, parts) > 0.72)
    assert abs(float(similarity(both, random_hypervector("d"))) - 0.5) < 0.02


def test_weights_of_a_bundle_decide_the_majority() -> None:
    parts = random_hypervectors(["a", "b", "c"])
    assert np.array_equal(bundle(parts, [3.0, 1.0, 1.0]), parts[0])


def test_a_big_bundle_is_summed_in_blocks() -> None:
    parts = random_hypervectors([f"v{number}" for number in range(1500)])
    votes = np.unpackbits(parts, axis=1).sum(axis=0, dtype=np.int64)
    clear = votes != 750
    assert np.array_equal(np.unpackbits(bundle(parts))[clear], (votes > 750)[clear])


def test_nearest_gives_the_best_first_and_no_more_than_there_are() -> None:
    table = random_hypervectors(["a", "b", "c"])
    rows, similarities = nearest(table[1], table, 10)
    assert rows[0] == 1
    assert similarities[0] == 1.0
    assert list(similarities) == sorted(similarities, reverse=True)
    assert len(rows) == 3


def test_permute_moves_bits_to_the_end() -> None:
    vector = random_hypervector("a")
    assert np.array_equal(np.unpackbits(permute(vector, 13)), np.roll(np.unpackbits(vector), 13))


def test_ties_are_drawn_anew_for_other_rows_and_other_seeds() -> None:
    table = random_hypervectors([f"v{number}" for number in range(400)])
    pairs = np.stack([bundle(table[at : at + 2]) for at in range(0, 400, 2)])
    unrelated = similarity(pairs[:-1], pairs[1:])
    assert unrelated.mean() == pytest.approx(0.5, abs=0.002)
    assert unrelated.std() == pytest.approx(0.0039, abs=0.001)
    assert not np.array_equal(bundle(table[:2], tie_seed="other"), pairs[0])
    assert bundle(table[:2])[:8].tobytes().hex() == "ce8cf5a8ac5f2f85"


def test_sketches_find_what_the_whole_vectors_find() -> None:
    draw = np.random.default_rng(11)
    centres = np.repeat(draw.normal(size=(50, 256)), 40, axis=0)
    dense = (centres + draw.normal(size=(2000, 256))).astype(np.float32)
    table = SignProjection(256).project(dense)
    found = 0
    for row in range(0, 2000, 40):
        expected, _ = nearest(table[row], table, 10)
        rows, similarities = nearest_by_sketch(table[row], table, 10)
        assert list(similarities) == sorted(similarities, reverse=True)
        found += len(set(rows.tolist()) & set(expected.tolist()))
    assert found >= 0.99 * 500


def test_a_table_in_any_layout_is_compared_in_the_same_way() -> None:
    table = random_hypervectors([f"v{number}" for number in range(100)])
    query = table[7]
    expected = similarity(query, table)
    assert np.array_equal(similarity(query, np.asfortranarray(table)), expected)
    assert np.array_equal(similarity(query, np.repeat(table, 2, axis=0)[::2]), expected)
    assert np.array_equal(similarity(np.asfortranarray(table), np.asfortranarray(table)), np.ones(100))
    many = np.tile(table, (25, 1))
    assert np.array_equal(similarity(many, query[None, :]), np.tile(expected, 25))
    assert np.array_equal(similarity(many, np.roll(many, 1, axis=0))[1:100], similarity(table[1:], table[:-1]))
    assert similarity(query, table[:0]).shape == (0,)
    assert nearest(query, table[:0], 3)[0].shape == (0,)


@pytest.mark.parametrize(
    "wrong", [np.zeros(BYTES, np.int64), np.zeros(BYTES - 1, np.uint8), np.zeros((1, 1, BYTES), np.uint8)]
)
def test_what_is_no_hypervector_is_refused_by_name(wrong: np.ndarray) -> None:
    with pytest.raises(InvalidFieldError, match="left: has type"):
        bind(wrong, random_hypervector("a"))


def test_empty_and_uneven_arguments_are_refused() -> None:
    with pytest.raises(InvalidFieldError, match="vectors"):
        bundle(np.empty((0, BYTES), np.uint8))
    with pytest.raises(InvalidFieldError, match="weights"):
        bundle(random_hypervectors(["a"]), [1.0, 2.0])
    with pytest.raises(InvalidFieldError, match="weights: has items that are not finite"):
        bundle(random_hypervectors(["a", "b"]), [1.0, float("nan")])
    with pytest.raises(InvalidFieldError, match="nothing but 0"):
        bundle(random_hypervectors(["a"]), [0.0])
    for operation in (bind, similarity):
        with pytest.raises(InvalidFieldError, match="right: has 2 rows; allowed are 3"):
            operation(random_hypervectors(["a", "b", "c"]), random_hypervectors(["a", "b"]))
    with pytest.raises(InvalidFieldError, match="right: has type uint8"):
        similarity(random_hypervector("a"), sketch(random_hypervector("a")))
    for bits in (0, 100, DIMENSION + 64):
        with pytest.raises(InvalidFieldError, match=f"bits: is {bits}"):
            sketch(random_hypervector("a"), bits)
    with pytest.raises(InvalidFieldError, match="candidates: is 2; allowed is at least 3"):
        nearest_by_sketch(random_hypervector("a"), random_hypervectors(["a"]), 3, candidates=2)
    with pytest.raises(InvalidFieldError, match="query"):
        nearest(random_hypervectors(["a"]), random_hypervectors(["a"]), 1)
    with pytest.raises(InvalidFieldError, match="table"):
        nearest(random_hypervector("a"), random_hypervector("a"), 1)
    with pytest.raises(InvalidFieldError, match="count"):
        nearest(random_hypervector("a"), random_hypervectors(["a"]), 0)


def test_projection_never_changes() -> None:
    vector = np.cos(np.arange(256, dtype=np.float32))[None, :]
    assert SignProjection(256).project(vector)[0, :8].tobytes().hex() == "5df62997afa79019"


def test_projection_estimates_the_angle() -> None:
    draw = np.random.default_rng(5)
    left = draw.normal(size=(300, 256)).astype(np.float32)
    right = left + draw.normal(size=left.shape).astype(np.float32) * draw.uniform(0, 3, size=(300, 1)).astype(
        np.float32
    )
    cosines = (left * right).sum(axis=1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)
    projection = SignProjection(256)
    estimated = similarity(projection.project(left), projection.project(right))
    assert np.abs(estimated - (1 - np.arccos(cosines) / np.pi)).max() < 0.015


def test_a_prefix_is_the_projection_of_fewer_bits() -> None:
    vectors = np.random.default_rng(1).normal(size=(5, 100)).astype(np.float32)
    projection = SignProjection(100, seed="other")
    whole = projection.project(vectors)
    assert whole.shape == (5, BYTES)
    for bits in (8, 64, 2048, 8200):
        assert np.array_equal(projection.project(vectors, bits), whole[:, : bits // 8])
    assert not np.array_equal(SignProjection(100).project(vectors), whole)


def test_sparse_vectors_are_spread_too() -> None:
    bits = SignProjection(256).project(np.eye(256, dtype=np.float32))
    others = np.array([similarity(bits[0], bits[row]) for row in range(1, 256)])
    assert np.abs(others - 0.5).max() < 0.05


def test_projection_refuses_wrong_shapes() -> None:
    with pytest.raises(InvalidFieldError, match="dimension"):
        SignProjection(DIMENSION + 1)
    with pytest.raises(InvalidFieldError, match="vectors"):
        SignProjection(256).project(np.zeros((1, 255), np.float32))
    with pytest.raises(InvalidFieldError, match="bits"):
        SignProjection(256).project(np.zeros((1, 256), np.float32), 2047)


def test_importing_hypervectors_loads_no_wire() -> None:
    code = "import sys, mnemocore.hypervector; sys.exit(not {'grpc', 'asyncpg', 'faiss'}.isdisjoint(sys.modules))"
    environment = {"PYTHONPATH": ":".join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0
