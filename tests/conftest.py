"""Fixtures of all tests: one server of each kind a session, a fresh place on it a test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import HealthCheck, settings

from mnemocore.postgres import database as postgres_database
from mnemocore.testing.postgres import TestPostgres
from mnemocore.testing.redis import TestRedis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from mnemocore.postgres import Database


# The same examples in every run, however slow the machine is; `--hypothesis-profile=default` looks for others.
settings.register_profile(
    "repeatable", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")

OURS = (
    "mnemocore",
    "mnemo_gateway",
    "mnemo_memory",
    "mnemo_index",
    "mnemo_cognitive",
    "mnemo_events",
    "mnemo_embedded",
    "mnemo_cli",
)


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[None]:
    """A call of our code that blocks the event loop fails the test."""
    with blockbuster_ctx([*OURS], excluded_modules=["mnemocore.testing"]) as guard:
        # The driver looks for files with passwords and certificates when it connects: once a connection, not a query.
        for name in ("os.stat", "os.path.abspath", "io.TextIOWrapper.read"):
            guard.functions[name].can_block_in("asyncpg/connect_utils.py", {"_parse_connect_dsn_and_args"})
        # gRPC joins its poller thread when the last channel and server are collected, wherever that happens.
        guard.functions["threading.Lock.acquire"].can_block_in("threading.py", {"_wait_for_tstate_lock", "join"})
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[TestPostgres]:
    """The server of the session. Who works with it in this process waits longer for it than in production."""
    server = TestPostgres()
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postgres_database, "_ACQUIRE_LIMIT", 60.0)
        patch.setattr(postgres_database, "_CONNECT_LIMIT", 60.0)
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


@pytest.fixture(scope="session")
def redis_server() -> Iterator[TestRedis]:
    """The Redis of the session."""
    server = TestRedis()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_prefix(redis_server: TestRedis) -> Iterator[str]:
    """What the names of all keys of this test begin with."""
    prefix = redis_server.new_prefix()
    yield prefix
    redis_server.remove(prefix)
