"""When an event that failed is tried again."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from random import Random

FIRST_SECONDS: Final = 2.0
LONGEST_SECONDS: Final = 300.0
JITTER_SECONDS: Final = 0.5
"""Delays differ by up to so much, so that what failed together does not come back together."""
_DOUBLINGS: Final = 32


class RetrySchedule:
    """2 s after the first attempt, doubled with every further one, at most 300 s; each up to 0.5 s more or less."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def delay(self, attempt: int) -> timedelta:
        """How long to wait after an attempt, counted from 1, that failed."""
        seconds = min(LONGEST_SECONDS, FIRST_SECONDS * 2 ** min(attempt - 1, _DOUBLINGS))
        return timedelta(seconds=seconds + self._random.uniform(-JITTER_SECONDS, JITTER_SECONDS))
