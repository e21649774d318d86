"""Products with vectors kept as float16."""

from __future__ import annotations

import numpy as np
import pytest

from mnemo_index.domain.half_vectors import products, products_of


@pytest.mark.parametrize("dimension", [1, 7, 256, 1536])
@pytest.mark.parametrize("count", [0, 1, 64, 257, 1000])
def test_products_are_those_of_the_widened_vectors(count: int, dimension: int) -> None:
    draw = np.random.default_rng(count + dimension)
    vectors = (draw.standard_normal((count, dimension)) / np.sqrt(dimension)).astype(np.float16)
    vector = draw.standard_normal(dimension).astype(np.float32)
    exact = vectors.astype(np.float64) @ vector.astype(np.float64)
    assert products(vectors, vector) == pytest.approx(exact, abs=1e-5)
    rows = draw.permutation(count)[: count // 3]
    assert products_of(vectors, rows, vector).tolist() == products(vectors, vector)[rows].tolist()


def test_every_finite_float16_is_widened_exactly() -> None:
    numbers = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    numbers = numbers[np.isfinite(numbers)]
    widened = products(numbers[:, None], np.ones(1, dtype=np.float32))
    assert np.array_equal(widened, numbers.astype(np.float32))


def test_equal_rows_have_equal_products_wherever_they_stand() -> None:
    draw = np.random.default_rng(1)
    row, vector = draw.standard_normal((2, 256)).astype(np.float32)
    assert len(set(products(np.tile(row.astype(np.float16), (777, 1)), vector).tolist())) == 1
