"""A channel to the installation on a data directory: the one that is running, or one started for the purpose."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mnemo_embedded.admin_key import read_or_make_admin_key
from mnemocore.data_directory import DataDirectory
from mnemocore.errors import DataDirectoryError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import grpc

    from mnemo_embedded.installation import Installation

PATIENCE_SECONDS: Final = 10.0
"""How long an owner that offers no address is waited for."""

_PAUSE_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Opened:
    """A way to a gateway: a channel in this process, or None and the address of a running server.

    `api_key` is the key of the owner of the directory; empty where none is needed.
    """

    channel: grpc.aio.Channel | None
    target: str
    api_key: str


@asynccontextmanager
async def open_embedded(directory: Path) -> AsyncIterator[Opened]:
    """Open `directory`: by the server that serves it, or, if there is none, by an installation in this process.

    An owner without an address, such as another short command, is waited for a few seconds.
    Raises DataDirectoryError if the directory cannot be used.
    """
    async with AsyncExitStack() as stack:
        yield await _open(directory, stack)


async def _open(directory: Path, stack: AsyncExitStack) -> Opened:
    give_up = time.monotonic() + PATIENCE_SECONDS
    while True:
        served = await asyncio.to_thread(DataDirectory.served_by, directory)
        if served is None:
            try:
                installation = await stack.enter_async_context(await asyncio.to_thread(_installation, directory))
            except DataDirectoryError:
                if await asyncio.to_thread(DataDirectory.served_by, directory) is None:
                    raise
                continue  # somebody else was faster
            return Opened(installation.channel, f"embedded:{directory}", "")
        if served.address:
            key = await asyncio.to_thread(read_or_make_admin_key, directory)
            return Opened(None, served.address, key)
        if served.pid == os.getpid() or time.monotonic() > give_up:
            raise _taken(directory, served.pid)
        await asyncio.sleep(_PAUSE_SECONDS)


def _installation(directory: Path) -> Installation:
    """Imports all services, which takes a second: only whoever starts them pays for that."""
    from mnemo_embedded.installation import Installation

    return Installation(directory)


def _taken(directory: Path, pid: int) -> DataDirectoryError:
    who = "this process itself; share its connection" if pid == os.getpid() else f"process {pid}"
    return DataDirectoryError(
        f"data directory {directory} is in use by {who}; with `mnemo serve` any number can use it", path=str(directory)
    )
