"""The disk reserve: PostgreSQL ends when its disk is full, so writes are refused a little before."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING, Final

from mnemocore.errors import StoreFullError

if TYPE_CHECKING:
    from pathlib import Path

    from mnemocore.clock import Clock

RESERVE_BYTES: Final = 128 * 1024 * 1024
"""What is left free for PostgreSQL's own needs."""

_LOOK_SECONDS: Final = 0.5


class DiskReserve:
    """Watches the disk under `folder`, on which a PostgreSQL of this machine keeps its files."""

    def __init__(self, folder: Path, clock: Clock, reserve_bytes: int = RESERVE_BYTES) -> None:
        self._folder = folder
        self._clock = clock
        self._reserve_bytes = reserve_bytes
        self._free: int | None = None

    async def watch(self) -> None:
        """Look twice a second until cancelled."""
        while True:
            self._free = (await asyncio.to_thread(shutil.disk_usage, self._folder)).free
            await self._clock.sleep(_LOOK_SECONDS)

    def check(self) -> None:
        """Raise StoreFullError if less than the reserve is free."""
        if self._free is not None and self._free < self._reserve_bytes:
            mib = 1024 * 1024
            raise StoreFullError(
                f"the store cannot take more data: {self._free // mib} MiB are free on its disk, "
                f"{self._reserve_bytes // mib} MiB are kept in reserve"
            )
