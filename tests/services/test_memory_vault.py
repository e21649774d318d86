"""The keys of encrypted spaces on a real PostgreSQL: made, changed while in use, and wrapped anew."""

from __future__ import annotations

import ast
import asyncio
import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from asyncpg.exceptions import CheckViolationError

from mnemo_memory import storage
from mnemo_memory.domain.grants import Grant, Part
from mnemo_memory.domain.memory import Change, Draft, Filter, Media, Memory, Provenance, Role, Space, State
from mnemo_memory.domain.ports import Author, Kept, ListPosition
from mnemo_memory.domain.sessions import Checkpoint, Session
from mnemo_memory.domain.working_memory import WorkingItem
from mnemo_memory.storage.key_rotation import KeyRotation
from mnemo_memory.storage.master_rotation import LOOK_SECONDS, MasterRotation
from mnemo_memory.storage.postgres_grants import PostgresGrants
from mnemo_memory.storage.postgres_media import PostgresMedia
from mnemo_memory.storage.postgres_sessions import PostgresSessions
from mnemo_memory.storage.postgres_spaces import PostgresSpaces
from mnemo_memory.storage.postgres_store import PostgresStore
from mnemo_memory.storage.postgres_vault import PostgresVault
from mnemo_memory.storage.postgres_working_memory import PostgresWorkingMemory
from mnemo_memory.storage.sealed_columns import KEY_OF, SEALED_COLUMNS
from mnemocore.errors import IndexLaggingError, KeyUnavailableError, SpaceNotEncryptedError
from mnemocore.ids import MemoryId, SpaceUid, Tenant, new_uuid
from mnemocore.postgres import migrate
from mnemocore.sealing import KEY_BYTES, MasterKey, MasterKeys, SpaceCipher, key_id_of
from mnemocore.testing.clock import ManualClock
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from mnemocore.postgres import Database

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ALICE = Author("alice", NOW)
NEWEST = ListPosition(2**62, 2**62)
FULL = Draft(
    content="the vault is behind the picture",
    metadata={"place": "hall", "n": 3},
    tags=("secret", "house"),
    actor="Ada",
    session="s1",
    provenance=Provenance(sources=("a letter",), agent="butler"),
)


class Keyring:
    """Master keys that a test exchanges. Implements `MasterKeySource`."""

    def __init__(self, *numbers: int) -> None:
        self.hold(*numbers)

    def hold(self, *numbers: int) -> None:
        """Have the master keys of these numbers, the first of them current."""
        self._keys = MasterKeys([master(number) for number in numbers])

    async def keys(self) -> MasterKeys:
        return self._keys


def master(number: int) -> MasterKey:
    return MasterKey(f"m{number}", bytes([number]) * KEY_BYTES)


class Replica:
    """memory-core's stores with a vault of their own, as another process would have them."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self.vault = PostgresVault(database, keyring)
        self.store = PostgresStore(database, self.vault)
        self.spaces = PostgresSpaces(database, self.vault)
        self.media = PostgresMedia(database, self.vault)
        self.working = PostgresWorkingMemory(database, self.vault, self.store)
        self.sessions = PostgresSessions(database, self.vault, self.store)
        self.grants = PostgresGrants(database, self.vault)
        self.settled: list[int] = []
        self.lagging = False
        self.rotation = KeyRotation(database, self.vault, self.store.republish, self._settle)

    async def _settle(self, space: Space, revision: int) -> None:
        if self.lagging:
            raise IndexLaggingError(space=space.name, wanted=str(revision), applied="0")
        self.settled.append(revision)

    async def cipher(self, space: Space) -> SpaceCipher:
        cipher = await self.vault.cipher(space)
        assert cipher is not None
        return cipher

    async def write(self, space: Space, *drafts: Draft) -> list[Memory]:
        created = await self.store.create(space, drafts or [FULL], ALICE, None, each=False)
        return [outcome.memory for outcome in created.outcomes if isinstance(outcome, Kept)]

    async def read(self, space: Space) -> dict[MemoryId, str]:
        """The contents of all memories."""
        found = await self.store.list_memories(space, Filter(), list(State), NEWEST, 10_000, NOW)
        return {memory.id: memory.content for memory in found}


@dataclass
class Keys:
    """What stands in the database about keys."""

    database: Database

    async def data(self, space: Space) -> list[str]:
        """Ids of the data keys, the newest first."""
        return await self._ids("purpose = 1 AND space_uid = $1", UUID(space.uid))

    async def of_master(self, master_id: str) -> list[str]:
        """Ids of the keys of all spaces that are encrypted with a master key."""
        return await self._ids("master_key_id = $1", master_id)

    async def _ids(self, condition: str, value: Any) -> list[str]:
        found = await self.database.fetch(
            f"SELECT key_id FROM memory.space_keys WHERE {condition} ORDER BY number DESC", value
        )
        return [str(row["key_id"]) for row in found]

    async def sealing(self, space: Space) -> set[str]:
        """Ids of the keys with which something is sealed, in whatever column."""
        ids = set()
        for column in SEALED_COLUMNS:
            found = await self.database.fetch(
                f"SELECT {column.name} FROM memory.{column.table} WHERE space_uid = $1 AND {column.condition}",
                UUID(space.uid),
            )
            ids |= {key_id_of(row[column.name]) for row in found}
        return ids


@pytest.fixture
def keyring() -> Keyring:
    return Keyring(1)


@pytest.fixture
async def replica(database: Database, keyring: Keyring) -> Replica:
    await migrate(database, "mnemo_memory.storage.migrations", schema="memory")
    return Replica(database, keyring)


@pytest.fixture
async def space(replica: Replica) -> Space:
    return await make_space(replica, "vault")


@pytest.fixture
def keys(database: Database) -> Keys:
    return Keys(database)


async def make_space(replica: Replica, slug: str, *, encrypted: bool = True) -> Space:
    space = Space(SpaceUid(new_uuid(NOW)), Tenant("acme"), slug, "", 0, 0, 0, 0, NOW, encrypted=encrypted)
    return await replica.spaces.create_space(space, None)


# Keys


async def test_what_is_written_reads_back_and_filters_work(replica: Replica, space: Space) -> None:
    (memory,) = await replica.write(space)
    assert (await replica.store.get(space, [memory.id], NOW))[memory.id] == memory
    for where in (Filter(tags=("secret",)), Filter(actors=("Ada",)), Filter(metadata={"n": 3.0})):
        assert len(await replica.store.list_memories(space, where, [State.ACTIVE], NEWEST, 10, NOW)) == 1
    assert not await replica.store.list_memories(space, Filter(tags=("other",)), [State.ACTIVE], NEWEST, 10, NOW)


async def test_a_space_has_a_data_key_and_a_blinding_key(replica: Replica, space: Space, keys: Keys) -> None:
    cipher = await replica.cipher(space)
    assert [key.id for key in cipher.keys] == await keys.data(space)
    assert len(await keys.of_master("m1")) == 2
    assert await replica.vault.cipher(await make_space(replica, "open", encrypted=False)) is None


async def test_without_a_master_key_no_encrypted_space_is_made(database: Database, replica: Replica) -> None:
    bare = Replica(database, Keyring())
    with pytest.raises(KeyUnavailableError, match="no master key is configured"):
        await make_space(bare, "vault")
    open_space = await make_space(bare, "open", encrypted=False)
    assert await bare.write(open_space)


async def test_a_missing_master_key_stops_its_spaces_and_no_others(
    database: Database, replica: Replica, space: Space, keyring: Keyring
) -> None:
    await replica.write(space)
    keyring.hold(2)
    other = await make_space(replica, "other")
    restarted = Replica(database, keyring)
    with pytest.raises(KeyUnavailableError, match="'m1' is not configured; configured: m2") as caught:
        await restarted.read(space)
    assert caught.value.metadata["key"] == "m1"
    with pytest.raises(KeyUnavailableError):
        await restarted.write(space)
    assert await restarted.write(other)
    keyring.hold(2, 1)
    assert len(await restarted.read(space)) == 1


async def test_the_sweep_goes_on_in_other_spaces_if_a_key_is_missing(
    database: Database, replica: Replica, space: Space, keyring: Keyring
) -> None:
    soon = Draft("of no more use", expires_at=NOW + timedelta(seconds=1))
    await replica.write(space, *[soon] * 3)
    other = await make_space(replica, "open", encrypted=False)
    await replica.write(other, soon, soon)
    later = NOW + timedelta(days=1)
    assert await Replica(database, Keyring()).store.sweep(later, 2) == 2
    assert await replica.store.sweep(later, 10) == 3
    assert await replica.store.sweep(later, 10) == 0


async def test_a_wrong_master_key_is_told_from_a_missing_one(
    database: Database, replica: Replica, space: Space
) -> None:
    class Wrong(Keyring):
        async def keys(self) -> MasterKeys:
            return MasterKeys([MasterKey("m1", bytes(KEY_BYTES))])

    await replica.write(space)
    with pytest.raises(KeyUnavailableError, match="master key 'm1' has other bytes than the one"):
        await Replica(database, Wrong()).read(space)


async def test_nothing_is_sealed_with_a_key_that_is_not_there(
    database: Database, replica: Replica, space: Space
) -> None:
    await replica.write(space)
    with pytest.raises(CheckViolationError, match="a key that its space does not have"):
        await database.execute("UPDATE memory.memories SET sealed = decode(repeat('00', 61), 'hex')")


# Every sealed column is known


async def test_every_column_of_bytes_is_sealed_anew_or_known_not_to_be(database: Database, replica: Replica) -> None:
    found = await database.fetch(
        "SELECT table_name, column_name FROM information_schema.columns "
        "WHERE table_schema = 'memory' AND data_type = 'bytea'"
    )
    unsealed = {
        ("requests", "digest"),  # of the whole request
        ("memories", "content_hash"),  # made with the blinding key
        ("memories", "packed"),  # of spaces that are not encrypted
        ("working_items", "content_hash"),
        ("space_keys", "wrapped"),  # encrypted with a master key
    }
    columns = {(row["table_name"], row["column_name"]) for row in found}
    assert columns == unsealed | {(column.table, column.name) for column in SEALED_COLUMNS}


async def test_every_sealed_column_holds_its_key_and_is_found_by_it(database: Database, replica: Replica) -> None:
    for column in SEALED_COLUMNS:
        assert await database.fetchval(
            "SELECT count(*) FROM pg_trigger WHERE tgrelid = $1::text::regclass AND tgname = $2",
            f"memory.{column.table}",
            f"hold_key_of_{column.name}",
        ), column
        plan = await database.fetch(
            f"EXPLAIN SELECT FROM memory.{column.table} WHERE space_uid = $1 AND {column.condition} "
            f"AND {KEY_OF.format(column.name)} = ANY($2::bytea[])",
            UUID(new_uuid(NOW)),
            [b"x" * 16, b"y" * 16],
        )
        assert f"{column.table}_by_key" in "".join(row[0] for row in plan), column


def test_every_method_that_needs_the_keys_of_a_space_looks_twice() -> None:
    """A method with the space as its first parameter is run again with the keys of now (see `fresh_keys`)."""
    for file in Path(storage.__path__[0]).glob("*.py"):
        tree = ast.parse(file.read_text())
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)):
            takes_space = [argument.arg for argument in function.args.args[:2]] == ["self", "space"]
            if takes_space and "self._vault.cipher(" in ast.unparse(function):
                decorators = [ast.unparse(each) for each in function.decorator_list]
                assert "with_fresh_keys" in decorators, f"{file.name}: {function.name}"


# Another data key


async def fill(replica: Replica, database: Database, space: Space) -> list[Memory]:
    """Something in every sealed column; returns the memories."""
    media = Media(new_uuid(NOW), "text/plain", 6, "ab" * 32)
    await replica.media.put(space, media, [b"abc", b"def"], NOW)
    memories = await replica.write(space, FULL, Draft("with a medium", media=media), Draft("erased later"))
    await replica.store.mutate(space, memories[0].id, "", Change.ARCHIVED, lambda memory: memory, ALICE, None)
    await replica.store.erase(space, memories.pop().id, "", ALICE, None)
    item = WorkingItem(
        new_uuid(NOW), "butler", "s1", Draft("in mind"), protected=True, accesses=1, created_at=NOW, expires_at=None
    )
    await replica.working.push(space, item, 10, None)
    await replica.sessions.start(space, Session("s1", "butler", {"room": "hall"}, NOW), None)
    checkpoint = Checkpoint(new_uuid(NOW), "s1", "before lunch", {"step": 3}, NOW)
    await replica.sessions.create_checkpoint(space, checkpoint, 5, None)
    grant = Grant(
        *(new_uuid(NOW), 0, space.slug, Tenant("globex"), "eve", Role.READ, Part(tags=("secret",)), None, NOW),
        *("alice", space.tenant),
    )
    await replica.grants.create(space, grant, None)
    return memories


async def opened(replica: Replica, database: Database, space: Space) -> dict[str, list[bytes]]:
    """What every sealed column holds."""
    cipher = await replica.cipher(space)
    contents = {}
    for column in SEALED_COLUMNS:
        found = await database.fetch(
            f"SELECT * FROM memory.{column.table} WHERE space_uid = $1 AND {column.condition}", UUID(space.uid)
        )
        plain = [cipher.open(column.subject(row), row[column.name]) for row in found]
        contents[f"{column.table}.{column.name}"] = sorted(plain)
    return contents


async def test_a_new_data_key_replaces_the_old_one_everywhere(
    database: Database, replica: Replica, space: Space, keys: Keys
) -> None:
    memories = await fill(replica, database, space)
    before = await opened(replica, database, space)
    assert all(before.values()), "something in every column"
    (old,) = await keys.data(space)
    new, sealed = await replica.rotation.rotate(space, ALICE)
    assert new != old
    assert await keys.data(space) == [new]
    assert await keys.sealing(space) == {new}
    assert sealed == sum(len(rows) for rows in before.values())
    after = await opened(replica, database, space)
    assert {name: rows for name, rows in after.items() if name != "revisions.sealed"} == {
        name: rows for name, rows in before.items() if name != "revisions.sealed"
    }
    assert (await replica.store.get(space, [memories[0].id], NOW))[memories[0].id].content == FULL.content
    assert await replica.store.list_memories(space, Filter(actors=("Ada",)), list(State), NEWEST, 10, NOW)


async def test_the_memories_are_published_again_before_the_old_key_goes(
    replica: Replica, space: Space, keys: Keys
) -> None:
    await replica.write(space, FULL, Draft("another"))
    replica.lagging = True
    with pytest.raises(IndexLaggingError):
        await replica.rotation.rotate(space, ALICE)
    assert len(await keys.data(space)) == 2, "the old key opens what the index has"
    replica.lagging = False
    await replica.rotation.rotate(space, ALICE)
    revisions = await replica.store.list_revisions(space, None, 0, 100)
    assert [each.change for each in revisions] == [Change.CREATED] * 2 + [Change.REPUBLISHED] * 2
    assert replica.settled == [4], "once: the second call went on where the first one stopped"
    assert len(await keys.data(space)) == 1


async def test_a_rotation_that_was_stopped_goes_on(
    database: Database, replica: Replica, space: Space, keys: Keys
) -> None:
    memories = await replica.write(space, *(Draft(f"note {number}") for number in range(600)))
    stopped = asyncio.create_task(replica.rotation.rotate(space, ALICE))
    some = f"SELECT count(*) FROM memory.memories WHERE {KEY_OF.format('sealed')} = $1"

    async def begun() -> bool:
        ids = await keys.data(space)
        return len(ids) == 2 and bool(await database.fetchval(some, UUID(ids[0]).bytes))

    await until(begun)
    stopped.cancel()
    await asyncio.wait((stopped,))
    assert stopped.cancelled()
    first, *_ = await keys.data(space)
    new, _ = await Replica(database, Keyring(1)).rotation.rotate(space, ALICE)
    assert new == first, "the key that was made before"
    assert await keys.data(space) == [new]
    assert await keys.sealing(space) == {new}
    assert set(await replica.read(space)) == {memory.id for memory in memories}


async def test_only_encrypted_spaces_have_a_key_to_change(replica: Replica) -> None:
    space = await make_space(replica, "open", encrypted=False)
    with pytest.raises(SpaceNotEncryptedError):
        await replica.rotation.rotate(space, ALICE)


async def test_another_replica_reads_and_writes_on(
    database: Database, replica: Replica, space: Space, keyring: Keyring, keys: Keys
) -> None:
    other = Replica(database, keyring)
    (memory,) = await other.write(space)
    stale = await other.cipher(space)
    new, _ = await replica.rotation.rotate(space, ALICE)
    assert await other.vault.cipher(space) is stale, "it has not looked again"
    (added,) = await other.write(space, Draft("sealed with the dropped key at first"))
    assert (await other.cipher(space)).key_id == new
    assert await other.read(space) == {memory.id: FULL.content, added.id: added.content}
    assert await keys.sealing(space) == set(await keys.data(space))


async def test_every_room_reads_on_after_another_replica_changed_the_key(
    database: Database, replica: Replica, space: Space, keyring: Keyring
) -> None:
    await fill(replica, database, space)
    (media_id,) = [str(row["id"]) for row in await database.fetch("SELECT id FROM memory.media")]
    reads: Sequence[Callable[[Replica], Awaitable[object]]] = (
        lambda other: other.read(space),
        lambda other: other.store.list_revisions(space, None, 0, 10),
        lambda other: other.media.find(space, media_id),
        lambda other: other.media.part(space, media_id, 1),
        lambda other: other.working.list_items(space, "butler", "s1", NOW),
        lambda other: other.sessions.get(space, "s1"),
        lambda other: other.sessions.list_checkpoints(space, "s1", None, 10),
        lambda other: other.sessions.restore(space, "s1", "", NOW),
    )
    for read in reads:
        other = Replica(database, keyring)
        await other.cipher(space)
        await replica.rotation.rotate(space, ALICE)
        assert await read(other)


async def test_two_rotations_at_once_end_with_one_key(
    database: Database, replica: Replica, space: Space, keyring: Keyring, keys: Keys
) -> None:
    await fill(replica, database, space)
    other = Replica(database, keyring)
    await asyncio.gather(replica.rotation.rotate(space, ALICE), other.rotation.rotate(space, ALICE))
    assert len(await keys.data(space)) == 1
    assert await keys.sealing(space) == set(await keys.data(space))
    assert len(await other.read(space)) == 2


async def test_reads_and_writes_go_on_while_keys_change(
    database: Database, replica: Replica, space: Space, keyring: Keyring, keys: Keys
) -> None:
    """Three replicas write, change and read without a pause while the key changes five times: all of it succeeds."""
    replicas = [Replica(database, keyring) for _ in range(3)]
    kept: dict[MemoryId, str] = {}
    done = asyncio.Event()

    async def work(name: int, own: Replica) -> None:
        number = 0
        while not done.is_set():
            number += 1
            (memory,) = await own.write(space, Draft(f"{name}-{number}", tags=(str(name),)))
            kept[memory.id] = memory.content
            known = dict(kept)
            found = await own.read(space)
            assert {memory_id: found[memory_id] for memory_id in known} == known
            await own.store.mutate(space, memory.id, "", Change.ARCHIVED, lambda each: each, ALICE, None)
            await own.store.list_revisions(space, memory.id, 0, 10)

    workers = [asyncio.create_task(work(number, own)) for number, own in enumerate(replicas)]
    seen = set()
    try:
        for _ in range(5):
            new, _ = await replica.rotation.rotate(space, ALICE)
            seen.add(new)
    finally:
        done.set()
        await asyncio.gather(*workers)
    assert len(seen) == 5
    new, _ = await replica.rotation.rotate(space, ALICE)
    assert await keys.sealing(space) == {new}
    assert await replica.read(space) == kept


# Other master keys


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


async def test_keys_follow_the_current_master_key(
    database: Database, replica: Replica, keyring: Keyring, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    spaces: Sequence[Space] = [await make_space(replica, f"vault-{number}") for number in range(3)]
    for space in spaces:
        await replica.write(space)
    rotation = MasterRotation(database, keyring, ManualClock())
    keyring.hold(2, 1)
    assert await rotation.wrap_again(await keyring.keys()) == 6
    assert await keys.of_master("m1") == []
    assert "nothing is encrypted with master key m1 any more: it can be removed" in said(caplog)
    keyring.hold(2)
    restarted = Replica(database, keyring)
    for space in spaces:
        assert list((await restarted.read(space)).values()) == [FULL.content]
    assert await rotation.wrap_again(await keyring.keys()) == 0


async def test_more_keys_than_one_batch_and_one_that_does_not_open(
    database: Database, replica: Replica, space: Space, keyring: Keyring, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(300):
        async with database.transaction() as connection:
            await replica.vault.add_data_key(connection, space, NOW)
    damaged = (await keys.data(space))[150]
    await database.execute("UPDATE memory.space_keys SET wrapped = '\\x00' || wrapped WHERE key_id = $1", UUID(damaged))
    keyring.hold(2, 1)
    rotation = MasterRotation(database, keyring, ManualClock())
    assert await rotation.wrap_again(await keyring.keys()) == 301
    assert await keys.of_master("m1") == [damaged]
    assert any(damaged in line and line.startswith("left as it is") for line in said(caplog))


async def test_the_work_begins_by_itself_when_the_master_keys_change(
    database: Database, replica: Replica, space: Space, keyring: Keyring, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    task = asyncio.create_task(MasterRotation(database, keyring, clock).run())
    try:
        await until(lambda: clock.sleepers > 0)
        keyring.hold(2, 1)
        await clock.advance(LOOK_SECONDS)

        async def followed() -> bool:
            return not await keys.of_master("m1")

        await until(followed)
        await until(lambda: clock.sleepers > 0)
        keyring.hold(3)
        await clock.advance(LOOK_SECONDS)
        await until(lambda: "2 keys of spaces are encrypted with master key m2, which is not here" in said(caplog))
    finally:
        task.cancel()
        await asyncio.wait((task,))
