"""Backups of an installation: every schema that `migrate` made, as one moment saw it, in one archive.

Rows travel in the text format of COPY. It is larger than the binary one before compression, but it is the same in every
PostgreSQL, where the binary one is not promised to be; and a row is a line, so rows can be counted without the server.

A dump reads in one REPEATABLE READ transaction, so all tables are of the same moment. No reader or writer waits for it;
a migration of the schemas does. A restore writes in one transaction: everything is there at its end or nothing. It
makes the tables by the migrations the backup had, not by the newest ones; the next start of the services brings them up
to date as it does after any update.
"""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import asyncpg

from mnemocore.errors import BackupDamagedError, DataDirectoryError, StoreUnavailableError
from mnemocore.postgres.archive import BLOCK, FORMAT, ArchiveReader, ArchiveWriter
from mnemocore.postgres.failures import translated
from mnemocore.postgres.migrations import migrate_as_in
from mnemocore.version import __version__

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from asyncpg import Connection

    from mnemocore.postgres.archive import Section
    from mnemocore.postgres.database import Database

    Describe = Callable[[Connection], Awaitable[Mapping[str, Any]]]
    """What a service says of its own schema, read in the snapshot; goes into the manifest."""
    Progress = Callable[[int, int], None]
    """Is told how many bytes are done, of how many about."""

T = TypeVar("T")

LIMIT_SECONDS: Final = 7 * 24 * 3600.0
"""No dump or restore takes longer."""

_CLOSE_SECONDS: Final = 5.0
_PLAN: Final = "plan"
_TABLE: Final = "table"
_SETTINGS: Final = """
SET LOCAL statement_timeout = 0;
SET LOCAL lock_timeout = '60s';
SET LOCAL idle_in_transaction_session_timeout = 0;
SET LOCAL datestyle = 'ISO, YMD';
SET LOCAL intervalstyle = 'iso_8601';
SET LOCAL timezone = 'UTC';
SET LOCAL bytea_output = 'hex';
SET LOCAL extra_float_digits = 1;
"""
_SCHEMAS: Final = """
SELECT n.nspname AS schema FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname = 'migrations' AND c.relkind = 'r' AND ARRAY['number', 'name', 'checksum', 'applied_at']::name[] =
    (SELECT array_agg(a.attname ORDER BY a.attnum) FROM pg_attribute a
     WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
ORDER BY n.nspname
"""
_TABLES: Final = """
SELECT n.nspname AS schema, c.relname AS name, pg_table_size(c.oid) AS size,
    array_agg(a.attname::text ORDER BY a.attnum) AS columns
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
WHERE n.nspname = ANY($1::text[]) AND c.relkind IN ('r', 'p') AND NOT c.relispartition
GROUP BY n.nspname, c.relname, c.oid ORDER BY n.nspname, c.relname
"""
_SEQUENCES: Final = """
SELECT n.nspname AS schema, c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY($1::text[]) AND c.relkind = 'S' ORDER BY n.nspname, c.relname
"""
_FOREIGN_KEYS: Final = """
SELECT c.conrelid::regclass::text AS place, quote_ident(c.conname) AS name, pg_get_constraintdef(c.oid) AS definition
FROM pg_constraint c JOIN pg_namespace n ON n.oid = c.connamespace
WHERE c.contype = 'f' AND c.conparentid = 0 AND n.nspname = ANY($1::text[]) ORDER BY c.oid
"""
_OCCUPIED: Final = """
SELECT n.nspname AS schema, count(*) AS tables FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY($1::text[]) AND c.relkind IN ('r', 'p') GROUP BY n.nspname ORDER BY n.nspname
"""


@dataclass(frozen=True, slots=True)
class Table:
    """A table and the columns that are saved, in their order. `size` is what it takes on disk, in bytes."""

    schema: str
    name: str
    columns: tuple[str, ...]
    size: int = 0

    @property
    def full_name(self) -> str:
        """`schema.name`."""
        return f"{self.schema}.{self.name}"

    @property
    def sql(self) -> str:
        """The name as SQL wants it."""
        return f"{_quoted(self.schema)}.{_quoted(self.name)}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup says of itself at its end.

    `migrations` are the checksums of the applied ones by schema and number. `tables` are rows by `schema.name`,
    `sequences` the last values by `schema.name` and whether they were used. `contents` is what each service said of its
    schema.
    """

    product: str
    created_at: str
    migrations: Mapping[str, Mapping[int, str]]
    tables: Mapping[str, int]
    sequences: Mapping[str, tuple[int, bool]]
    contents: Mapping[str, Mapping[str, Any]]

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(self.tables.values())

    def as_json(self) -> dict[str, Any]:
        """The manifest as it stands in the archive; `from_json` is the inverse."""
        return {
            "format": FORMAT,
            "product": self.product,
            "created_at": self.created_at,
            "migrations": {schema: {str(n): each for n, each in found.items()} for schema, found in _by_name(self)},
            "tables": dict(self.tables),
            "sequences": {name: list(value) for name, value in self.sequences.items()},
            "contents": dict(self.contents),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Manifest:
        """The manifest of an archive. Raises KeyError, TypeError, ValueError or AttributeError for what is none."""
        return cls(
            fields["product"],
            fields["created_at"],
            _numbered(fields["migrations"]),
            {str(name): int(rows) for name, rows in fields["tables"].items()},
            {str(name): (int(last), bool(used)) for name, (last, used) in fields["sequences"].items()},
            fields["contents"],
        )


@dataclass(frozen=True, slots=True)
class _Catalog:
    """What there is to save, at a moment."""

    migrations: Mapping[str, Mapping[int, str]]
    tables: tuple[Table, ...]
    sequences: tuple[Table, ...]

    @property
    def structure(self) -> object:
        """Equal for two catalogs that save the same columns."""
        tables = [(table.full_name, table.columns) for table in self.tables]
        return self.migrations, tables, [sequence.full_name for sequence in self.sequences]


async def dump(
    database: Database,
    path: Path,
    created_at: datetime,
    *,
    describe: Mapping[str, Describe] | None = None,
    passphrase: bytes | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Save the installation in `database` to the new file `path`; returns the manifest.

    Raises DataDirectoryError if there is nothing to save, OSError if the file cannot be made, StoreFullError, and
    StoreUnavailableError if the database does not answer or is being migrated. However it ends, there is a whole
    archive or none.
    """
    async with _writing(path, created_at, passphrase) as writer, _connected(database) as connection:
        before = await _read_catalog(connection)
        if not before.tables:
            raise DataDirectoryError("the database holds no installation: there is nothing to back up", path="")
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            catalog = await _hold(connection, before)
            return await _dump(connection, catalog, writer, created_at, describe or {}, progress)


async def verify(path: Path, *, passphrase: bytes | None = None, progress: Progress | None = None) -> Manifest:
    """Read all of a backup and compare it with its checksums, row counts and manifest.

    Raises BackupDamagedError, KeyUnavailableError, DataDirectoryError if a newer version wrote it, OSError.
    """
    async with _reading(path, passphrase, progress) as archive:
        plan = await archive.plan()
        rows = {}
        while (section := await archive.next_section()) is not None:
            table = archive.table(section, plan)
            async for _ in archive.blocks():
                pass
            rows[table.full_name] = archive.rows
        return archive.manifest(plan, rows)


async def restore(
    database: Database,
    path: Path,
    packages: Mapping[str, str],
    *,
    passphrase: bytes | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Bring a backup into `database`, in one transaction. `packages` has the migrations of each schema.

    Raises DataDirectoryError if the database is not empty or a newer version wrote the backup; BackupDamagedError,
    KeyUnavailableError, StoreFullError, StoreUnavailableError, OSError. Then nothing of it is there.
    """
    async with _reading(path, passphrase, progress) as archive:
        plan = await archive.plan()
        if unknown := plan.keys() - packages.keys():
            text = (
                f"backup {path} was written by a newer version: this one knows no schema {', '.join(sorted(unknown))}"
            )
            raise DataDirectoryError(text, path=str(path))
        async with database.transaction(seconds=LIMIT_SECONDS) as connection:
            await connection.execute(_SETTINGS)
            await _require_empty(connection, sorted(packages))
            for schema, checksums in plan.items():
                await migrate_as_in(connection, packages[schema], schema=schema, checksums=checksums)
            catalog = await _read_catalog(connection)
            async with _without_constraints(connection, catalog):
                rows = await _load(connection, archive, plan, catalog)
                manifest = archive.manifest(plan, rows)
                await _set_sequences(connection, archive, catalog, manifest)
            await connection.execute(f"ANALYZE {', '.join(table.sql for table in catalog.tables)}")
        return manifest


async def count_rows(database: Database) -> dict[str, int]:
    """The rows of every table that a dump would save, by `schema.name`."""
    async with database.transaction(isolation="repeatable_read", readonly=True, seconds=LIMIT_SECONDS) as connection:
        catalog = await _read_catalog(connection)
        return {
            table.full_name: await connection.fetchval(f"SELECT count(*) FROM {table.sql}") for table in catalog.tables
        }


async def drop(database: Database, schemas: Sequence[str]) -> None:
    """Remove what a restore brought in, all schemas with all that is in them."""
    async with database.transaction(seconds=LIMIT_SECONDS) as connection:
        for schema in schemas:
            await connection.execute(f"DROP SCHEMA IF EXISTS {_quoted(schema)} CASCADE")


# Saving


@asynccontextmanager
async def _connected(database: Database) -> AsyncIterator[Connection]:
    """A connection without the limits of the pool."""
    with translated():
        connection = await database.connect()
        try:
            yield connection
            await connection.close(timeout=_CLOSE_SECONDS)
        finally:
            connection.terminate()


async def _hold(connection: Connection, before: _Catalog) -> _Catalog:
    """The catalog in the snapshot of the transaction, held as it is until its end.

    The locks come first: LOCK takes no snapshot, so none can be older than a migration that ran beside it.
    """
    await connection.execute(_SETTINGS)
    names = ", ".join(table.sql for table in before.tables)
    try:
        await connection.execute(f"LOCK TABLE {names} IN ACCESS SHARE MODE")
    except (asyncpg.UndefinedTableError, asyncpg.LockNotAvailableError):
        raise _being_migrated() from None
    catalog = await _read_catalog(connection)
    if catalog.structure != before.structure:
        raise _being_migrated()
    return catalog


async def _dump(
    connection: Connection,
    catalog: _Catalog,
    writer: _Writer,
    created_at: datetime,
    describe: Mapping[str, Describe],
    progress: Progress | None,
) -> Manifest:
    contents = {schema: await describe[schema](connection) for schema in catalog.migrations if schema in describe}
    total = sum(table.size for table in catalog.tables)
    await writer.section(_PLAN, {})
    await writer.put(json.dumps(catalog.migrations).encode())
    await writer.end()
    rows, before = {}, 0
    for table in catalog.tables:
        rows[table.full_name] = await _dump_table(connection, table, writer, before, total, progress)
        before += table.size
    manifest = Manifest(
        __version__,
        created_at.isoformat(),
        catalog.migrations,
        rows,
        {sequence.full_name: await _last_value(connection, sequence) for sequence in catalog.sequences},
        contents,
    )
    await writer.finish(manifest.as_json())
    if progress is not None:
        progress(total, total)
    return manifest


async def _dump_table(
    connection: Connection, table: Table, writer: _Writer, before: int, total: int, progress: Progress | None
) -> int:
    """Save the rows of a table; returns their number."""
    done = 0

    async def put(data: bytes) -> None:
        nonlocal done
        await writer.put(data)
        done += len(data)
        if progress is not None:
            progress(before + min(done, table.size), total)

    await writer.section(_TABLE, {"schema": table.schema, "table": table.name, "columns": table.columns})
    columns = ", ".join(map(_quoted, table.columns))
    tag = await connection.copy_from_query(f"SELECT {columns} FROM {table.sql}", output=put, format="text")
    rows = await writer.end()
    assert tag == f"COPY {rows}", "a row is a line"
    return rows


async def _last_value(connection: Connection, sequence: Table) -> tuple[int, bool]:
    row = await connection.fetchrow(f"SELECT last_value, is_called FROM {sequence.sql}")
    assert row is not None, "a sequence is one row"
    return row["last_value"], row["is_called"]


# Bringing back


async def _require_empty(connection: Connection, schemas: Sequence[str]) -> None:
    occupied = await connection.fetch(_OCCUPIED, schemas)
    if occupied:
        there = ", ".join(f"schema {row['schema']} with {row['tables']} tables" for row in occupied)
        raise DataDirectoryError(f"the database is not empty: it holds {there}; restore into an empty one", path="")


@asynccontextmanager
async def _without_constraints(connection: Connection, catalog: _Catalog) -> AsyncIterator[None]:
    """Without triggers and foreign keys, which are checked once at the end, so that tables may come in any order."""
    keys = await connection.fetch(_FOREIGN_KEYS, list(catalog.migrations))
    for key in keys:
        await connection.execute(f"ALTER TABLE {key['place']} DROP CONSTRAINT {key['name']}")
    for table in catalog.tables:
        await connection.execute(f"ALTER TABLE {table.sql} DISABLE TRIGGER USER")
    yield
    for table in catalog.tables:
        await connection.execute(f"ALTER TABLE {table.sql} ENABLE TRIGGER USER")
    for key in keys:
        await connection.execute(f"ALTER TABLE {key['place']} ADD CONSTRAINT {key['name']} {key['definition']}")


async def _load(
    connection: Connection, archive: _Archive, plan: Mapping[str, Mapping[int, str]], catalog: _Catalog
) -> dict[str, int]:
    """Fill the tables; returns their rows."""
    expected = {table.full_name: table for table in catalog.tables}
    await connection.execute(f"TRUNCATE {', '.join(table.sql for table in catalog.tables)}")
    rows: dict[str, int] = {}
    while (section := await archive.next_section()) is not None:
        table = archive.table(section, plan)
        known = expected.get(table.full_name)
        if known is None or set(table.columns) != set(known.columns) or table.full_name in rows:
            raise archive.damaged(f"its table {table.full_name} is not that of its migrations")
        rows[table.full_name] = await _load_table(connection, archive, table)
    if missing := expected.keys() - rows.keys():
        raise archive.damaged(f"it lacks the table {min(missing)}")
    return rows


async def _load_table(connection: Connection, archive: _Archive, table: Table) -> int:
    try:
        tag = await connection.copy_to_table(
            table.name,
            schema_name=table.schema,
            columns=table.columns,
            source=archive.blocks(),
            format="text",
            encoding="utf8",
        )
    except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as error:
        raise archive.damaged(f"rows of {table.full_name} do not fit: {error}") from error
    if tag != f"COPY {archive.rows}":
        raise archive.damaged(f"{table.full_name} has {archive.rows} rows in it, {tag.removeprefix('COPY ')} came back")
    return archive.rows


async def _set_sequences(connection: Connection, archive: _Archive, catalog: _Catalog, manifest: Manifest) -> None:
    if manifest.sequences.keys() != {sequence.full_name for sequence in catalog.sequences}:
        raise archive.damaged("its sequences are not those of its migrations")
    for sequence in catalog.sequences:
        last, used = manifest.sequences[sequence.full_name]
        await connection.execute("SELECT setval($1::text::regclass, $2, $3)", sequence.sql, last, used)


# The catalog


async def _read_catalog(connection: Connection) -> _Catalog:
    schemas = [row["schema"] for row in await connection.fetch(_SCHEMAS)]
    migrations = {}
    for schema in schemas:
        applied = await connection.fetch(f"SELECT number, checksum FROM {_quoted(schema)}.migrations ORDER BY number")
        migrations[schema] = {row["number"]: row["checksum"] for row in applied}
    tables = await connection.fetch(_TABLES, schemas)
    sequences = await connection.fetch(_SEQUENCES, schemas)
    return _Catalog(
        migrations,
        tuple(Table(row["schema"], row["name"], tuple(row["columns"]), row["size"]) for row in tables),
        tuple(Table(row["schema"], row["name"], ()) for row in sequences),
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _numbered(migrations: Mapping[str, Mapping[str, str]]) -> dict[str, dict[int, str]]:
    return {schema: {int(n): str(each) for n, each in found.items()} for schema, found in migrations.items()}


def _by_name(manifest: Manifest) -> list[tuple[str, Mapping[int, str]]]:
    return sorted(manifest.migrations.items())


def _being_migrated() -> StoreUnavailableError:
    return StoreUnavailableError("the database is being migrated; try again when that is done")


# The archive, beside the event loop: one thread does everything with it in order, so that nothing overlaps, not even
# when the work is cancelled while the thread is at it.


class _Thread:
    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="mnemo-backup")

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *arguments)

    def close(self) -> None:
        self._executor.shutdown(wait=False)


class _Writer:
    """An ArchiveWriter that takes bytes as they come and writes them in blocks."""

    def __init__(self, writer: ArchiveWriter, thread: _Thread) -> None:
        self._writer = writer
        self._thread = thread
        self._waiting = bytearray()

    async def section(self, name: str, about: Mapping[str, Any]) -> None:
        await self._thread.run(self._writer.begin, name, about)

    async def put(self, data: bytes) -> None:
        self._waiting += data
        if len(self._waiting) >= BLOCK:
            await self._flush()

    async def end(self) -> int:
        """End the section; returns its rows."""
        await self._flush()
        return (await self._thread.run(self._writer.end)).rows

    async def finish(self, manifest: Mapping[str, Any]) -> None:
        await self._thread.run(self._writer.finish, manifest)

    async def _flush(self) -> None:
        waiting, self._waiting = bytes(self._waiting), bytearray()
        await self._thread.run(self._writer.write, waiting)


@asynccontextmanager
async def _writing(path: Path, created_at: datetime, passphrase: bytes | None) -> AsyncIterator[_Writer]:
    """An archive to write; removed unless the block ends well."""
    thread = _Thread()
    opening = asyncio.ensure_future(thread.run(ArchiveWriter, path, created_at, passphrase))
    try:
        writer = await asyncio.shield(opening)
        yield _Writer(writer, thread)
    except BaseException:  # also a cancellation leaves no half archive behind
        await asyncio.wait([opening])
        if opening.exception() is None:
            await thread.run(opening.result().abort)
        raise
    finally:
        thread.close()


class _Archive:
    """An ArchiveReader, and what its sections mean."""

    def __init__(self, reader: ArchiveReader, thread: _Thread, path: Path, progress: Progress | None) -> None:
        self.rows = 0
        """Rows of the section that was read last."""
        self._reader = reader
        self._thread = thread
        self._path = path
        self._progress = progress

    async def plan(self) -> dict[str, dict[int, str]]:
        """The migrations of the backup, by schema: the first section."""
        section = await self.next_section()
        text = b""
        if section is not None and section.name == _PLAN:
            text = b"".join([block async for block in self.blocks()])
        try:
            return _numbered(json.loads(text))
        except (ValueError, AttributeError):
            raise self.damaged("it does not begin with its plan") from None

    async def next_section(self) -> Section | None:
        return await self._thread.run(self._reader.next_section)

    async def blocks(self) -> AsyncIterator[bytes]:
        """The bytes of the section; `rows` is known behind the last of them."""
        while data := await self._thread.run(self._reader.read):
            yield data
            if self._progress is not None:
                self._progress(self._reader.done_bytes, self._reader.size)
        self.rows = self._reader.section_end().rows

    def table(self, section: Section, plan: Mapping[str, Mapping[int, str]]) -> Table:
        """The table whose rows a section holds."""
        try:
            table = Table(section.about["schema"], section.about["table"], tuple(section.about["columns"]))
        except (KeyError, TypeError):
            table = Table("", "", ())
        if section.name != _TABLE or table.schema not in plan:
            raise self.damaged(f"nobody knows its section {section.name!r} {table.full_name}")
        return table

    def manifest(self, plan: Mapping[str, Mapping[int, str]], rows: Mapping[str, int]) -> Manifest:
        """The manifest, compared with what was read."""
        try:
            manifest = Manifest.from_json(self._reader.manifest)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise self.damaged("its manifest cannot be read") from None
        if manifest.migrations != plan:
            raise self.damaged("its manifest names other migrations than its plan")
        for name in sorted(manifest.tables.keys() | rows.keys()):
            if manifest.tables.get(name) != rows.get(name):
                said, found = manifest.tables.get(name, "no"), rows.get(name, "no")
                raise self.damaged(f"its manifest names {said} rows of {name}, it holds {found}")
        return manifest

    def damaged(self, what: str) -> BackupDamagedError:
        return self._reader.damaged(what)


@asynccontextmanager
async def _reading(path: Path, passphrase: bytes | None, progress: Progress | None) -> AsyncIterator[_Archive]:
    """An archive to read."""
    thread = _Thread()
    opening = asyncio.ensure_future(thread.run(ArchiveReader, path, passphrase))
    try:
        reader = await asyncio.shield(opening)
        yield _Archive(reader, thread, path, progress)
    finally:
        await asyncio.wait([opening])
        if opening.exception() is None:
            await thread.run(opening.result().close)
        thread.close()
