"""A PostgreSQL server for a test session, and fresh databases on it in a few milliseconds."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import asyncpg

from mnemocore.postgres import Database, EmbeddedPostgres

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


_MEMORY: Final = Path("/dev/shm")  # where Linux keeps files in memory
_MEMORY_BYTES: Final = 4 * 1024**3


class TestPostgres:
    """An embedded server in a temporary folder, without fsync: open its databases with `open`.

    The folder is in memory where Linux has at least 4 GiB of room there: what a fresh database costs is its files.

    Databases are copies of templates: an empty one, and one per `prepare` function, which is run once a session.
    """

    __test__ = False  # not a class of tests, for all its name

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="mnemo-test-", dir=_in_memory()))
        self._server = EmbeddedPostgres(self._folder / "postgres", durable=False)
        self._templates: dict[Any, str] = {}

    def start(self) -> None:
        """Start the server; called outside of an event loop."""
        asyncio.run(self._server.start())

    def stop(self) -> None:
        """Stop the server and remove its files."""
        asyncio.run(self._server.stop())
        shutil.rmtree(self._folder)

    def url_for(self, name: str) -> str:
        """The URL of a database by its name."""
        return self._server.url_for(name)

    async def create(self, prepare: Callable[[Database], Awaitable[None]] | None = None) -> str:
        """The URL of a new database, a copy of the one that `prepare` (such as a migration) made; empty without."""
        template = await self._template(prepare) if prepare else "template1"
        return await self._create(template)

    async def open(self, url: str, *, min_size: int = 1, max_size: int = 10) -> Database:
        """Open a database of this server."""
        return await Database.open(
            url, min_size=min_size, max_size=max_size, application_name="test", require_fsync=False
        )

    async def drop(self, url: str) -> None:
        """Remove a database; its sessions are ended."""
        await self._command(f'DROP DATABASE "{_name(url)}" WITH (FORCE)')

    async def _template(self, prepare: Callable[[Database], Awaitable[None]]) -> str:
        if prepare not in self._templates:
            url = await self._create("template1")
            database = await self.open(url)
            await prepare(database)
            await database.close()
            self._templates[prepare] = _name(url)
        return self._templates[prepare]

    async def _create(self, template: str) -> str:
        name = f"test_{uuid4().hex}"
        await self._command(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY')
        return self._server.url_for(name)

    async def _command(self, command: str) -> None:
        connection = await asyncpg.connect(self._server.url)
        try:
            await connection.execute(command)
        finally:
            await connection.close()


def _in_memory() -> Path | None:
    """A folder in memory with room for a session's databases; None if there is none."""
    return _MEMORY if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _MEMORY_BYTES else None


def _name(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[2]
