"""A channel to the installation on a data directory: the one that is running, or one started for the purpose."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mnemo_embedded.admin_key import read_or_make_admin_key
from mnemo_embedded.installation import Installation
from mnemocore.errors import DataDirectoryError
from mnemocore.postgres import DataDirectory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import grpc


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

    Raises DataDirectoryError if it cannot be used.
    """
    served = await asyncio.to_thread(DataDirectory.served_by, directory)
    if served is None:
        async with Installation(directory) as installation:
            yield Opened(installation.channel, f"embedded:{directory}", "")
    elif served.address:
        key = await asyncio.to_thread(read_or_make_admin_key, directory)
        yield Opened(None, served.address, key)
    else:
        raise DataDirectoryError(
            f"data directory {directory} is in use by process {served.pid}, which has no address to talk to",
            path=str(directory),
        )
