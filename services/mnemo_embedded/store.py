"""The database of a data directory, for tools that work on it: beside the process that serves it, or alone."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final

from mnemo_embedded.local import PATIENCE_SECONDS
from mnemocore.data_directory import DataDirectory
from mnemocore.errors import DataDirectoryError
from mnemocore.postgres import Database, EmbeddedPostgres

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

POSTGRES_FOLDER: Final = "postgres"
_PAUSE_SECONDS: Final = 0.05
_POOL_SIZE: Final = 4


@asynccontextmanager
async def open_store(directory: Path, *, durable: bool = True) -> AsyncIterator[Database]:
    """The database of `directory`, served by another process at the same time or by nobody; then it is started here.

    Raises DataDirectoryError if there is none or it cannot be used. `durable` is for a database that is started here.
    """
    postgres = directory / POSTGRES_FOLDER
    if not await asyncio.to_thread((postgres / "PG_VERSION").exists):
        raise DataDirectoryError(f"data directory {directory} holds no installation", path=str(directory))
    async with AsyncExitStack() as stack:
        url = await _url_of_owner(directory)
        if url is None:
            url = await stack.enter_async_context(started(directory, durable=durable))
        database = await Database.open(url, max_size=_POOL_SIZE, application_name="mnemo", require_fsync=False)
        stack.push_async_callback(database.close)
        yield database


@asynccontextmanager
async def started(directory: Path, *, durable: bool = True) -> AsyncIterator[str]:
    """The URL of the PostgreSQL of `directory`, which is made where needed, held and served until the end."""
    held = await asyncio.to_thread(DataDirectory.acquire, directory)
    try:
        server = EmbeddedPostgres(directory / POSTGRES_FOLDER, durable=durable)
        await server.start()
        try:
            yield server.url
        finally:
            await server.stop()
    finally:
        held.release()


async def _url_of_owner(directory: Path) -> str | None:
    """Where the PostgreSQL of another process answers; None if nobody serves the directory.

    One that is just starting or stopping is waited for.
    """
    give_up = time.monotonic() + PATIENCE_SECONDS
    while True:
        served = await asyncio.to_thread(DataDirectory.served_by, directory)
        if served is None:
            return None
        url = await asyncio.to_thread(EmbeddedPostgres.url_of_running, directory / POSTGRES_FOLDER)
        if url is not None:
            return url
        if time.monotonic() > give_up:
            text = f"data directory {directory} is held by process {served.pid}, and its PostgreSQL is not ready"
            raise DataDirectoryError(text, path=str(directory))
        await asyncio.sleep(_PAUSE_SECONDS)
