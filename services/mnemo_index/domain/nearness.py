"""How near in time a memory happened to the days that a question names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from mnemo_index.domain.documents import EPOCH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mnemo_index.domain.dates import Days

SHORTEST: Final = 2.0
"""Days by which nearness halves around a single day: what happened is told soon after."""

_SHARE: Final = 1 / 3
_LEAST: Final = 0.01
_FARTHEST: Final = 7.0  # halvings that leave less than that
_A_DAY: Final = 86_400_000_000
_EPOCH_DAY: Final = EPOCH.toordinal()


def nearness(moments: NDArray[np.int64], days: Sequence[Days]) -> NDArray[np.float32]:
    """For each of `moments` (microseconds from 1970) how near its day (UTC) is to the nearest of `days`.

    1 on the days, halved for every third of their length before or after them, at least for every 2 days; 0 from where
    less than a hundredth is left.
    """
    if not days:
        return np.zeros(len(moments), dtype=np.float32)
    at = np.floor(moments / np.float64(_A_DAY)).astype(np.float32)
    halvings = np.full(len(moments), np.inf, dtype=np.float32)
    for start, end in days:
        first, length = np.float32(start.toordinal() - _EPOCH_DAY), (end - start).days
        away = np.maximum(first - at, at - (first + np.float32(length - 1)))
        away *= np.float32(1 / max(_SHARE * length, SHORTEST))
        np.minimum(halvings, away, out=halvings)
    near = np.zeros(len(moments), dtype=np.float32)
    close = np.flatnonzero(halvings < _FARTHEST)  # few of many: the rest is 0 anyway
    near[close] = np.exp2(-np.maximum(halvings[close], np.float32(0.0)))
    near[near < _LEAST] = 0.0
    return near
