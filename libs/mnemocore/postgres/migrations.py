"""Brings the schema of a service to this version: numbered SQL files, applied in order, never changed."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.resources
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mnemocore.errors import DataDirectoryError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asyncpg import Connection

    from mnemocore.postgres.database import Database

_FILE_NAME: Final = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
_LIMIT: Final = 3600.0


@dataclass(frozen=True, slots=True)
class _Migration:
    number: int
    name: str
    sql: str
    checksum: str


async def migrate(database: Database, package: str, *, schema: str) -> None:
    """Apply the files `NNNN_name.sql` of `package` that the schema lacks, in one transaction, one process at a time.

    Raises DataDirectoryError if a newer version has written the database, or an applied file has changed since.
    """
    migrations = await asyncio.to_thread(_read, package)
    async with database.transaction(seconds=_LIMIT) as connection:
        await _bring_to(connection, schema, migrations)


async def migrate_as_in(connection: Connection, package: str, *, schema: str, checksums: Mapping[int, str]) -> None:
    """Apply the migrations of `package` with the numbers of `checksums`, and no others, in the caller's transaction.

    Raises DataDirectoryError if this version lacks one of them, or one differs from its checksum.
    """
    migrations = await asyncio.to_thread(_read, package)
    _check(schema, migrations, checksums)
    await _bring_to(connection, schema, [migration for migration in migrations if migration.number in checksums])


async def _bring_to(connection: Connection, schema: str, migrations: list[_Migration]) -> None:
    """Apply what the schema lacks, as the one process that does."""
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"mnemo migrations {schema}")
    applied = await _applied(connection, schema)
    _check(schema, migrations, applied)
    for migration in migrations:
        if migration.number not in applied:
            await connection.execute(migration.sql)
            await connection.execute(
                f"INSERT INTO {schema}.migrations (number, name, checksum) VALUES ($1, $2, $3)",
                migration.number,
                migration.name,
                migration.checksum,
            )


def _read(package: str) -> list[_Migration]:
    found = []
    for file in importlib.resources.files(package).iterdir():
        if match := _FILE_NAME.fullmatch(file.name):
            sql = file.read_text(encoding="utf-8")
            found.append(_Migration(int(match[1]), file.name, sql, hashlib.sha256(sql.encode()).hexdigest()))
    return sorted(found, key=lambda migration: migration.number)


async def _applied(connection: Connection, schema: str) -> dict[int, str]:
    await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
    await connection.execute(
        f"CREATE TABLE IF NOT EXISTS {schema}.migrations (number int PRIMARY KEY, name text NOT NULL, "
        "checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    return {row["number"]: row["checksum"] for row in await connection.fetch(f"TABLE {schema}.migrations")}


def _check(schema: str, migrations: list[_Migration], applied: Mapping[int, str]) -> None:
    known = {migration.number: migration for migration in migrations}
    if unknown := applied.keys() - known.keys():
        reason = f"has migration {max(unknown)}, this version knows up to {max(known, default=0)}"
        raise DataDirectoryError(f"the database was written by a newer version: schema {schema} {reason}", path=schema)
    for number, checksum in applied.items():
        if known[number].checksum != checksum:
            text = f"the applied migration {schema}/{known[number].name} differs from the one of this version"
            raise DataDirectoryError(text, path=schema)
