"""How associations grow stronger with use and fade without it: memories recalled together become associated.

Pure functions over weights, which are above 0 and at most 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date

NEW_WEIGHT: Final = 0.3
STEP: Final = 0.05
POSITIVE_STEP: Final = 0.1
HALF_LIFE_ACTIVE_DAYS: Final = 30.0
PRUNED_BELOW: Final = 0.05


def reinforced(weight: float | None, *, positive: bool = False) -> float:
    """One more step: w + 0.05 (1 - w), with positive feedback w + 0.1 (1 - w); a new link begins with 0.3."""
    if weight is None:
        return NEW_WEIGHT
    return min(1.0, weight + (POSITIVE_STEP if positive else STEP) * (1.0 - weight))


def decayed(weight: float, active_days: float) -> float:
    """The weight after so many active days (days on which the space was used) without a step: halved every 30."""
    return float(weight * 2.0 ** (-max(0.0, active_days) / HALF_LIFE_ACTIVE_DAYS))


def faded(weight: float, stepped_on: date, active_days: Iterable[date]) -> float:
    """The weight of a link whose last step was on `stepped_on`, after some active days: those that came later count."""
    return decayed(weight, sum(day > stepped_on for day in active_days))


def is_pruned(weight: float) -> bool:
    """Whether a link of this weight is dropped."""
    return weight < PRUNED_BELOW
