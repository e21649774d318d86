"""The best paths between two memories: those with the greatest product of weights."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mnemocore.ids import MemoryId

    Steps = Mapping[MemoryId, Mapping[MemoryId, float]]

MAX_HOPS: Final = 5
MAX_LOOKS: Final = 20_000
"""Beginnings of paths that are looked at: in a graph made to be hard the search ends with what it has found."""


@dataclass(frozen=True, slots=True)
class Path:
    """The memories of a path, both ends included, and the product of the weights between them."""

    memories: tuple[MemoryId, ...]
    weight: float


def best_paths(steps: Steps, source: MemoryId, target: MemoryId, max_hops: int, limit: int) -> list[Path]:
    """The best paths without repeated memories, best first; of equal ones the shorter first, then by the ids.

    `steps` says from where one can go where, with weights above 0 and at most 1. The search goes on with the beginning
    of a path that promises most: its own product times the best that can follow.
    """
    rest = _best_rests(steps, source, target, max_hops)
    waiting: list[tuple[float, int, tuple[MemoryId, ...], float]] = [(-1.0, 0, (source,), 1.0)]
    found: list[Path] = []
    for _ in range(MAX_LOOKS):
        if not waiting or len(found) == limit:
            break
        _, _, memories, weight = heapq.heappop(waiting)
        if memories[-1] == target:
            found.append(Path(memories, weight))
            continue
        hops = len(memories)
        for following, step in steps.get(memories[-1], {}).items():
            promised = rest[max_hops - hops].get(following)
            if promised is not None and following not in memories:
                product, further = promised
                entry = (-weight * step * product, hops + further, (*memories, following), weight * step)
                heapq.heappush(waiting, entry)
    return sorted(found, key=lambda path: (-path.weight, len(path.memories), path.memories))


def _best_rests(
    steps: Steps, source: MemoryId, target: MemoryId, max_hops: int
) -> list[dict[MemoryId, tuple[float, int]]]:
    """For every number of hops left, from where the target can be reached: the best product, and in how many hops."""
    rests = [{target: (1.0, 0)}]
    for _ in range(1, max_hops):
        before = rests[-1]
        after = dict(before)
        for origin, following in steps.items():
            if origin in (source, target):
                continue
            choices = [
                (weight * before[goal][0], -before[goal][1] - 1) for goal, weight in following.items() if goal in before
            ]
            if choices:
                product, further = max(choices)
                after[origin] = (product, -further)
        rests.append(after)
    return rests
