from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import asyncpg
import pytest

from mnemocore.errors import DataDirectoryError
from mnemocore.postgres import migrate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mnemocore.postgres import Database

FIRST = "CREATE TABLE shop.things (n int); INSERT INTO shop.things VALUES (1);"
SECOND = "ALTER TABLE shop.things ADD COLUMN name text NOT NULL DEFAULT 'none';"

numbers = itertools.count()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Makes a package of SQL files."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(*files: str) -> str:
        name = f"migrations_of_a_test_{next(numbers)}"
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
        for number, sql in enumerate(files, 1):
            (tmp_path / name / f"{number:04}_step.sql").write_text(sql)
        return name

    return make


async def test_what_is_missing_is_applied_in_order(database: Database, package: Callable[..., str]) -> None:
    await migrate(database, package(FIRST), schema="shop")
    await migrate(database, package(FIRST, SECOND), schema="shop")
    await migrate(database, package(FIRST, SECOND), schema="shop")
    assert [tuple(row) for row in await database.fetch("TABLE shop.things")] == [(1, "none")]
    applied = await database.fetch("SELECT number, name FROM shop.migrations ORDER BY number")
    assert [tuple(row) for row in applied] == [(1, "0001_step.sql"), (2, "0002_step.sql")]


async def test_replicas_that_start_together_migrate_once(database: Database, package: Callable[..., str]) -> None:
    name = package(FIRST, SECOND)
    await asyncio.gather(*(migrate(database, name, schema="shop") for _ in range(4)))
    assert await database.fetchval("SELECT count(*) FROM shop.things") == 1


async def test_a_failing_step_leaves_nothing(database: Database, package: Callable[..., str]) -> None:
    with pytest.raises(asyncpg.UndefinedTableError):
        await migrate(database, package(FIRST, "ALTER TABLE shop.nothing ADD COLUMN n int"), schema="shop")
    assert await database.fetchval("SELECT to_regnamespace('shop')") is None


async def test_a_database_of_a_newer_version_is_refused(database: Database, package: Callable[..., str]) -> None:
    await migrate(database, package(FIRST, SECOND), schema="shop")
    with pytest.raises(DataDirectoryError) as caught:
        await migrate(database, package(FIRST), schema="shop")
    assert str(caught.value) == (
        "the database was written by a newer version: schema shop has migration 2, this version knows up to 1"
    )


async def test_a_changed_step_is_refused(database: Database, package: Callable[..., str]) -> None:
    await migrate(database, package(FIRST), schema="shop")
    with pytest.raises(DataDirectoryError, match=r"applied migration shop/0001_step.sql differs"):
        await migrate(database, package(FIRST + " "), schema="shop")
