from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mnemocore.postgres import Database

async def test_a(database: Database) -> None:
    assert await database.fetchval("SELECT 1") == 1

async def test_b(database: Database) -> None:
    assert await database.fetchval("SELECT 1") == 1
async def test_c(database: Database) -> None:
    assert await database.fetchval("SELECT 1") == 1
