"""Backups of a database: a consistent moment, every value as it was, and no half of anything."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from mnemocore.errors import BackupDamagedError, DataDirectoryError, KeyUnavailableError
from mnemocore.postgres import migrate
from mnemocore.postgres.archive import BLOCK, ArchiveReader, ArchiveWriter, read_header
from mnemocore.postgres.dump import drop, dump, restore, verify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path

    from mnemocore.postgres import Database
    from mnemocore.testing.postgres import TestPostgres

NOW = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
PASSPHRASE = b"correct horse battery staple"
FIRST = """
CREATE TABLE shop.shelves (id uuid PRIMARY KEY, best uuid, note text NOT NULL);
CREATE TABLE shop.things (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    shelf uuid NOT NULL REFERENCES shop.shelves (id),
    name text, data bytea, at timestamptz, price double precision, tags text[], more jsonb, plain json,
    words tsvector, doubled double precision GENERATED ALWAYS AS (price * 2) STORED
);
ALTER TABLE shop.things ADD UNIQUE (shelf, number);
CREATE TABLE shop.ledger (revision bigint PRIMARY KEY, total bigint NOT NULL);
CREATE TABLE shop.head (only_row boolean PRIMARY KEY DEFAULT true, revision bigint NOT NULL);
INSERT INTO shop.head (revision) VALUES (0);
"""
CYCLE = "ALTER TABLE shop.shelves ADD COLUMN favourite bigint REFERENCES shop.things (number) DEFERRABLE;"
PROBES = {
    "shelves": "SELECT id, best, note FROM shop.shelves ORDER BY id",
    "things": "SELECT number, shelf, name, data, at, price, tags, more::text, plain::text, words::text, doubled "
    "FROM shop.things ORDER BY number",
    "head": "SELECT revision FROM shop.head",
    "ledger": "SELECT revision, total FROM shop.ledger ORDER BY revision",
    "migrations": "SELECT number, name, checksum, applied_at FROM shop.migrations ORDER BY number",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Makes a package of SQL files, the same name for the same files."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(*files: str) -> str:
        name = f"dumped_migrations_{abs(hash(files))}"
        folder = tmp_path / name
        if not folder.exists():
            folder.mkdir()
            (folder / "__init__.py").write_text("")
            for number, sql in enumerate(files, 1):
                (folder / f"{number:04}_step.sql").write_text(sql)
        return name

    return make


@pytest.fixture
async def shop(database: Database, package: Callable[..., str]) -> Database:
    """A database with a schema of two migrations and every awkward value in it."""
    await migrate(database, package(FIRST, CYCLE), schema="shop")
    await database.execute(
        "INSERT INTO shop.shelves (id, note) SELECT gen_random_uuid(), 'line one' || chr(10) || 'back\\slash' || "
        "chr(9) || n FROM generate_series(1, 5) AS n"
    )
    await database.execute(
        "INSERT INTO shop.things (shelf, name, data, at, price, tags, more, plain, words) SELECT id, "
        "CASE WHEN n % 3 = 0 THEN NULL WHEN n % 3 = 1 THEN '\\N' ELSE 'Grüße 🦊 ' || chr(13) || chr(10) || '\\.' END, "
        "decode(md5(n::text), 'hex'), CASE n % 4 WHEN 0 THEN 'infinity'::timestamptz ELSE now() END, "
        "CASE n % 5 WHEN 0 THEN 'NaN'::float8 ELSE 1.0 / n END, ARRAY['a', NULL, 'b,\"c'], "
        "'{\"k\": \"v\\n\"}'::jsonb, '{ \"spaced\" : 1 }'::json, to_tsvector('english', 'running foxes') "
        "FROM shop.shelves, generate_series(1, 40) AS n"
    )
    await database.execute("UPDATE shop.shelves SET favourite = (SELECT min(number) FROM shop.things WHERE shelf = id)")
    return database


@pytest.fixture
async def empty(postgres: TestPostgres) -> AsyncIterator[Database]:
    """A second, empty database."""
    url = await postgres.create()
    opened = await postgres.open(url)
    yield opened
    await opened.close()
    await postgres.drop(url)


async def everything(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    return {name: [tuple(row) for row in await database.fetch(query)] for name, query in PROBES.items()}


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE], ids=["open", "encrypted"])
async def test_every_value_comes_back(
    shop: Database, empty: Database, package: Callable[..., str], tmp_path: Path, passphrase: bytes | None
) -> None:
    path = tmp_path / "a.mbk"
    steps: list[tuple[int, int]] = []

    async def describe(connection: Any) -> dict[str, Any]:
        return {"shelves": await connection.fetchval("SELECT count(*) FROM shop.shelves")}

    saved = await dump(
        shop,
        path,
        NOW,
        describe={"shop": describe, "absent": describe},
        passphrase=passphrase,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert saved.tables == {
        "shop.head": 1,
        "shop.ledger": 0,
        "shop.migrations": 2,
        "shop.shelves": 5,
        "shop.things": 200,
    }
    assert saved.contents == {"shop": {"shelves": 5}}
    assert steps == sorted(steps)
    assert steps[-1][0] == steps[-1][1] > 0
    assert await verify(path, passphrase=passphrase) == saved
    assert await restore(empty, path, {"shop": package(FIRST, CYCLE)}, passphrase=passphrase) == saved
    before, after = await everything(shop), await everything(empty)
    assert repr(after) == repr(before)  # by text, for NaN differs from itself
    assert await empty.fetchval("SELECT count(*) FROM pg_constraint WHERE contype = 'f'") == 2
    inserted = "INSERT INTO shop.things (shelf) SELECT id FROM shop.shelves LIMIT 1 RETURNING number"
    assert await empty.fetchval(inserted) == await shop.fetchval(inserted) == 201


async def test_a_snapshot_is_one_moment_while_others_write(
    shop: Database, empty: Database, package: Callable[..., str], tmp_path: Path
) -> None:
    stopped = asyncio.Event()

    async def write() -> None:
        while not stopped.is_set():
            async with shop.transaction() as connection:
                revision = await connection.fetchval("UPDATE shop.head SET revision = revision + 1 RETURNING revision")
                await connection.execute("INSERT INTO shop.ledger VALUES ($1, $2)", revision, revision * 10)
                await connection.execute(
                    "INSERT INTO shop.things (shelf, name) SELECT id, $1 FROM shop.shelves", f"of {revision}"
                )

    writers = [asyncio.create_task(write()) for _ in range(3)]
    for number in range(3):
        while await shop.fetchval("SELECT revision FROM shop.head") < 10 * number:
            await asyncio.gather(*(asyncio.wait([task], timeout=0.01) for task in writers))
        path = tmp_path / f"{number}.mbk"
        await dump(shop, path, NOW)
        await drop(empty, ["shop"])
        await restore(empty, path, {"shop": package(FIRST, CYCLE)})
        head = await empty.fetchval("SELECT revision FROM shop.head")
        assert await empty.fetchval("SELECT count(*) FROM shop.ledger") == head
        assert await empty.fetchval("SELECT count(*) FROM shop.things WHERE name LIKE 'of %'") == 5 * head
    stopped.set()
    await asyncio.gather(*writers)


async def test_an_older_backup_comes_back_as_it_was_and_goes_forward(
    database: Database, empty: Database, package: Callable[..., str], tmp_path: Path
) -> None:
    await migrate(database, package(FIRST), schema="shop")
    await dump(database, tmp_path / "a.mbk", NOW)
    newer = package(FIRST, CYCLE)
    await restore(empty, tmp_path / "a.mbk", {"shop": newer})
    assert await empty.fetchval("SELECT max(number) FROM shop.migrations") == 1
    await migrate(empty, newer, schema="shop")
    assert await empty.fetchval("SELECT count(favourite) FROM shop.shelves") == 0


async def test_a_backup_of_a_newer_version_is_refused(
    shop: Database, empty: Database, package: Callable[..., str], tmp_path: Path
) -> None:
    await dump(shop, tmp_path / "a.mbk", NOW)
    with pytest.raises(DataDirectoryError, match="newer version: schema shop has migration 2"):
        await restore(empty, tmp_path / "a.mbk", {"shop": package(FIRST)})
    with pytest.raises(DataDirectoryError, match="newer version: this one knows no schema shop"):
        await restore(empty, tmp_path / "a.mbk", {"bakery": package(FIRST)})
    assert await empty.fetchval("SELECT to_regnamespace('shop')") is None


async def test_a_database_that_is_not_empty_is_refused(
    shop: Database, package: Callable[..., str], tmp_path: Path
) -> None:
    await dump(shop, tmp_path / "a.mbk", NOW)
    before = await everything(shop)
    with pytest.raises(DataDirectoryError, match="not empty: it holds schema shop with 5 tables"):
        await restore(shop, tmp_path / "a.mbk", {"shop": package(FIRST, CYCLE)})
    assert repr(await everything(shop)) == repr(before)


async def test_nothing_to_save_leaves_no_file(database: Database, tmp_path: Path) -> None:
    with pytest.raises(DataDirectoryError, match="nothing to back up"):
        await dump(database, tmp_path / "a.mbk", NOW)
    assert names_in(tmp_path) == []


async def test_a_backup_never_replaces_a_file(shop: Database, tmp_path: Path) -> None:
    (tmp_path / "a.mbk").write_text("precious")
    with pytest.raises(FileExistsError):
        await dump(shop, tmp_path / "a.mbk", NOW)
    assert (tmp_path / "a.mbk").read_text() == "precious"


def test_an_archive_that_was_finished_and_then_aborted_leaves_no_file(tmp_path: Path) -> None:
    writer = ArchiveWriter(tmp_path / "a.mbk", NOW)
    writer.finish({})
    assert names_in(tmp_path) == ["a.mbk"]
    for _ in range(2):
        writer.abort()
        assert names_in(tmp_path) == []


async def test_an_interrupted_dump_leaves_no_file(shop: Database, tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    for step in range(1, 8):
        start, progress = interrupter(step)
        task = start(dump(shop, folder / "a.mbk", NOW, progress=progress))
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert names_in(folder) == ([] if task.cancelled() else ["a.mbk"])
        (folder / "a.mbk").unlink(missing_ok=True)


async def test_an_interrupted_restore_leaves_nothing(
    shop: Database, empty: Database, package: Callable[..., str], tmp_path: Path
) -> None:
    await dump(shop, tmp_path / "a.mbk", NOW)
    for step in range(1, 6):
        start, progress = interrupter(step)
        restoring = restore(empty, tmp_path / "a.mbk", {"shop": package(FIRST, CYCLE)}, progress=progress)
        with pytest.raises(asyncio.CancelledError):
            await start(restoring)
        assert await empty.fetchval("SELECT to_regnamespace('shop')") is None


async def test_damage_ends_a_restore_with_nothing(
    shop: Database, empty: Database, package: Callable[..., str], tmp_path: Path
) -> None:
    path, hurt = tmp_path / "a.mbk", tmp_path / "b.mbk"
    await dump(shop, path, NOW)
    whole = path.read_bytes()
    for position in random.Random(7).sample(range(len(whole)), 15):
        hurt.write_bytes(damaged(whole, position))
        with pytest.raises(BackupDamagedError):
            await restore(empty, hurt, {"shop": package(FIRST, CYCLE)})
        assert await empty.fetchval("SELECT to_regnamespace('shop')") is None


async def test_verify_finds_any_damaged_byte_and_any_cut(shop: Database, tmp_path: Path) -> None:
    path, hurt = tmp_path / "a.mbk", tmp_path / "b.mbk"
    await dump(shop, path, NOW)
    whole = path.read_bytes()
    chosen = random.Random(11)
    for position in [*range(200), *chosen.sample(range(len(whole)), 300), *range(len(whole) - 40, len(whole))]:
        hurt.write_bytes(damaged(whole, position))
        with pytest.raises(BackupDamagedError):
            await verify(hurt)
    for length in [0, 1, 8, 12, len(whole) - 1, len(whole) - 32, *chosen.sample(range(len(whole)), 60)]:
        hurt.write_bytes(whole[:length])
        with pytest.raises(BackupDamagedError):
            await verify(hurt)
    hurt.write_bytes(whole + b"x")
    with pytest.raises(BackupDamagedError):
        await verify(hurt)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def interrupter(
    step: int,
) -> tuple[Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]], Callable[[int, int], None]]:
    """What starts a task, and a progress that cancels it at its `step`-th report."""
    tasks: list[asyncio.Task[Any]] = []
    reports = itertools.count(1)

    def start(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        tasks.append(asyncio.create_task(work))
        return tasks[0]

    def progress(done: int, total: int) -> None:
        if next(reports) == step:
            tasks[0].cancel()

    return start, progress


def damaged(whole: bytes, position: int) -> bytes:
    changed = bytearray(whole)
    changed[position] ^= 1 << (position % 8)
    return bytes(changed)


def sealed_archive(path: Path, size: int) -> None:
    writer = ArchiveWriter(path, NOW, PASSPHRASE)
    writer.begin("table", {"schema": "secret-schema"})
    writer.write(random.Random(3).randbytes(size) + b"a secret line\n" * 100)
    writer.end()
    writer.finish({"secret-key": 1})


def read_all(path: Path, passphrase: bytes | None = PASSPHRASE) -> int:
    with ArchiveReader(path, passphrase) as archive:
        total = 0
        while archive.next_section() is not None:
            while data := archive.read():
                assert len(data) <= BLOCK
                total += len(data)
        return total


def test_an_encrypted_archive_tells_only_its_header(tmp_path: Path) -> None:
    path = tmp_path / "a.mbk"
    sealed_archive(path, 1000)
    content = path.read_bytes()
    assert b"secret" not in content
    assert read_header(path).created_at == NOW
    assert read_header(path).encrypted
    assert read_all(path) == 1000 + 1400
    with pytest.raises(KeyUnavailableError, match="is encrypted; name its passphrase"):
        read_all(path, None)
    with pytest.raises(BackupDamagedError, match="the passphrase is another one"):
        read_all(path, b"wrong")


def test_chunks_cannot_be_changed_moved_or_left_out(tmp_path: Path) -> None:
    """Each is tried with the digest of the file made right again, as an attacker would."""
    path, hurt = tmp_path / "a.mbk", tmp_path / "b.mbk"
    sealed_archive(path, 3 * BLOCK)
    content = path.read_bytes()[:-32]
    start = 12 + int.from_bytes(content[8:12], "big") + 32
    chunks = []
    place = start
    while place < len(content):
        length = int.from_bytes(content[place : place + 4], "big") & ~(1 << 31)
        chunks.append(content[place : place + 4 + length])
        place += 4 + length
    assert len(chunks) == 4
    first, second, third, last = chunks
    as_last = bytes([third[0] | 0x80]) + third[1:]
    changed = second[:100] + bytes([second[100] ^ 1]) + second[101:]
    for altered in (
        [second, first, third, last],
        [first, third, last],
        [first, second, third],
        [first, second, as_last],
        [first, second, second, last],
        [first, changed, third, last],
        [first, second, third, last, last],
    ):
        body = content[:start] + b"".join(altered)
        hurt.write_bytes(body + hashlib.sha256(body).digest())
        with pytest.raises(BackupDamagedError):
            read_all(hurt)
    assert read_all(path) == 3 * BLOCK + 1400


def test_an_archive_of_a_newer_format_says_so(tmp_path: Path) -> None:
    header = b'{"format": 99, "product": "9.0.0", "created_at": "2030-01-01T00:00:00+00:00"}'
    preamble = b"MNEMOBK\n" + len(header).to_bytes(4, "big") + header
    (tmp_path / "a.mbk").write_bytes(preamble + hashlib.sha256(preamble).digest())
    with pytest.raises(DataDirectoryError, match=r"newer version .format 99, this version reads up to 1"):
        read_header(tmp_path / "a.mbk")
