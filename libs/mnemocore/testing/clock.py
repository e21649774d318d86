"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta


class ManualClock:
    """Implements `mnemocore.clock.Clock`; time passes only by `advance`."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start = start
        self._elapsed = 0.0
        self._moved = asyncio.Condition()
        self.sleepers = 0
        """How many tasks sleep now."""

    def now(self) -> datetime:
        """The time of day, UTC."""
        return self._start + timedelta(seconds=self._elapsed)

    def monotonic(self) -> float:
        """Seconds since the clock was made."""
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        """Return when the clock was moved by `seconds`."""
        wake_at = self._elapsed + seconds
        self.sleepers += 1
        try:
            async with self._moved:
                await self._moved.wait_for(lambda: self._elapsed >= wake_at)
        finally:
            self.sleepers -= 1

    async def advance(self, seconds: float) -> None:
        """Move the clock and wake who has slept enough."""
        async with self._moved:
            self._elapsed += seconds
            self._moved.notify_all()
