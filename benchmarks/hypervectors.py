"""Throughput of the hypervector algebra, in one thread, beside plain numpy in the same run.

The baselines are the same operations written the usual way: one byte a bit, or a table of the bit counts of all bytes.
Both sides are checked to agree before they are timed. The times are those of the fastest of several rounds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING, Final

import numpy as np

from mnemocore.hypervector import (
    BYTES,
    DIMENSION,
    SKETCH_BITS,
    SignProjection,
    bind,
    bundle,
    nearest,
    nearest_by_sketch,
    permute,
    similarity,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

ROWS: Final = 20_000
BUNDLED: Final = 1_000
PROJECTED: Final = 256
WIDTH: Final = 256
ROUNDS: Final = 5

_ONES: Final = np.array([number.bit_count() for number in range(256)], np.uint8)


def seconds(work: Callable[[], object], rounds: int) -> float:
    """The time of the fastest of `rounds` rounds."""
    fastest = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        fastest = min(fastest, time.perf_counter() - started)
    return fastest


def table_similarity(query: NDArray[np.uint8], table: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Similarities by the bit counts of bytes."""
    differing = _ONES[np.bitwise_xor(query, table)].sum(axis=1, dtype=np.int64)
    return np.asarray(1.0 - differing / DIMENSION, dtype=np.float64)


def plain_bundle(vectors: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The majority by the mean of unpacked bits; no ties."""
    return np.packbits(np.unpackbits(vectors, axis=1).mean(axis=0) > 0.5)


def plain_permute(vectors: NDArray[np.uint8], shift: int) -> NDArray[np.uint8]:
    """The cyclic shift of unpacked bits."""
    return np.packbits(np.roll(np.unpackbits(vectors, axis=1), shift, axis=1), axis=1)


def measure(rows: int, rounds: int, seed: int) -> dict[str, tuple[float, float]]:
    """Rows a second of each operation: the algebra, and its baseline."""
    draw = np.random.default_rng(seed)
    table = draw.integers(0, 256, (rows, BYTES), np.uint8)
    query, odd = table[rows // 2], table[: BUNDLED - 1]
    dense = draw.normal(size=(PROJECTED, WIDTH)).astype(np.float32)
    projection = SignProjection(WIDTH)
    matrix = draw.choice(np.array([-1, 1], np.float32), (WIDTH, DIMENSION))
    unpacked = np.unpackbits(table[:BUNDLED], axis=1)
    unpacked_query = np.unpackbits(query)

    if not np.array_equal(similarity(query, table), table_similarity(query, table)):
        raise SystemExit("the similarities differ")
    if not np.array_equal(bundle(odd), plain_bundle(odd)):
        raise SystemExit("the bundles differ")
    if not np.array_equal(permute(odd, 13), plain_permute(odd, 13)):
        raise SystemExit("the permutations differ")

    def timed(count: int, work: Callable[[], object], baseline: Callable[[], object]) -> tuple[float, float]:
        return count / seconds(work, rounds), count / seconds(baseline, rounds)

    return {
        "bind": timed(BUNDLED, lambda: bind(query, table[:BUNDLED]), lambda: unpacked ^ unpacked_query),
        "bundle": timed(len(odd), lambda: bundle(odd), lambda: plain_bundle(odd)),
        "permute": timed(len(odd), lambda: permute(odd, 13), lambda: plain_permute(odd, 13)),
        "similarity": timed(rows, lambda: similarity(query, table), lambda: table_similarity(query, table)),
        "nearest 10": timed(
            rows,
            lambda: nearest(query, table, 10),
            lambda: np.argsort(-table_similarity(query, table), kind="stable")[:10],
        ),
        f"nearest 10, {SKETCH_BITS} bits first": timed(
            rows,
            lambda: nearest_by_sketch(query, table, 10),
            lambda: np.argsort(-table_similarity(query, table), kind="stable")[:10],
        ),
        f"project {WIDTH} numbers": timed(
            PROJECTED, lambda: projection.project(dense), lambda: np.packbits(dense @ matrix > 0, axis=1)
        ),
    }


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS, help=f"vectors to look through; default {ROWS}")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON line too")
    arguments = parser.parse_args()
    figures = measure(max(arguments.rows, BUNDLED), arguments.rounds, arguments.seed)
    print(f"{'vectors of 16,384 bits a second':32} {'algebra':>14} {'plain numpy':>14} {'times':>7}")
    for name, (ours, plain) in figures.items():
        print(f"{name:32} {ours:14,.0f} {plain:14,.0f} {ours / plain:7.1f}")
    if arguments.json:
        print(json.dumps({name: {"per_s": ours, "baseline_per_s": plain} for name, (ours, plain) in figures.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
