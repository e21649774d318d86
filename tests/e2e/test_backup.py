"""Backups of real installations: what comes back answers as before, and nothing half is ever left."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from tests.e2e.conftest import eventually

from mnemo_cli.backup_files import Keep, find, kept, name_at, superfluous
from mnemo_embedded.backup import BackTo, back_up, restore_directory
from mnemo_embedded.drill import Live, drill, part_of
from mnemo_embedded.store import open_store
from mnemocore import connect
from mnemocore.common.v1.resources_pb2 import Consistency, ConsistencyToken
from mnemocore.data_directory import DataDirectory
from mnemocore.errors import DataDirectoryError, InvalidFieldError, SpaceNotFoundError
from mnemocore.ids import Tenant
from mnemocore.master_keys import FixedMasterKeys
from mnemocore.memory.v1 import memory_service_pb2, memory_service_pb2_grpc
from mnemocore.sealing import MasterKeys
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.conftest import Server

    from mnemocore.client import Connection

ROOT = Path(__file__).parents[2]
SUBJECTS = ("kettle", "teapot", "lantern", "compass", "ladder", "umbrella", "violin", "anchor", "blanket", "chisel")
PLACES = ("cupboard", "attic", "garden shed", "harbour", "workshop", "library")


def mnemo(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The end of a `mnemo` command; its standard error never holds a traceback."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MNEMO_")}
    environ |= {"PYTHONPATH": os.pathsep.join([str(ROOT / "libs"), str(ROOT / "services")])} | (env or {})
    command = [sys.executable, "-m", "mnemo_cli", *arguments]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=100, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done


async def command(*arguments: str, code: int = 0, env: dict[str, str] | None = None) -> str:
    done = await asyncio.to_thread(mnemo, *arguments, env=env)
    assert done.returncode == code, f"{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


async def answer(*arguments: str, env: dict[str, str] | None = None) -> Any:
    done = await asyncio.to_thread(mnemo, *arguments, "--json", env=env)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return json.loads(done.stdout)


async def fill(mnemo: Connection, count: int = 30) -> None:
    """Two spaces with things in places, one of them with a history."""
    for space in ("home", "work"):
        texts = [f"the {SUBJECTS[n % 10]} number {n} is in the {PLACES[n % 6]} of {space}" for n in range(count)]
        for text in texts:
            await mnemo.space(space).remember(text, tags=("things",), metadata={"of": space})
    first = [memory async for memory in mnemo.space("home").list(page_size=1000)]
    await mnemo.space("home").forget(first[0].id)
    await mnemo.space("home").forget(first[1].id, purge=True)


async def answers(mnemo: Connection) -> dict[str, list[str]]:
    return {
        f"{space} {subject}": [
            hit.memory.id
            for hit in await mnemo.space(space).recall(
                f"Where is the {subject}?", profile="semantic", fully_consistent=True
            )
        ]
        for space in ("home", "work")
        for subject in SUBJECTS[:5]
    }


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


async def test_everything_goes_on_after_a_restore(tmp_path: Path) -> None:
    """Recall, ids, history, API keys, consistency tokens, positions of events, and writing."""
    live, new = tmp_path / "live", tmp_path / "new"
    async with connect(f"embedded:{live}") as mnemo:
        await fill(mnemo)
        key = await mnemo.create_api_key("reader", ["memory:read"])
        stub = mnemo.stub(memory_service_pb2_grpc.MemoryServiceStub)
        request = memory_service_pb2.RecallMemoriesRequest(
            parent="spaces/home", query="kettle", consistency=Consistency(fully_consistent=True)
        )
        token = (await stub.RecallMemories(request, timeout=60)).read_at.value
        expected = await answers(mnemo)
        history = [each async for each in mnemo.space("home").history()]
    saved = await answer("backup", "create", "--to", str(tmp_path / "b"), "--data-dir", str(live))
    archive = Path(saved["path"])
    assert saved["spaces"] == 2
    assert names_in(tmp_path / "b") == {archive.name}
    assert mode_of(archive) == 0o600
    whole = await answer("backup", "verify", str(archive))
    assert whole["tables"] == saved["tables"]
    await command("backup", "restore", str(archive), "--data-dir", str(new))
    assert not (new / "index").exists()
    async with connect(f"embedded:{new}") as mnemo:
        assert await answers(mnemo) == expected
        assert [each async for each in mnemo.space("home").history()] == history
        assert [each.id async for each in mnemo.list_api_keys()] == [key.api_key.id]
        request.consistency.CopyFrom(Consistency(at_least_as_fresh=ConsistencyToken(value=token)))
        stub = mnemo.stub(memory_service_pb2_grpc.MemoryServiceStub)
        assert (await stub.RecallMemories(request, timeout=60)).read_at.value == token
        kept_now = await mnemo.space("home").remember("the telescope is on the roof")
        hits = await mnemo.space("home").recall("Where is the telescope?")
        assert hits[0].memory.id == kept_now.id
    await assert_log_follows(new)


async def assert_log_follows(directory: Path) -> None:
    """Every revision is in the log once, in order, without a gap in the positions."""
    async with open_store(directory) as database:
        revisions = await database.fetch("SELECT space_uid, revision FROM memory.revisions ORDER BY 1, 2")
        events = await database.fetch(
            "SELECT space_uid, revision FROM events.log WHERE space_uid IS NOT NULL ORDER BY 1, 2"
        )
        assert [tuple(row) for row in events] == [tuple(row) for row in revisions]
        assert await database.fetchval("SELECT (SELECT position FROM events.head) = max(position) FROM events.log")


async def test_a_served_directory_is_saved_while_it_is_written_to(
    run_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = run_server("serve", tmp_path / "live")
    stopped = asyncio.Event()
    written: list[str] = []

    async def write(space: str) -> None:
        async with connect(server.address) as mnemo:
            while not stopped.is_set():
                kept = await mnemo.space(space).remember(f"line {len(written)} of {space}")
                written.append(kept.id)

    writers = [asyncio.create_task(write(space)) for space in ("a", "b", "c")]
    await eventually(lambda: len(written) > 30)
    before = set(written)
    saved = await answer("backup", "create", "--to", str(tmp_path / "b"), "--data-dir", str(tmp_path / "live"))
    after = len(written)
    await eventually(lambda: len(written) > after)
    stopped.set()
    await asyncio.gather(*writers)
    assert server.stop() == 0
    await restore_directory(tmp_path / "new", Path(saved["path"]), passphrase=None, durable=False)
    async with open_store(tmp_path / "new", durable=False) as database:
        spaces = await database.fetch(
            "SELECT s.revision, s.active, "
            "(SELECT count(*) FROM memory.memories m WHERE m.space_uid = s.uid) AS memories, "
            "(SELECT count(*) FROM memory.revisions r WHERE r.space_uid = s.uid) AS revisions, s.published_revision, "
            "(SELECT count(*) FROM events.log e WHERE e.space_uid = s.uid) AS events FROM memory.spaces s"
        )
        assert len(spaces) == 3
        for row in spaces:
            assert row["revision"] == row["active"] == row["memories"] == row["revisions"]
            assert row["published_revision"] <= row["events"] <= row["revision"]
        restored = {str(row["id"]) for row in await database.fetch("SELECT id FROM memory.memories")}
    assert before <= restored <= set(written)
    async with connect(f"embedded:{tmp_path / 'new'}") as mnemo:
        for space in ("a", "b", "c"):
            hits = await mnemo.space(space).recall("line", limit=1000, fully_consistent=True)
            assert len(hits) == (await mnemo.space(space).info()).active_memories
    await assert_log_follows(tmp_path / "new")


async def test_an_encrypted_backup_tells_nothing_without_its_passphrase(tmp_path: Path) -> None:
    live = tmp_path / "live"
    async with connect(f"embedded:{live}") as mnemo:
        await mnemo.space("home").remember("the zeppelin is in the harbour")
    (tmp_path / "pass").write_text("correct horse\n")
    (tmp_path / "wrong").write_text("battery staple\n")
    env = {"MNEMO_BACKUP_PASSPHRASE": "correct horse"}
    saved = await answer("backup", "create", "--to", str(tmp_path / "b"), "--data-dir", str(live), env=env)
    archive = Path(saved["path"])
    content = await asyncio.to_thread(archive.read_bytes)
    for word in (b"zeppelin", b"harbour", b"memories", b"correct horse", b"spaces"):
        assert word not in content
    (listed,) = await answer("backup", "list", str(tmp_path / "b"))
    assert listed["encrypted"] is True
    assert "name its passphrase" in await command("backup", "verify", str(archive), code=1)
    wrong = ("--passphrase-file", str(tmp_path / "wrong"))
    assert "the passphrase is another one" in await command("backup", "verify", str(archive), *wrong, code=2)
    new = tmp_path / "new"
    assert "another one" in await command("backup", "restore", str(archive), "--data-dir", str(new), *wrong, code=2)
    assert not new.exists()
    right = ("--passphrase-file", str(tmp_path / "pass"))
    await command("backup", "verify", str(archive), *right)
    await command("backup", "restore", str(archive), "--data-dir", str(new), *right)
    async with connect(f"embedded:{new}") as mnemo:
        hits = await mnemo.space("home").recall("zeppelin", fully_consistent=True)
        assert [hit.memory.content for hit in hits] == ["the zeppelin is in the harbour"]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data directory and a backup of it, for tests that only read them."""
    folder = tmp_path_factory.mktemp("sample")
    live, archive = folder / "live", folder / name_at(datetime.now(UTC))

    async def make() -> None:
        async with connect(f"embedded:{live}") as mnemo:
            await fill(mnemo)
            await answers(mnemo)
        async with open_store(live) as database:
            await back_up(database, archive, datetime.now(UTC), passphrase=None, progress=None)

    asyncio.run(make())
    return live, archive


async def test_damage_is_exit_code_2_and_restores_nothing(sample: tuple[Path, Path], tmp_path: Path) -> None:
    content = bytearray(sample[1].read_bytes())
    content[len(content) // 2] ^= 4
    hurt = tmp_path / "hurt.mbk"
    hurt.write_bytes(content)
    for arguments in (["verify", str(hurt)], ["restore", str(hurt), "--data-dir", str(tmp_path / "new")]):
        told = await command("backup", *arguments, code=2)
        assert told.startswith(f"error: backup {hurt} is damaged: ")
        assert told.count("\n") == 1
    assert names_in(tmp_path) == {"hurt.mbk"}


async def test_a_directory_that_is_not_empty_is_refused(sample: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(DataDirectoryError, match=r"is not empty: it holds thesis\.txt"):
        await restore_directory(tmp_path, sample[1], passphrase=None)
    with pytest.raises(
        DataDirectoryError, match=r"is not empty: it holds FORMAT, admin\.key, index, mnemo\.lock, postgres"
    ):
        await restore_directory(sample[0], sample[1], passphrase=None)
    assert names_in(tmp_path) == {"thesis.txt"}


@pytest.mark.parametrize("existed", [True, False])
async def test_a_cancelled_restore_leaves_the_directory_as_it_was(
    sample: tuple[Path, Path], tmp_path: Path, existed: bool
) -> None:
    new = tmp_path / "new"
    if existed:
        new.mkdir()
    tasks: list[asyncio.Task[Any]] = []

    def interrupt(done: int, total: int) -> None:
        tasks[0].cancel()

    work = restore_directory(new, sample[1], passphrase=None, durable=False, progress=interrupt)
    tasks.append(asyncio.create_task(work))
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    assert names_in(tmp_path) == ({"new"} if existed else set())
    assert names_in(new) == set()


async def test_a_killed_restore_is_never_served_and_can_be_repeated(sample: tuple[Path, Path], tmp_path: Path) -> None:
    new = tmp_path / "new"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mnemo_cli", "backup", "restore", str(sample[1]), "--data-dir", str(new)),
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "libs"), str(ROOT / "services")])},
    )
    await eventually((new / "postgres").exists)
    process.kill()
    await process.wait()
    assert await asyncio.to_thread(DataDirectory.is_unfinished, new)
    with pytest.raises(DataDirectoryError, match="holds half of a backup"):
        await connect(f"embedded:{new}").open()
    await restore_directory(new, sample[1], passphrase=None, durable=False)
    async with connect(f"embedded:{new}") as mnemo:
        assert (await mnemo.space("work").info()).active_memories == 30


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_create_leaves_no_file(
    sample: tuple[Path, Path], tmp_path: Path, number: signal.Signals
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mnemo_cli", "backup", "create", "--data-dir", str(sample[0])),
        *("--to", str(tmp_path / "b")),
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "libs"), str(ROOT / "services")])},
        stderr=asyncio.subprocess.PIPE,
    )
    await eventually((tmp_path / "b").exists)
    served = await eventually_served(sample[0])
    assert served
    process.send_signal(number)
    _, told = await process.communicate()
    if process.returncode != 0:  # it may have been quicker
        assert process.returncode in (130, 1)
        assert names_in(tmp_path / "b") == set()
        assert b"Traceback" not in told
    assert all(not name.endswith(".partial") for name in names_in(tmp_path / "b"))


async def eventually_served(directory: Path) -> bool:
    """Whether a process has taken the directory, within a minute."""
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        if await asyncio.to_thread(DataDirectory.served_by, directory):
            return True
    return False


async def test_a_space_goes_back_and_rows_log_and_index_agree(tmp_path: Path) -> None:
    live, new, archive = tmp_path / "live", tmp_path / "new", tmp_path / "a.mbk"
    async with connect(f"embedded:{live}") as mnemo:
        space = mnemo.space("home")
        kettle = await space.remember("the kettle is in the cupboard")
        teapot = await space.remember("the teapot is in the attic")
        revision = (await space.info()).revision
        await space.forget(teapot.id)
        poison = await space.remember("the kettle was never in the cupboard but in the volcano")
        await mnemo.space("work").remember("the chisel is in the workshop")
    async with open_store(live) as database:
        await back_up(database, archive, datetime.now(UTC), passphrase=None, progress=None)
    keys = FixedMasterKeys(MasterKeys())
    for space_name, number, error in (("nowhere", 1, SpaceNotFoundError), ("home", 99, InvalidFieldError)):
        with pytest.raises(error):
            back_to = BackTo(Tenant("local"), space_name, number, keys)
            await restore_directory(new, archive, passphrase=None, back_to=back_to, durable=False)
        assert not new.exists()
    back = ("--space", "home", "--at-revision", str(revision))
    told = await command("backup", "restore", str(archive), "--data-dir", str(new), *back)
    assert "space home: 1 memories as they were, 1 later ones erased" in told
    async with connect(f"embedded:{new}") as mnemo:
        space = mnemo.space("home")
        hits = await space.recall("Where are the kettle and the teapot?", fully_consistent=True)
        assert {hit.memory.id for hit in hits} == {kettle.id, teapot.id}
        assert {memory.id async for memory in space.list()} == {kettle.id, teapot.id}
        assert poison.id not in {hit.memory.id for hit in await space.recall("volcano", fully_consistent=True)}
        info = await space.info()
        assert (info.active_memories, info.archived_memories) == (2, 0)
        assert info.revision > revision
        assert (await mnemo.space("work").info()).active_memories == 1

        async def published() -> bool:
            info = await space.info()
            return info.published_revision == info.revision

        await until(published)
    await assert_log_follows(new)
    async with open_store(new) as database:
        assert (
            await database.fetch("SELECT type, revision FROM events.log WHERE position('volcano'::bytea IN data) > 0")
            == []
        )


async def test_a_backup_goes_into_an_empty_database(
    sample: tuple[Path, Path], database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "url").write_text(database_url + "\n")
    arguments = ("backup", "restore", str(sample[1]), "--database-url-file", str(tmp_path / "url"))
    refused = await command(*arguments, "--space", "home", "--at-revision", "999", code=1)
    assert "999; spaces/home has the revisions 0 to 32" in refused
    connection = await asyncpg.connect(database_url)
    assert await connection.fetchval("SELECT to_regnamespace('memory')") is None
    told = await command(*arguments, "--space", "home", "--at-revision", "30")
    assert "space home: 1 memories as they were, 0 later ones erased" in told
    assert "1 memories were erased since revision 30; their content cannot come back" in told
    assert await connection.fetchval("SELECT active FROM memory.spaces WHERE slug = 'home'") == 29
    assert "the database is not empty: it holds schema cognitive with " in await command(*arguments, code=1)
    saved = await answer("backup", "create", "--to", str(tmp_path / "b"), env={"MNEMO_DATABASE_URL": database_url})
    assert saved["spaces"] == 2
    await connection.close()


async def test_a_drill_passes_and_leaves_nothing(sample: tuple[Path, Path], tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    told = await answer(
        *("backup", "drill", str(sample[1].parent), "--data-dir", str(sample[0]), "--work-dir", str(work)),
        *("--recalls", "20"),
    )
    assert (told["passed"], told["found"], told["differences"]) == (True, 0, [])
    assert told["live"] == "compared"
    assert told["recalls"] == told["compared_with_live"] == 20
    assert told["spaces"] == 2
    assert names_in(work) == set()


async def test_a_drill_without_a_living_installation_asks_for_the_memories_themselves(
    sample: tuple[Path, Path], tmp_path: Path
) -> None:
    report = await drill(sample[1], Live(), passphrase=None, folder=tmp_path, recalls=30, seed=3)
    assert report.passed, report.differences
    assert (report.live, report.recalls, report.compared_with_live) == ("not reachable", 30, 0)
    assert names_in(tmp_path) == set()


async def test_a_drill_makes_its_own_backup(sample: tuple[Path, Path], tmp_path: Path) -> None:
    told = await command("backup", "drill", "--data-dir", str(sample[0]), "--recalls", "3")
    assert "passed in" in told
    nothing = await command("backup", "drill", "--data-dir", str(tmp_path / "none"), code=1)
    assert "neither a backup nor an installation" in nothing


async def test_a_drill_finds_a_planted_difference(tmp_path: Path) -> None:
    """A memory that was changed behind the back of memory-core: revisions say nothing, contents do."""
    live, archive = tmp_path / "live", tmp_path / "a.mbk"
    async with connect(f"embedded:{live}") as mnemo:
        await fill(mnemo, 6)
    async with open_store(live) as database:
        await back_up(database, archive, datetime.now(UTC), passphrase=None, progress=None)
        await database.execute(
            "UPDATE memory.memories SET content = 'altered', content_hash = sha256(content_hash) WHERE id = "
            "(SELECT min(id::text)::uuid FROM memory.memories)"
        )
    told = await command("backup", "drill", str(archive), "--data-dir", str(live), "--recalls", "5", code=2)
    assert "difference: space local/" in told
    assert "digest" in told
    assert "FAILED" in told
    async with open_store(live) as database:
        await database.execute("UPDATE memory.spaces SET revision = revision + 1 WHERE slug = 'work'")
    told = await command("backup", "drill", str(archive), "--data-dir", str(live), "--recalls", "5")
    assert "living installation: changed since" in told


@pytest.mark.parametrize("seed", range(20))
def test_a_query_is_a_part_of_the_memory(seed: int) -> None:
    content = "  ".join(f"word{number}" for number in range(random.Random(seed).randint(1, 40)))
    part = part_of(content, str(seed))
    assert part == part_of(content, str(seed))
    assert part in " ".join(content.split())
    assert 1 <= len(part.split()) <= 12


START = datetime(2026, 3, 31, 3, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("keep", "ages", "wanted"),
    [
        (Keep(), [], []),
        (Keep(), [0], [0]),
        (Keep(0, 0, 0), [0, 1, 2], [0]),
        (Keep(7, 0, 0), range(10), range(7)),
        (Keep(2, 0, 0), [0, 0.1, 0.12, 1, 1.1, 2], [0, 1]),
        (Keep(2, 0, 0), [0, 10, 20], [0, 10]),
        (Keep(0, 2, 0), range(20), [0, 2]),
        (Keep(0, 0, 3), range(100), [0, 31, 59]),
        (Keep(3, 2, 2), range(60), [0, 1, 2, 31]),
        (Keep(1, 1, 1), [5, 400], [5]),
        (Keep(0, 0, 2), [5, 400], [5, 400]),
    ],
)
def test_what_is_kept(keep: Keep, ages: Any, wanted: Any) -> None:
    moments = {age: START - timedelta(days=age) for age in ages}
    assert kept(moments.values(), keep) == {moments[age] for age in wanted}


def test_prune_deletes_only_what_it_made(tmp_path: Path) -> None:
    old = [name_at(START - timedelta(days=age)) for age in range(12)]
    strangers = ["mnemo-2020.mbk", "mnemo-20200101T000000Z.mbk.txt", "thesis.mbk", "mnemo-20209901T000000Z.mbk"]
    for name in [*old, *strangers]:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / name_at(START - timedelta(days=900))).mkdir()
    (tmp_path / name_at(START - timedelta(days=901))).symlink_to(tmp_path / "thesis.mbk")
    stale, fresh = (tmp_path / f".{name_at(START - timedelta(days=days))}.partial" for days in (30, 31))
    for path in (stale, fresh):
        path.write_bytes(b"")
    os.utime(stale, (1, 1))
    before = names_in(tmp_path)
    options = ("prune", str(tmp_path), "--daily", "3", "--weekly", "0", "--monthly", "0")
    told = mnemo("backup", *options, "--dry-run")
    assert told.returncode == 0
    assert names_in(tmp_path) == before
    assert mnemo("backup", *options).stdout.endswith("3 backups stay\n")
    assert before - names_in(tmp_path) == {*old[3:], stale.name}
    assert superfluous(tmp_path, Keep(3, 0, 0)) == []
    assert [file.path.name for file in find(tmp_path)] == old[:3]
