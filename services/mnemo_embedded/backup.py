"""Backups of a whole installation: what is saved besides the rows, and where a backup is brought back to."""

from __future__ import annotations

import asyncio
import errno
import shutil
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import mnemo_events.storage.inventory
import mnemo_memory.storage.inventory
from mnemo_embedded.store import POSTGRES_FOLDER
from mnemo_memory.storage.postgres_vault import PostgresVault
from mnemo_memory.storage.rewind import find_space, rewind
from mnemocore.data_directory import DataDirectory
from mnemocore.errors import DataDirectoryError
from mnemocore.postgres import Database, EmbeddedPostgres, migrate
from mnemocore.postgres.dump import drop, dump, restore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from mnemo_memory.storage.rewind import Rewound
    from mnemocore.ids import Tenant
    from mnemocore.master_keys import MasterKeySource
    from mnemocore.postgres.dump import Describe, Manifest, Progress

MIGRATIONS: Final[Mapping[str, str]] = {
    "memory": "mnemo_memory.storage.migrations",
    "events": "mnemo_events.storage.migrations",
    "cognitive": "mnemo_cognitive.storage.migrations",
    "gateway": "mnemo_gateway.storage.migrations",
}
"""The schemas of an installation, and where their migrations are."""

DESCRIBE: Final[Mapping[str, Describe]] = {
    "memory": mnemo_memory.storage.inventory.take,
    "events": mnemo_events.storage.inventory.take,
}
"""What the manifest says of the schemas besides their rows."""

_NAME: Final = "mnemo backup"
_POOL_SIZE: Final = 4
_PATIENCE_SECONDS: Final = 30.0
_PAUSE_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class BackTo:
    """A space to take back to one of its revisions after a restore; its master key is needed if it is encrypted."""

    tenant: Tenant
    space: str
    revision: int
    master_keys: MasterKeySource


@dataclass(frozen=True, slots=True)
class Restored:
    """What came back. `rewound` is None unless a space was taken back."""

    manifest: Manifest
    rewound: Rewound | None


async def back_up(
    database: Database, path: Path, created_at: datetime, *, passphrase: bytes | None, progress: Progress | None
) -> Manifest:
    """Save the installation in `database` to the new file `path`; raises what `dump` raises."""
    return await dump(database, path, created_at, describe=DESCRIBE, passphrase=passphrase, progress=progress)


async def contents(database: Database) -> dict[str, Any]:
    """What a manifest would say of the schemas in `database` now."""
    async with database.transaction(isolation="repeatable_read", readonly=True, seconds=3600) as connection:
        return {schema: await describe(connection) for schema, describe in DESCRIBE.items()}


async def restore_database(
    url: str, path: Path, *, passphrase: bytes | None, back_to: BackTo | None = None, progress: Progress | None = None
) -> Restored:
    """Bring a backup into the empty database at `url`; raises what `restore` and `rewind` raise, and nothing is there.

    Only a process that is killed while a space is taken back leaves something: the whole backup, that space included.
    """
    async with _opened(url) as database:
        manifest = await restore(database, path, MIGRATIONS, passphrase=passphrase, progress=progress)
        try:
            return Restored(manifest, await _take_back(database, back_to))
        except BaseException:
            await drop(database, list(MIGRATIONS))
            raise


async def restore_directory(
    directory: Path,
    path: Path,
    *,
    passphrase: bytes | None,
    back_to: BackTo | None = None,
    progress: Progress | None = None,
    durable: bool = True,
) -> Restored:
    """Bring a backup into the new or empty data directory `directory`.

    Raises DataDirectoryError that names what is in a directory that is not empty, and what `restore` and `rewind`
    raise; then the directory is as it was. A process that is killed leaves a directory that nobody can serve; the next
    restore clears it. There are no snapshots of the index in it: the first start builds the index from the event log.
    """
    existed = await asyncio.to_thread(_claim, directory)
    try:
        async with _filled(directory, durable=durable) as url, _opened(url) as database:
            manifest = await restore(database, path, MIGRATIONS, passphrase=passphrase, progress=progress)
            return Restored(manifest, await _take_back(database, back_to))
    except BaseException:
        await asyncio.to_thread(_clear, directory, existed=existed)
        raise


async def _take_back(database: Database, back_to: BackTo | None) -> Rewound | None:
    if back_to is None:
        return None
    await migrate(database, MIGRATIONS["memory"], schema="memory")  # an older backup has older tables
    space = await find_space(database, back_to.tenant, back_to.space)
    vault = PostgresVault(database, back_to.master_keys)
    return await rewind(database, vault, space, back_to.revision, datetime.now(UTC))


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[Database]:
    """The database at `url`; the services themselves refuse one that may lose what is written."""
    database = await Database.open(url, max_size=_POOL_SIZE, application_name=_NAME, require_fsync=False)
    try:
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def _filled(directory: Path, *, durable: bool) -> AsyncIterator[str]:
    """The URL of a PostgreSQL in a new data directory, which can only be used once the block has ended well."""
    held = await asyncio.to_thread(DataDirectory.acquire, directory)
    try:
        await asyncio.to_thread(held.mark_unfinished)
        server = EmbeddedPostgres(directory / POSTGRES_FOLDER, durable=durable)
        await server.start()
        try:
            yield server.url
        finally:
            await server.stop()
        await asyncio.to_thread(held.mark_finished)
    finally:
        held.release()


def _claim(directory: Path) -> bool:
    """Whether the directory exists; it is empty then, or was cleared of what an interrupted restore left."""
    if not directory.exists():
        return False
    if DataDirectory.is_unfinished(directory):
        _clear(directory, existed=True)
    names = sorted(path.name for path in directory.iterdir())
    if names:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        text = f"data directory {directory} is not empty: it holds {shown}; restore into a new one"
        raise DataDirectoryError(text, path=str(directory))
    return True


def _clear(directory: Path, *, existed: bool) -> None:
    """Remove what is in the directory, and itself if it did not exist before."""
    if not directory.exists():
        return
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            _remove_tree(path)
        else:
            path.unlink()
    if not existed:
        directory.rmdir()


def _remove_tree(folder: Path) -> None:
    """Remove a folder, in which the PostgreSQL of a killed process may still be ending."""
    give_up = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return shutil.rmtree(folder)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY) or time.monotonic() > give_up:
                raise
            time.sleep(_PAUSE_SECONDS)
