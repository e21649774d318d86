"""Fixtures of all tests: one PostgreSQL server a session, a fresh database a test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mnemocore.testing.postgres import TestPostgres

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from mnemocore.postgres import Database


@pytest.fixture(scope="session")
def postgres() -> Iterator[TestPostgres]:
    """The server of the session."""
    server = TestPostgres()
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def database_url(postgres: TestPostgres) -> AsyncIterator[str]:
    """The URL of an empty database of this test."""
    url = await postgres.create()
    yield url
    await postgres.drop(url)


@pytest.fixture
async def database(postgres: TestPostgres, database_url: str) -> AsyncIterator[Database]:
    """An empty database of this test, open."""
    opened = await postgres.open(database_url)
    yield opened
    await opened.close()
