"""The keyring on a real PostgreSQL, with a clock that is turned."""

from __future__ import annotations

import asyncio
import base64
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from mnemo_gateway.domain.keyring import CACHE_SECONDS, Keyring
from mnemo_gateway.storage.postgres_keys import PostgresKeys
from mnemocore.calls import Identity
from mnemocore.errors import (
    ApiKeyNotFoundError,
    InvalidFieldError,
    PageTokenMismatchError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from mnemocore.ids import ApiKeyId, Tenant, new_uuid
from mnemocore.postgres import migrate
from mnemocore.testing.clock import ManualClock
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from mnemo_gateway.domain.api_key import ApiKey
    from mnemo_gateway.domain.ports import KeyStore
    from mnemocore.postgres import Database

ACME, GLOBEX = Tenant("acme"), Tenant("globex")
ROOT = Identity(ACME, "root", frozenset({"*"}))
ADMIN = Identity(ACME, "admin", frozenset({"gateway:admin", "memory:read", "events:admin"}))


class WatchedKeys:
    """A store of keys that passes everything on to a real one, counts what is read, and can hold an answer back."""

    def __init__(self, store: KeyStore) -> None:
        self._store = store
        self.read = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def add(self, key: ApiKey) -> None:
        await self._store.add(key)

    async def find(self, key_id: ApiKeyId) -> ApiKey | None:
        found = await self._store.find(key_id)
        self.read += 1
        await self.may_answer.wait()
        return found

    async def list(self, tenant: Tenant | None, after: ApiKeyId | None, limit: int) -> list[ApiKey]:
        return await self._store.list(tenant, after, limit)

    async def revoke(self, tenant: Tenant | None, key_id: ApiKeyId, now: datetime) -> bool:
        return await self._store.revoke(tenant, key_id, now)


@pytest.fixture
async def store(database: Database) -> WatchedKeys:
    await migrate(database, "mnemo_gateway.storage.migrations", schema="gateway")
    return WatchedKeys(PostgresKeys(database))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def keyring(store: WatchedKeys, clock: ManualClock) -> Keyring:
    return Keyring(store, clock)


async def issue(
    keyring: Keyring, *scopes: str, tenant: str = "", expires_at: datetime | None = None
) -> tuple[ApiKey, str]:
    return await keyring.create(ROOT, tenant, "ada", scopes or ("memory:read",), expires_at)


async def refused(keyring: Keyring, secret: str) -> bool:
    try:
        await keyring.identify(secret)
    except UnauthenticatedError:
        return True
    return False


async def test_a_secret_identifies_its_holder(keyring: Keyring) -> None:
    key, secret = await issue(keyring, "memory:read", "events:read", tenant="globex")
    assert await keyring.identify(secret) == Identity(GLOBEX, "ada", frozenset({"memory:read", "events:read"}))
    assert key.name.removeprefix("apiKeys/") in {each.id for each in (await keyring.list(ROOT, 0, ""))[0]}


async def test_any_other_secret_is_refused(keyring: Keyring) -> None:
    _, secret = await issue(keyring)
    _, other = await issue(keyring)
    await keyring.identify(secret)
    for wrong in (
        "",
        "x",
        secret[:-1],
        secret + "x",
        secret.upper(),
        secret[:38] + other[38:],
        other[:38] + secret[38:],
    ):
        assert await refused(keyring, wrong), wrong


async def test_a_key_ends_at_its_moment_though_it_is_cached(keyring: Keyring, clock: ManualClock) -> None:
    _, secret = await issue(keyring, expires_at=clock.now() + timedelta(seconds=2))
    await clock.advance(1.999)
    assert not await refused(keyring, secret)
    await clock.advance(0.001)
    assert await refused(keyring, secret)


async def test_the_store_is_asked_again_after_five_seconds(
    keyring: Keyring, store: WatchedKeys, clock: ManualClock
) -> None:
    _, secret = await issue(keyring)
    for _ in range(3):
        await keyring.identify(secret)
    assert store.read == 1
    await clock.advance(CACHE_SECONDS - 0.001)
    await keyring.identify(secret)
    assert store.read == 1
    await clock.advance(0.001)
    await keyring.identify(secret)
    assert store.read == 2


async def test_a_revoked_key_ends_here_at_once_and_elsewhere_within_five_seconds(
    keyring: Keyring, store: WatchedKeys, clock: ManualClock
) -> None:
    elsewhere = Keyring(store, clock)
    key, secret = await issue(keyring)
    await keyring.identify(secret)
    await elsewhere.identify(secret)
    await keyring.revoke(ROOT, key.id)
    assert await refused(keyring, secret)
    await clock.advance(CACHE_SECONDS)
    assert await refused(elsewhere, secret)
    await keyring.revoke(ROOT, key.id)
    assert (await keyring.list(ROOT, 0, ""))[0] == []


async def test_a_key_revoked_while_it_is_looked_up_is_not_remembered(keyring: Keyring, store: WatchedKeys) -> None:
    key, secret = await issue(keyring)
    store.may_answer.clear()
    async with asyncio.TaskGroup() as calls:
        calls.create_task(keyring.identify(secret))
        await until(lambda: store.read > 0)
        await keyring.revoke(ROOT, key.id)
        store.may_answer.set()
    assert await refused(keyring, secret)


@pytest.mark.parametrize("scope", ["*", "memory:write", "memory:admin", "cognitive:read"])
async def test_nobody_gives_more_than_they_have(keyring: Keyring, scope: str) -> None:
    with pytest.raises(PermissionDeniedError, match="lacks the scope") as caught:
        await keyring.create(ADMIN, "", "eve", ["memory:read", scope], None)
    assert caught.value.metadata == {"scope": scope}
    assert (await keyring.list(ROOT, 0, ""))[0] == []


async def test_an_admin_of_an_area_gives_all_of_it(keyring: Keyring) -> None:
    scopes = ["events:read", "events:write", "events:admin", "gateway:admin", "memory:read"]
    _, secret = await keyring.create(ADMIN, "", "bob", scopes, None)
    assert (await keyring.identify(secret)).scopes == frozenset(scopes)


async def test_another_tenant_is_out_of_reach(keyring: Keyring) -> None:
    theirs, secret = await issue(keyring, tenant="globex")
    with pytest.raises(PermissionDeniedError, match="another tenant"):
        await keyring.create(ADMIN, "globex", "eve", ["memory:read"], None)
    with pytest.raises(ApiKeyNotFoundError):
        await keyring.revoke(ADMIN, theirs.id)
    assert not await refused(keyring, secret)
    ours, _ = await keyring.create(ADMIN, "acme", "bob", ["memory:read"], None)
    assert [key.id for key in (await keyring.list(ADMIN, 0, ""))[0]] == [ours.id]
    assert {key.id for key in (await keyring.list(ROOT, 0, ""))[0]} == {ours.id, theirs.id}
    await keyring.revoke(ROOT, theirs.id)
    assert await refused(keyring, secret)


async def test_a_key_that_does_not_exist_cannot_be_revoked(keyring: Keyring, clock: ManualClock) -> None:
    with pytest.raises(ApiKeyNotFoundError):
        await keyring.revoke(ROOT, ApiKeyId(new_uuid(clock.now())))


async def test_everything_wrong_with_a_new_key_is_named_at_once(keyring: Keyring, clock: ManualClock) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        await keyring.create(ROOT, "", "ada", ["memory:read", "memory:fly", ""], clock.now())
    assert [violation.field for violation in caught.value.violations] == ["scopes[1]", "scopes[2]", "expire_time"]


async def test_secrets_are_nowhere_in_the_database(keyring: Keyring, database: Database) -> None:
    key, secret = await issue(keyring)
    random = secret.rpartition(key.id.replace("-", "") + "_")[2]
    dump = str(await database.fetch("SELECT k::text, encode(k.secret_hash, 'escape') FROM gateway.api_keys AS k"))
    assert key.id in dump
    for trace in (secret, random, secret.encode().hex(), base64.b64encode(random.encode()).decode()):
        assert trace not in dump
    assert random not in repr(key)


async def test_keys_are_listed_in_pages_by_creation(keyring: Keyring, clock: ManualClock) -> None:
    issued = []
    for _ in range(5):
        issued.append((await issue(keyring))[0].id)
        await clock.advance(1)
    seen, token = [], ""
    for size in (2, 2, 1):
        page, token = await keyring.list(ROOT, 2, token)
        assert len(page) == size
        seen += [key.id for key in page]
    assert (seen, token) == (issued, "")
    _, of_root = await keyring.list(ROOT, 2, "")
    with pytest.raises(PageTokenMismatchError):
        await keyring.list(ADMIN, 2, of_root)
