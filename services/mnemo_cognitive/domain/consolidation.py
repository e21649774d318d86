"""Finding the memories of a space that say the same, and keeping one of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mnemo_cognitive.domain.job import Duplicate, DuplicateGroup

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Pair:
    """Two memories that say the same; `first` was written before `second`."""

    first: str
    second: str
    similarity: float


def group_duplicates(pairs: Sequence[Pair]) -> tuple[DuplicateGroup, ...]:
    """Groups of duplicates around the memory that was written first.

    Every duplicate is similar to the kept memory itself: likeness is never passed on from one duplicate to the next,
    so a chain of small changes does not fold into one memory. Of several kept memories a duplicate goes to the most
    similar one, of equally similar ones to the first by name. Groups come in the order in which `pairs` names their
    kept memories.
    """
    likeness: dict[str, dict[str, float]] = {}
    order: dict[str, int] = {}
    for pair in pairs:
        likeness.setdefault(pair.second, {})[pair.first] = pair.similarity
        for name in (pair.first, pair.second):
            order.setdefault(name, len(order))
    groups: dict[str, list[Duplicate]] = {}
    for name in _oldest_first(likeness, order):
        earlier = {first: value for first, value in likeness.get(name, {}).items() if first in groups}
        if earlier:
            kept = min(earlier, key=lambda first: (-earlier[first], first))
            groups[kept].append(Duplicate(name, earlier[kept]))
        else:
            groups[name] = []
    kept_order = sorted((name for name in groups if groups[name]), key=order.__getitem__)
    return tuple(DuplicateGroup(name, tuple(groups[name])) for name in kept_order)


def _oldest_first(likeness: dict[str, dict[str, float]], order: dict[str, int]) -> list[str]:
    """All names such that every `first` stands before its `second` (pairs go from older to newer: no cycles)."""
    done: dict[str, None] = {}
    for start in sorted(order, key=order.__getitem__):
        stack = [start]
        while stack:
            name = stack[-1]
            missing = [first for first in likeness.get(name, {}) if first not in done]
            if missing:
                stack.extend(missing)
            else:
                done.setdefault(stack.pop())
    return list(done)
