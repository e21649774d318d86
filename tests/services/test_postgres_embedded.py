from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import psutil
import pytest

from mnemocore.errors import DataDirectoryError, MnemoError
from mnemocore.postgres import Database, EmbeddedPostgres
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

OWNER = """
import asyncio, sys
from pathlib import Path
import asyncpg
from mnemocore.postgres import EmbeddedPostgres

async def main():
    server = EmbeddedPostgres(Path(sys.argv[1]))
    await server.start()
    connection = await asyncpg.connect(server.url)
    await connection.execute("CREATE TABLE kept (n int)")
    for n in range(1000):
        await connection.execute("INSERT INTO kept VALUES ($1)", n)
        print(n, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder outside of pytest's own, whose permissions another session may tighten at any time."""
    with tempfile.TemporaryDirectory(prefix="mnemo-test-") as path:
        yield Path(path)


@pytest.fixture
async def server(folder: Path) -> AsyncIterator[EmbeddedPostgres]:
    embedded = EmbeddedPostgres(folder / "postgres", durable=False)
    yield embedded
    await embedded.stop()


def postmaster(directory: Path) -> psutil.Process:
    return psutil.Process(int((directory / "postmaster.pid").read_text().splitlines()[0]))


def permissions(path: Path) -> int:
    return path.stat().st_mode & 0o777


async def rows(server: EmbeddedPostgres) -> list[int]:
    connection = await asyncpg.connect(server.url)
    try:
        return [row["n"] for row in await connection.fetch("SELECT n FROM kept ORDER BY n")]
    finally:
        await connection.close()


async def keep(server: EmbeddedPostgres) -> None:
    connection = await asyncpg.connect(server.url)
    await connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
    await connection.close()


async def test_data_outlives_a_stop(server: EmbeddedPostgres, folder: Path) -> None:
    await server.start()
    await keep(server)
    process = postmaster(folder / "postgres")
    await server.stop()
    assert not process.is_running()
    await server.start()
    assert await rows(server) == [1]


async def test_a_durable_server_passes_the_check_of_the_pool(folder: Path) -> None:
    server = EmbeddedPostgres(folder / "postgres")
    await server.start()
    database = await Database.open(server.url, application_name="test")
    found = await database.fetchrow(
        "SELECT current_setting('data_checksums') AS checksums, current_setting('listen_addresses') AS tcp, "
        "current_setting('server_encoding') AS encoding, lower('\u00c4\u03a3') AS folded"
    )
    assert found is not None
    assert dict(found) == {"checksums": "on", "tcp": "", "encoding": "UTF8", "folded": "\u00e4\u03c3"}
    await database.close()
    await server.stop()


async def test_the_cluster_is_private(server: EmbeddedPostgres, folder: Path) -> None:
    await server.start()
    assert permissions(folder / "postgres") == 0o700


async def test_a_root_owner_opens_no_more_than_a_way_through(server: EmbeddedPostgres, folder: Path) -> None:
    before = permissions(folder)
    await server.start()
    assert permissions(folder) == (before | 0o001 if os.geteuid() == 0 else before)
    assert postmaster(folder / "postgres").uids().effective != 0


@pytest.mark.parametrize("at_once", [True, False])
async def test_kill_9_of_the_owner_ends_the_server_and_keeps_what_was_acknowledged(folder: Path, at_once: bool) -> None:
    directory = folder / "postgres"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, str(directory), stdout=asyncio.subprocess.PIPE, env=environment
    )
    assert owner.stdout is not None
    acknowledged = -1
    while acknowledged < 50:
        acknowledged = int(await owner.stdout.readline())
    old = postmaster(directory)
    owner.kill()
    acknowledged = max([acknowledged, *map(int, (await owner.stdout.read()).split())])
    await owner.wait()
    if not at_once:
        await until(lambda: not old.is_running())
    server = EmbeddedPostgres(directory)
    await server.start()
    assert not old.is_running()
    kept = await rows(server)
    assert kept[: acknowledged + 1] == list(range(acknowledged + 1))
    assert len(kept) <= acknowledged + 2
    await server.stop()


async def test_a_server_that_dies_is_started_again(server: EmbeddedPostgres, folder: Path) -> None:
    await server.start()
    await keep(server)
    database = await Database.open(server.url, application_name="test", require_fsync=False)
    old = postmaster(folder / "postgres")
    old.kill()
    await until(lambda: not old.is_running())
    await until(database.ready)
    assert await rows(server) == [1]
    assert postmaster(folder / "postgres").pid != old.pid
    await database.close()


async def test_a_process_file_that_names_another_program_does_not_matter(
    server: EmbeddedPostgres, folder: Path
) -> None:
    await server.start()
    await server.stop()
    (folder / "postgres" / "postmaster.pid").write_text(f"{os.getpid()}\n{folder}\n1\n5432\n\n\n\nready\n")
    await server.start()
    assert postmaster(folder / "postgres").name() == "postgres"


async def test_an_interrupted_creation_is_begun_again(server: EmbeddedPostgres, folder: Path) -> None:
    draft = folder / "postgres.new"
    draft.mkdir()
    (draft / "PG_VERSION").write_text("18")
    await server.start()
    assert not draft.exists()


async def test_a_cluster_of_another_version_is_refused(server: EmbeddedPostgres, folder: Path) -> None:
    (folder / "postgres").mkdir()
    (folder / "postgres" / "PG_VERSION").write_text("16\n")
    with pytest.raises(DataDirectoryError, match=r"written by PostgreSQL 16, this version runs PostgreSQL 18; export"):
        await server.start()


async def test_a_damaged_cluster_is_reported_with_the_servers_words(server: EmbeddedPostgres, folder: Path) -> None:
    await server.start()
    await server.stop()
    (folder / "postgres" / "global" / "pg_control").unlink()
    with pytest.raises(DataDirectoryError, match="pg_control") as caught:
        await server.start()
    assert "\n" not in str(caught.value)


async def test_a_place_that_cannot_be_written_is_refused(folder: Path) -> None:
    (folder / "file").write_text("")
    with pytest.raises(DataDirectoryError, match=r"cannot be prepared for PostgreSQL: File exists \("):
        await EmbeddedPostgres(folder / "file" / "postgres").start()


async def test_a_long_path_gets_a_private_socket_folder(folder: Path) -> None:
    server = EmbeddedPostgres(folder / ("long" * 25) / "it's here" / "postgres", durable=False)
    await server.start()
    await keep(server)
    assert await rows(server) == [1]
    await server.stop()


async def test_a_large_log_is_set_aside(server: EmbeddedPostgres, folder: Path) -> None:
    await server.start()
    await server.stop()
    log = folder / "postgres" / "server.log"
    log.write_bytes(b"x" * (11 * 1024 * 1024))
    await server.start()
    assert log.stat().st_size < 100_000
    assert (folder / "postgres" / "server.log.1").stat().st_size == 11 * 1024 * 1024


async def test_statements_and_values_stay_out_of_the_log(server: EmbeddedPostgres, folder: Path) -> None:
    await server.start()
    database = await Database.open(server.url, application_name="test", require_fsync=False)
    await database.execute("CREATE TABLE t (n text UNIQUE)")
    await database.execute("INSERT INTO t VALUES ('a secret')")
    with pytest.raises(asyncpg.UniqueViolationError):
        await database.execute("INSERT INTO t VALUES ('a secret')")
    await database.close()
    assert b"secret" not in (folder / "postgres" / "server.log").read_bytes()


async def test_a_paused_server_costs_no_more_than_the_deadline(server: EmbeddedPostgres, folder: Path) -> None:
    await server.start()
    database = await Database.open(server.url, application_name="test", require_fsync=False)
    parent = postmaster(folder / "postgres")
    everyone = [parent, *parent.children(recursive=True)]
    for process in everyone:
        process.send_signal(signal.SIGSTOP)
    try:
        assert not await database.ready()
    finally:
        for process in everyone:
            process.send_signal(signal.SIGCONT)
    await until(database.ready)
    await database.close()


async def test_a_cancelled_start_leaves_no_server(server: EmbeddedPostgres, folder: Path) -> None:
    await server.start()
    await keep(server)
    await server.stop()
    for milliseconds in (0, 2, 5, 10, 15, 20, 30):
        start = asyncio.create_task(server.start())
        await asyncio.wait([start], timeout=milliseconds / 1000)
        start.cancel()
        await asyncio.wait([start])
        await server.stop()
        assert not (folder / "postgres" / "postmaster.pid").exists()
    await server.start()
    assert await rows(server) == [1]


async def test_errors_are_of_the_tree(folder: Path) -> None:
    (folder / "postgres").mkdir()
    (folder / "postgres" / "something").write_text("")
    with pytest.raises(MnemoError):
        await EmbeddedPostgres(folder / "postgres", durable=False).start()
