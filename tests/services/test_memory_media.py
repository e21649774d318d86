"""Media on the real store and over real servers: what is taken, who may read it, and what is left of failures."""

from __future__ import annotations

import asyncio
import hashlib
import tracemalloc
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import grpc
import pytest

from mnemo_gateway.app import GatewayApp
from mnemo_memory.api.media_service import MediaServicer, to_media_input
from mnemo_memory.domain.access import Access, Share
from mnemo_memory.domain.media import PART_BYTES, MediaInput, MediaLibrary
from mnemo_memory.domain.memory import Draft, Kind, Limits, Media, Memory, Modality, Policy, Role, Space
from mnemo_memory.domain.ports import Author, Kept, Request
from mnemo_memory.storage.postgres_media import PostgresMedia
from mnemo_memory.storage.postgres_spaces import PostgresSpaces
from mnemo_memory.storage.postgres_store import PostgresStore
from mnemo_memory.storage.postgres_vault import PostgresVault
from mnemocore.calls import (
    INTERNAL_TOKEN_HEADER,
    PRINCIPAL_HEADER,
    SCOPES_HEADER,
    STREAM_WINDOW_BYTES,
    TENANT_HEADER,
    Identity,
)
from mnemocore.client import InternalCredentials, ResilientChannel
from mnemocore.client.credentials import ApiKeyCredentials
from mnemocore.client.dial import open_channel
from mnemocore.client.media import read_media, upload_media
from mnemocore.client.services import Services
from mnemocore.clock import SystemClock
from mnemocore.errors import (
    InvalidFieldError,
    MediaNotFoundError,
    MemoryExistsError,
    PermissionDeniedError,
    QuotaExceededError,
    RequestIdReusedError,
    RoleRequiredError,
    SpaceNotFoundError,
    StoreFullError,
    UnsupportedMediaError,
)
from mnemocore.ids import MemoryId, SpaceUid, Tenant, new_uuid
from mnemocore.master_keys import FixedMasterKeys
from mnemocore.memory.v1 import media_service_pb2 as pb
from mnemocore.memory.v1 import media_service_pb2_grpc, resources_pb2
from mnemocore.postgres import migrate
from mnemocore.sealing import MasterKey, MasterKeys
from mnemocore.server import Host, InternalAuthenticator, Service
from mnemocore.testing.clock import ManualClock
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime
    from pathlib import Path

    from mnemo_memory.domain.ports import Vault
    from mnemocore.postgres import Database

SECONDS = 60.0
MIB = 1024 * 1024
TOKEN = "token of the installation"
ADMIN_KEY = "key of the admin"
ADA = Identity(Tenant("local"), "admin", frozenset({"*"}))
BOB = Identity(Tenant("local"), "bob", frozenset({"memory:read", "memory:write"}))
EVE = Identity(Tenant("globex"), "eve", frozenset({"*"}))
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x02\0\0\0\x02\x08\x02\0\0\0" + bytes(4)
FILM = b"\0\0\0\x18ftypisom\0\0\0\0isommp41\0\0\0\x08free"
FILM_BYTES = 30 * MIB
FREE = "free"
SECRET = b"the words that nobody may find"


def picture(size: int) -> bytes:
    return (PNG + SECRET * (size // len(SECRET) + 1))[:size]


class Lent:
    """Implements the port to shares: the spaces it was told of."""

    def __init__(self) -> None:
        self.shares: dict[str, Share] = {}

    async def find(self, tenant: Tenant, principal: str, slug: str, now: datetime) -> Share | None:
        return self.shares.get(f"{tenant}/{principal}/{slug}")


class WatchedMedia(PostgresMedia):
    """The store, with a gate before every part that is written, and a count of those that are read.

    The space `FREE` has no gate, and its parts are not counted.
    """

    def __init__(self, database: Database, vault: Vault) -> None:
        super().__init__(database, vault)
        self.open = asyncio.Event()
        self.open.set()
        self.read = 0

    async def append(self, space: Space, media_id: str, number: int, data: bytes) -> None:
        if space.slug != FREE:
            await self.open.wait()
        await super().append(space, media_id, number, data)

    async def part(self, space: Space, media_id: str, number: int) -> bytes | None:
        self.read += space.slug != FREE
        return await super().part(space, media_id, number)


class Room:
    """The media of memory-core with the store of its memories, and one space of `local`."""

    def __init__(self, database: Database) -> None:
        vault = PostgresVault(database, FixedMasterKeys(MasterKeys([MasterKey("master", bytes(32))])))
        self.database = database
        self.clock = ManualClock()
        self.full = False
        self.lent = Lent()
        self.store = PostgresStore(database, vault)
        self.spaces = PostgresSpaces(database, vault)
        self.media = WatchedMedia(database, vault)
        access = Access(self.spaces, self.lent, self.clock)
        self.access = access
        self.library = MediaLibrary(self.media, self.store, access, self.clock, self._check_room)

    async def make_space(self, slug: str = "notes", *, encrypted: bool = False, max_bytes: int = 0) -> Space:
        now = self.clock.now()
        policy = Policy(limits=Limits(max_bytes=max_bytes))
        space = Space(SpaceUid(new_uuid(now)), ADA.tenant, slug, "", 0, 0, 0, 0, now, "admin", policy, 0, encrypted)
        return await self.spaces.create_space(space, None)

    async def space(self, slug: str = "notes") -> Space:
        return await self.spaces.get_space(ADA.tenant, slug)

    async def upload(self, data: bytes, *, slug: str = "notes", mime_type: str = "", caller: Identity = ADA) -> Media:
        _, media = await self.library.upload(caller, slug, mime_type, pieces(data))
        return media

    async def read(self, media: Media, *, slug: str = "notes", offset: int = 0, caller: Identity = ADA) -> bytes:
        _, found, parts = await self.library.read(caller, slug, media.id, offset)
        assert found == media
        return b"".join([part async for part in parts])

    async def keep(
        self, draft: Draft, item: MediaInput, request: Request | None = None, *, slug: str = "notes"
    ) -> Memory:
        """Write a memory with a medium, as a servicer does."""
        entry = await self.access.enter(ADA, slug, Role.WRITE)
        async with self.library.taking(entry, request) as taking:
            full = await taking.give(draft, item)
            created = await self.store.create(entry.space, [full], self.author(), request, each=False)
        [outcome] = created.outcomes
        assert isinstance(outcome, Kept)
        return outcome.memory

    def author(self) -> Author:
        return Author("admin", self.clock.now())

    def share(self, space: Space, role: Role, *, kinds: tuple[Kind, ...] = (), caller: Identity = EVE) -> None:
        self.lent.shares[f"{caller.tenant}/{caller.principal}/lent"] = Share(space, role, kinds, ())

    async def rows(self) -> tuple[int, int]:
        """How many media and parts there are."""
        media = await self.database.fetchval("SELECT count(*) FROM memory.media")
        return media, await self.database.fetchval("SELECT count(*) FROM memory.media_parts")

    def _check_room(self) -> None:
        if self.full:
            raise StoreFullError


async def pieces(data: bytes, size: int = 700_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def inline(data: bytes, mime_type: str = "") -> MediaInput:
    return MediaInput(data=data, mime_type=mime_type)


def uploaded(media: Media, slug: str = "notes") -> MediaInput:
    return MediaInput(upload=f"spaces/{slug}/media/{media.id}")


@pytest.fixture
async def room(database: Database) -> Room:
    await migrate(database, "mnemo_memory.storage.migrations", schema="memory")
    return Room(database)


@pytest.fixture(params=["open", "encrypted"])
async def furnished(room: Room, request: pytest.FixtureRequest) -> Room:
    """A room with a space, once in the open and once encrypted."""
    await room.make_space(encrypted=request.param == "encrypted")
    return room


# Uploads and downloads


@pytest.mark.parametrize("size", [40, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES + 17])
async def test_what_was_uploaded_is_read_back(furnished: Room, size: int) -> None:
    data = picture(size)
    media = await furnished.upload(data)
    expected = (size, "image/png", hashlib.sha256(data).hexdigest())
    assert (media.size, media.mime_type, media.sha256) == expected
    assert await furnished.read(media) == data
    assert (await furnished.space()).media_bytes == size
    assert await furnished.rows() == (1, -(-size // PART_BYTES))


@pytest.mark.parametrize("offset", [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES + 5])
async def test_reading_begins_anywhere(furnished: Room, offset: int) -> None:
    data = picture(2 * PART_BYTES + 5)
    media = await furnished.upload(data)
    assert await furnished.read(media, offset=offset) == data[offset:]
    with pytest.raises(InvalidFieldError, match="0 to 2097157 is allowed"):
        await furnished.read(media, offset=len(data) + 1)


async def test_an_encrypted_space_shows_nothing_of_its_media(room: Room) -> None:
    await room.make_space(encrypted=True)
    data = picture(PART_BYTES + 100)
    media = await room.upload(data)
    kept = await room.keep(Draft("seen"), inline(data))
    assert kept.media is not None
    rows = await room.database.fetch("SELECT data, octet_length(data) AS size FROM memory.media_parts")
    assert len(rows) == 4
    for row in rows:
        assert not any(part in row["data"] for part in (SECRET, SECRET[3:11], b"\x89PNG\r\n", b"\0\0\0\rIHDR"))
    hashes = [row["sha256"] for row in await room.database.fetch("SELECT sha256 FROM memory.media")]
    assert all(bytes.fromhex(media.sha256) not in each for each in hashes)
    assert hashes[0] != hashes[1]
    assert await room.read(media) == await room.read(kept.media) == data


async def test_parts_of_an_encrypted_space_cannot_be_swapped(room: Room) -> None:
    await room.make_space(encrypted=True)
    media = await room.upload(picture(2 * PART_BYTES))
    await room.database.execute("UPDATE memory.media_parts SET number = 7 - number")
    await room.database.execute("UPDATE memory.media_parts SET number = number - 6")
    with pytest.raises(Exception, match="changed or belong elsewhere"):
        await room.read(media)


REFUSED = [
    (b"", "", UnsupportedMediaError),
    (b"\0\1\2\3", "", UnsupportedMediaError),
    (PNG, "image/gif", UnsupportedMediaError),
    (b"<svg/>", "image/svg+xml", UnsupportedMediaError),
    (b"text " * 300_000 + b"\0", "", UnsupportedMediaError),
    (b"text " * 300_000 + b"\xc3", "", UnsupportedMediaError),
    (picture(10 * MIB + 1), "", InvalidFieldError),
]


@pytest.mark.parametrize(("data", "declared", "error"), REFUSED, ids=[f"{len(data)}" for data, _, _ in REFUSED])
async def test_what_is_refused_leaves_nothing(room: Room, data: bytes, declared: str, error: type[Exception]) -> None:
    await room.make_space()
    with pytest.raises(error):
        await room.upload(data, mime_type=declared)
    assert await room.rows() == (0, 0)
    assert (await room.space()).media_bytes == 0
    with pytest.raises(error):
        await room.keep(Draft("x"), inline(data, declared))
    assert await room.rows() == (0, 0)


async def test_text_is_checked_over_the_borders_of_its_parts(room: Room) -> None:
    await room.make_space()
    data = (b"x" * (PART_BYTES - 1)) + "\u6771\u4eac".encode() + b" end"
    media = await room.upload(data)
    assert media.mime_type == "text/plain"
    assert await room.read(media) == data


@pytest.mark.parametrize(("head", "limit"), [(PNG, 10), (b"just words ", 50)])
async def test_what_never_ends_is_refused_at_the_limit(room: Room, head: bytes, limit: int) -> None:
    await room.make_space()
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield head
        while True:
            sent += MIB
            yield b"a" * MIB

    with pytest.raises(InvalidFieldError, match=f"more than {limit * MIB} bytes"):
        await room.library.upload(ADA, "notes", "", endless())
    assert sent <= (limit + 2) * MIB
    assert await room.rows() == (0, 0)


async def test_a_full_disk_ends_an_upload(room: Room) -> None:
    await room.make_space()

    async def filling() -> AsyncIterator[bytes]:
        yield picture(PART_BYTES)
        room.full = True
        yield picture(PART_BYTES)

    with pytest.raises(StoreFullError):
        await room.library.upload(ADA, "notes", "", filling())
    with pytest.raises(StoreFullError):
        await room.upload(PNG)
    with pytest.raises(StoreFullError):
        await room.keep(Draft("x"), inline(PNG))
    assert await room.rows() == (0, 0)


# Quotas


async def test_media_count_against_the_limit_of_the_space(room: Room) -> None:
    await room.make_space(max_bytes=3000)
    await room.keep(Draft("a" * 500), inline(picture(1500)))
    with pytest.raises(QuotaExceededError):
        await room.upload(picture(1001))
    with pytest.raises(QuotaExceededError):
        await room.keep(Draft("b"), inline(picture(1001)))
    media = await room.upload(picture(900))
    with pytest.raises(QuotaExceededError):
        await room.keep(Draft("c" * 101), uploaded(media))
    space = await room.space()
    assert (space.bytes, space.media_bytes) == (500, 2400)


async def test_the_limit_is_enforced_before_the_end(room: Room) -> None:
    await room.make_space(max_bytes=2 * MIB)
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield picture(PART_BYTES)

    with pytest.raises(QuotaExceededError):
        await room.library.upload(ADA, "notes", "", endless())
    assert read == 3
    assert await room.rows() == (0, 0)


async def test_many_uploads_at_once_stay_below_the_limit(room: Room) -> None:
    await room.make_space(max_bytes=5000)
    attempts = [room.upload(picture(900)) for _ in range(6)]
    attempts += [room.upload(picture(900), mime_type="image/png") for _ in range(6)]
    results = await asyncio.gather(*attempts, return_exceptions=True)
    kept = [result for result in results if isinstance(result, Media)]
    assert len(kept) == 5
    assert all(isinstance(result, (Media, QuotaExceededError)) for result in results)
    assert (await room.space()).media_bytes == 4500
    assert await room.rows() == (5, 5)


# Memories take media


async def test_a_memory_takes_bytes(furnished: Room) -> None:
    data = picture(2 * PART_BYTES)
    memory = await furnished.keep(Draft("a fox"), inline(data))
    assert memory.modality is Modality.IMAGE
    assert memory.media is not None
    assert await furnished.read(memory.media) == data
    stored = (await furnished.store.get(await furnished.space(), [memory.id], furnished.clock.now()))[memory.id]
    assert (stored.media, stored.modality) == (memory.media, Modality.IMAGE)


async def test_a_memory_takes_an_upload_once(furnished: Room) -> None:
    media = await furnished.upload(FILM)
    memory = await furnished.keep(Draft("a film"), uploaded(media))
    assert (memory.media, memory.modality) == (media, Modality.VIDEO)
    with pytest.raises(MediaNotFoundError):
        await furnished.keep(Draft("the same"), uploaded(media))
    assert await furnished.read(media) == FILM


async def test_an_upload_is_declared_like_any_bytes(room: Room) -> None:
    await room.make_space()
    media = await room.upload(FILM)
    with pytest.raises(UnsupportedMediaError):
        await room.keep(Draft("x"), replace(uploaded(media), mime_type="image/png"))
    await room.keep(Draft("x"), replace(uploaded(media), mime_type="video/x-m4v"))


async def test_two_memories_do_not_get_one_upload(room: Room) -> None:
    await room.make_space()
    media = await room.upload(PNG)
    results = await asyncio.gather(
        *(room.keep(Draft(str(number)), uploaded(media)) for number in range(4)), return_exceptions=True
    )
    assert sum(isinstance(result, Memory) for result in results) == 1
    assert all(isinstance(result, (Memory, MediaNotFoundError)) for result in results)


async def test_what_is_no_upload_of_the_space_is_not_found(room: Room) -> None:
    await room.make_space()
    await room.make_space("other")
    elsewhere = await room.upload(PNG, slug="other")
    never = replace(elsewhere, id=new_uuid(room.clock.now()))
    for item in (uploaded(elsewhere), uploaded(elsewhere, "other"), uploaded(never)):
        with pytest.raises(MediaNotFoundError):
            await room.keep(Draft("x"), item)
    with pytest.raises(MediaNotFoundError):
        await room.read(elsewhere)


async def test_an_upload_under_way_cannot_be_taken_or_read(room: Room) -> None:
    space = await room.make_space()
    media = Media(new_uuid(room.clock.now()), "image/png", len(PNG), hashlib.sha256(PNG).hexdigest())
    await room.media.begin(space, media.id, media.mime_type, room.clock.now())
    await room.media.append(space, media.id, 0, PNG)
    with pytest.raises(MediaNotFoundError):
        await room.keep(Draft("x"), uploaded(media))
    with pytest.raises(MediaNotFoundError):
        await room.read(media)
    await room.media.finish(space, media)
    assert await room.read(media) == PNG
    with pytest.raises(MediaNotFoundError):
        await room.media.finish(space, media)
    assert (await room.space()).media_bytes == len(PNG)


async def test_a_request_that_is_repeated_keeps_its_bytes_once(furnished: Room) -> None:
    for item in (inline(picture(5000)), uploaded(await furnished.upload(picture(6000)))):
        request = Request(new_uuid(furnished.clock.now()), b"digest")
        first = await furnished.keep(Draft("one"), item, request)
        again = await furnished.keep(Draft("one"), item, request)
        assert again == first
    assert (await furnished.space()).media_bytes == 11_000
    assert await furnished.rows() == (2, 2)


async def test_the_same_request_at_the_same_time_keeps_its_bytes_once(room: Room) -> None:
    await room.make_space()
    request = Request(new_uuid(room.clock.now()), b"digest")
    memories = await asyncio.gather(*(room.keep(Draft("one"), inline(PNG), request) for _ in range(4)))
    assert len({memory.id for memory in memories}) == 1
    assert (await room.space()).media_bytes == len(PNG)
    with pytest.raises(RequestIdReusedError):
        await room.keep(Draft("one"), inline(PNG + b"more"), request)
    assert await room.rows() == (1, 1)


async def test_bytes_that_no_memory_took_in_the_end_are_gone(room: Room) -> None:
    await room.make_space()
    taken = await room.keep(Draft("first"), inline(PNG))
    request = Request(new_uuid(room.clock.now()), b"digest")
    for repeatable in (None, request):
        with pytest.raises(MemoryExistsError):
            await room.keep(Draft("again", id=taken.id), inline(PNG), repeatable)
        assert await room.rows() == (1, 1)
    assert (await room.space()).media_bytes == len(PNG)


async def test_an_erased_memory_takes_its_medium_along(furnished: Room) -> None:
    memory = await furnished.keep(Draft("gone"), inline(picture(PART_BYTES + 1)))
    assert memory.media is not None
    space = await furnished.space()
    _, _, parts = await furnished.library.read(ADA, "notes", memory.media.id, 0)
    assert len(await anext(parts)) == PART_BYTES
    await furnished.store.erase(space, memory.id, "", furnished.author(), None)
    with pytest.raises(MediaNotFoundError):
        await anext(parts)
    with pytest.raises(MediaNotFoundError):
        await furnished.read(memory.media)
    assert await furnished.rows() == (0, 0)
    assert (await furnished.space()).media_bytes == 0


async def test_the_medium_of_an_expired_memory_is_read_as_the_memory_is(room: Room) -> None:
    await room.make_space()
    expiring = Draft("soon", expires_at=room.clock.now())
    memory = await room.keep(expiring, inline(PNG))
    await room.clock.advance(3600)
    await room.store.sweep(room.clock.now(), 10)
    assert memory.media is not None
    assert await room.read(memory.media) == PNG


# Who may read


async def test_another_tenant_sees_nothing(room: Room) -> None:
    await room.make_space()
    media = await room.upload(PNG)
    with pytest.raises(SpaceNotFoundError):
        await room.read(media, caller=EVE)
    with pytest.raises(SpaceNotFoundError):
        await room.upload(PNG, caller=EVE)


async def test_a_part_of_a_space_shows_the_media_of_its_memories_only(room: Room) -> None:
    space = await room.make_space()
    fact = await room.keep(Draft("a fact", kind=Kind.FACT), inline(PNG))
    secret = await room.keep(Draft("a decision", kind=Kind.DECISION), inline(picture(500)))
    untaken = await room.upload(picture(600))
    assert fact.media is not None
    assert secret.media is not None
    room.share(space, Role.READ, kinds=(Kind.FACT,))
    assert await room.read(fact.media, slug="lent", caller=EVE) == PNG
    for hidden in (secret.media, untaken):
        with pytest.raises(MediaNotFoundError, match="spaces/lent/media"):
            await room.read(hidden, slug="lent", caller=EVE)
    room.share(space, Role.READ)
    for visible in (fact.media, secret.media, untaken):
        await room.read(visible, slug="lent", caller=EVE)


async def test_a_request_id_does_not_open_the_media_of_others(room: Room) -> None:
    space = await room.make_space()
    secret = await room.keep(Draft("a decision", kind=Kind.DECISION), inline(PNG))
    assert secret.media is not None
    room.share(space, Role.WRITE, kinds=(Kind.FACT,))
    entry = await room.access.enter(EVE, "lent", Role.WRITE)
    request = Request(new_uuid(room.clock.now()), b"digest")
    with pytest.raises(MediaNotFoundError):
        await room.library.take(entry, uploaded(secret.media, "lent"), request)


async def test_who_may_only_read_uploads_nothing(room: Room) -> None:
    space = await room.make_space()
    room.share(space, Role.ANNOTATE)
    with pytest.raises(RoleRequiredError):
        await room.upload(PNG, slug="lent", caller=EVE)
    room.share(space, Role.WRITE)
    await room.upload(PNG, slug="lent", caller=EVE)
    assert (await room.space()).media_bytes == len(PNG)


async def test_errors_name_a_shared_space_as_the_caller_knows_it(room: Room) -> None:
    space = await room.make_space(max_bytes=100)
    room.share(space, Role.WRITE)
    await room.upload(picture(60))
    with pytest.raises(QuotaExceededError, match="'spaces/lent'"):
        await room.upload(picture(60), slug="lent", caller=EVE)
    as_before = replace(space, slug="lent")  # what another upload knew that began at the same time
    large = Media(new_uuid(room.clock.now()), "image/png", 60, "00" * 32)
    with pytest.raises(QuotaExceededError, match="'spaces/lent'"):
        await room.media.put(as_before, large, [picture(60)], room.clock.now())
    missing = Media(new_uuid(room.clock.now()), "image/png", 1, "")
    with pytest.raises(MediaNotFoundError, match="spaces/lent/media"):
        await room.read(missing, slug="lent", caller=EVE)


# Cleaning


async def test_uploads_that_nobody_took_are_removed_after_a_day(furnished: Room) -> None:
    await furnished.make_space("other")
    for _ in range(20):
        await furnished.upload(PNG)
    await furnished.upload(PNG, slug="other")
    kept = await furnished.keep(Draft("kept"), inline(PNG))
    broken = new_uuid(furnished.clock.now())
    space = await furnished.space()
    await furnished.media.begin(space, broken, "video/mp4", furnished.clock.now())
    await furnished.media.append(space, broken, 0, FILM)
    await furnished.clock.advance(23 * 3600)
    young = await furnished.upload(PNG)
    assert await furnished.library.clean(furnished.clock.now()) == 0
    await furnished.clock.advance(2 * 3600)
    assert await furnished.library.clean(furnished.clock.now()) == 22
    assert await furnished.rows() == (2, 2)
    assert (await furnished.space()).media_bytes == 2 * len(PNG)
    assert (await furnished.space("other")).media_bytes == 0
    assert kept.media is not None
    assert await furnished.read(kept.media) == await furnished.read(young) == PNG
    with pytest.raises(MediaNotFoundError):
        await furnished.media.append(space, broken, 1, FILM)


async def test_cleaning_and_taking_meet(room: Room) -> None:
    await room.make_space()
    uploads = [await room.upload(PNG) for _ in range(10)]
    await room.clock.advance(25 * 3600)
    taking = [room.keep(Draft(str(number)), uploaded(media)) for number, media in enumerate(uploads)]
    removed, *results = await asyncio.gather(room.library.clean(room.clock.now()), *taking, return_exceptions=True)
    memories = [result for result in results if isinstance(result, Memory)]
    assert all(isinstance(result, (Memory, MediaNotFoundError)) for result in results)
    assert isinstance(removed, int)
    assert removed + len(memories) == 10
    assert (await room.space()).media_bytes == len(memories) * len(PNG)


# Over the wire


class Served:
    """The room behind its own server, and a gateway before it."""

    def __init__(
        self, room: Room, app: GatewayApp, gateway: Host, direct: grpc.aio.Channel, outside: ResilientChannel
    ) -> None:
        self.room = room
        self.app = app
        self.gateway = gateway
        self.direct = direct
        self.client = Services(outside, SystemClock(), None)
        self.stub = media_service_pb2_grpc.MediaServiceStub(direct)
        self.headers = (
            (INTERNAL_TOKEN_HEADER, TOKEN),
            (TENANT_HEADER, "local"),
            (PRINCIPAL_HEADER, "admin"),
            (SCOPES_HEADER, "*"),
        )

    def upload(self, requests: Any = None) -> Any:
        return self.stub.UploadMedia(requests, timeout=SECONDS, metadata=self.headers)


@asynccontextmanager
async def serving(room: Room, database: Database, *, in_process: bool) -> AsyncIterator[Served]:
    service = Service(
        MediaServicer(room.library),
        media_service_pb2_grpc.add_MediaServiceServicer_to_server,
        "mnemocore.memory.v1.MediaService",
    )
    host = Host("memory", [service], authenticator=InternalAuthenticator(TOKEN))
    [address] = await host.start(["127.0.0.1:0"])
    inside = InternalCredentials(TOKEN)
    to_memory = (
        ResilientChannel(host.channel(), "memory", credentials=inside) if in_process else open_channel(address, inside)
    )
    app = GatewayApp(database, {"mnemocore.memory.v1": to_memory}, SystemClock(), ADMIN_KEY)
    await app.start()
    gateway = app.host()
    [front] = await gateway.start(["127.0.0.1:0"])
    direct = grpc.aio.insecure_channel(address, options=UNSHARED)
    outside = open_channel(front, ApiKeyCredentials(ADMIN_KEY))
    try:
        yield Served(room, app, gateway, direct, outside)
    finally:
        await direct.close()
        await outside.close()
        app.drain()
        await gateway.drain(SECONDS)
        await to_memory.close()
        await host.drain(SECONDS)


UNSHARED = (("grpc.use_local_subchannel_pool", 1),)


@pytest.fixture(params=["in process", "over sockets"])
async def served(furnished: Room, database: Database, request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    async with serving(furnished, database, in_process=request.param == "in process") as started:
        yield started


@pytest.fixture
async def near(room: Room, database: Database) -> AsyncIterator[Served]:
    await room.make_space()
    async with serving(room, database, in_process=False) as started:
        yield started


async def test_media_pass_through_the_gateway(served: Served, tmp_path: Path) -> None:
    data = picture(3 * PART_BYTES + 99)
    file = tmp_path / "fox.png"
    file.write_bytes(data)
    for source in (data, file, pieces(data, 5 * MIB), pieces(data, 999_983)):
        media = await upload_media(served.client, "notes", source, "image/png")
        assert (media.size, media.mime_type, media.space) == (len(data), "image/png", "notes")
        assert media.sha256 == hashlib.sha256(data).hexdigest()
        received = [part async for part in read_media(served.client, media.name)]
        assert max(len(part) for part in received) <= PART_BYTES
        assert b"".join(received) == data
        rest = [part async for part in read_media(served.client, media.name, 2 * PART_BYTES + 1)]
        assert b"".join(rest) == data[2 * PART_BYTES + 1 :]
        assert [part async for part in read_media(served.client, media.name, len(data))] == []


async def test_the_first_part_says_what_it_is(near: Served) -> None:
    media = await upload_media(near.client, "notes", picture(PART_BYTES + 1))
    for offset in (0, media.size):
        request = pb.ReadMediaRequest(name=media.name, offset=offset)
        call = near.stub.ReadMedia(request, timeout=SECONDS, metadata=near.headers)
        first, *others = [response async for response in call]
        assert (first.media.name, first.media.size_bytes, first.media.sha256) == (media.name, media.size, media.sha256)
        assert not any(response.HasField("media") for response in others)


@pytest.mark.parametrize("size", [MIB, 64 * 1024])
async def test_the_reason_of_a_refusal_arrives(served: Served, size: int) -> None:
    for _ in range(5):
        with pytest.raises(UnsupportedMediaError):
            await upload_media(served.client, "notes", pieces(bytes(8 * MIB), size))
        with pytest.raises(InvalidFieldError, match="more than 10485760 bytes"):
            await upload_media(served.client, "notes", pieces(picture(12 * MIB), size))
    with pytest.raises(SpaceNotFoundError):
        await upload_media(served.client, "none", pieces(picture(8 * MIB), size))
    with pytest.raises(UnsupportedMediaError):
        await upload_media(served.client, "notes", b"")
    missing = f"spaces/notes/media/{new_uuid(served.room.clock.now())}"
    with pytest.raises(MediaNotFoundError):
        [part async for part in read_media(served.client, missing)]
    assert await served.room.rows() == (0, 0)


async def test_a_source_that_fails_ends_the_upload_with_its_own_error(served: Served) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield picture(2 * PART_BYTES)
        raise LookupError("the film is torn")

    with pytest.raises(LookupError):
        await upload_media(served.client, "notes", failing())
    await until(lambda: is_empty(served.room))


async def is_empty(room: Room) -> bool:
    return await room.rows() == (0, 0) and (await room.space()).media_bytes == 0


@pytest.mark.parametrize("parts", [0, 1, 2, 5])
async def test_an_upload_that_is_cancelled_leaves_nothing(served: Served, parts: int) -> None:
    reached, release = asyncio.Event(), asyncio.Event()

    async def stuck() -> AsyncIterator[bytes]:
        yield picture(PART_BYTES)
        for _ in range(parts):
            yield bytes(PART_BYTES)
        reached.set()
        await release.wait()

    task = asyncio.create_task(upload_media(served.client, "notes", stuck()))
    await asyncio.wait_for(reached.wait(), SECONDS)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: is_empty(served.room))


async def film(size: int, sent: list[int] | None = None) -> AsyncIterator[bytes]:
    """A film of `size` bytes, part by part; notes in `sent` how much was asked for."""
    yield FILM
    for start in range(len(FILM), size, PART_BYTES):
        if sent is not None:
            sent[0] = start
        yield bytes(min(PART_BYTES, size - start))


ON_THE_WAY = 2 * (STREAM_WINDOW_BYTES + 4 * PART_BYTES)
"""The most that stands between a client and the store behind its gateway, in bytes.

For either of the two streams: its window (in process its queue, which is as large), the part that is allowed beyond it
while a reader asks, and one each that is being written, that has arrived, and that is in the hands of the reader.
"""


async def test_a_sender_waits_for_the_store(served: Served) -> None:
    """It gets no further than the buffers on its way, though another one sends a whole film beside it."""
    await served.room.make_space(FREE)
    served.room.media.open.clear()
    sent = [0]
    upload = asyncio.create_task(upload_media(served.client, "notes", film(FILM_BYTES, sent)))
    await until(lambda: sent[0] >= PART_BYTES)
    other = await upload_media(served.client, FREE, film(FILM_BYTES))
    assert sent[0] <= ON_THE_WAY
    served.room.media.open.set()
    assert (await upload).size == other.size == FILM_BYTES


async def test_the_store_waits_for_a_reader(served: Served) -> None:
    """It reads no more parts than there is room for on the way, though another reader takes a whole film beside."""
    await served.room.make_space(FREE)
    media = await upload_media(served.client, "notes", film(FILM_BYTES))
    other = await upload_media(served.client, FREE, film(FILM_BYTES))
    async with aclosing(read_media(served.client, media.name)) as parts:
        size = len(await anext(parts))
        assert sum([len(part) async for part in read_media(served.client, other.name)]) == FILM_BYTES
        assert served.room.media.read * PART_BYTES <= ON_THE_WAY
        async for part in parts:
            size += len(part)
    assert size == FILM_BYTES


async def test_the_store_reads_no_more_for_a_reader_who_has_gone(served: Served) -> None:
    await served.room.make_space(FREE)
    media = await upload_media(served.client, "notes", film(FILM_BYTES))
    other = await upload_media(served.client, FREE, film(FILM_BYTES))
    async with aclosing(read_media(served.client, media.name)) as parts:
        await anext(parts)
    assert sum([len(part) async for part in read_media(served.client, other.name)]) == FILM_BYTES
    assert served.room.media.read * PART_BYTES <= ON_THE_WAY


async def test_a_drain_of_the_gateway_lets_an_upload_end(served: Served) -> None:
    served.room.media.open.clear()
    upload = asyncio.create_task(upload_media(served.client, "notes", film(3 * MIB)))
    await until(lambda: has_media(served.room, 1))
    served.app.drain()
    drained = asyncio.create_task(served.gateway.drain(SECONDS))
    served.room.media.open.set()
    assert (await upload).size == 3 * MIB
    await drained


async def has_media(room: Room, media: int) -> bool:
    return (await room.rows())[0] == media


async def test_an_upload_that_takes_too_long_leaves_nothing(near: Served) -> None:
    call = near.stub.UploadMedia(timeout=3, metadata=near.headers)
    await call.write(pb.UploadMediaRequest(parent="spaces/notes", data=picture(PART_BYTES)))
    await until(lambda: has_parts(near.room, 1))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: is_empty(near.room))


async def has_parts(room: Room, parts: int) -> bool:
    return (await room.rows())[1] == parts


BAD_STREAMS: dict[str, list[pb.UploadMediaRequest]] = {
    "nothing at all": [],
    "no space": [pb.UploadMediaRequest(data=PNG)],
    "a bad space": [pb.UploadMediaRequest(parent="spaces/Not A Name", data=PNG)],
    "another space": [
        pb.UploadMediaRequest(parent="spaces/notes", data=picture(PART_BYTES)),
        pb.UploadMediaRequest(parent="spaces/other", data=b"x"),
    ],
    "another kind": [
        pb.UploadMediaRequest(parent="spaces/notes", data=picture(PART_BYTES)),
        pb.UploadMediaRequest(mime_type="image/gif", data=b"x"),
    ],
    "too large a part": [pb.UploadMediaRequest(parent="spaces/notes", data=picture(4 * MIB + 1))],
}


@pytest.mark.parametrize("requests", BAD_STREAMS.values(), ids=BAD_STREAMS)
async def test_a_stream_that_contradicts_itself_is_refused(near: Served, requests: list[pb.UploadMediaRequest]) -> None:
    await near.room.make_space("other")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await near.upload(iter(requests))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    await until(lambda: is_empty(near.room))


async def test_a_scope_is_asked_for(near: Served) -> None:
    headers = (*near.headers[:3], (SCOPES_HEADER, "memory:read"))
    channel = ResilientChannel(near.direct, "memory")
    stub: Any = media_service_pb2_grpc.MediaServiceStub(channel)
    with pytest.raises(PermissionDeniedError):
        await stub.UploadMedia(iter([pb.UploadMediaRequest(parent="spaces/notes")]), timeout=SECONDS, metadata=headers)


def test_a_medium_needs_a_source() -> None:
    item = resources_pb2.MemoryInput(content="x")
    assert to_media_input(item, "memory") is None
    item.media.mime_type = "image/png"
    with pytest.raises(InvalidFieldError, match=r"memory\.media"):
        to_media_input(item, "memory")
    item.media.data = PNG
    assert to_media_input(item, "memory") == MediaInput(data=PNG, mime_type="image/png")
    item.media.upload = f"spaces/notes/media/{MemoryId(str(UUID(int=0)))}"
    assert to_media_input(item, "memory") == MediaInput(upload=item.media.upload, mime_type="image/png")


@pytest.mark.parametrize("in_process", [True, False], ids=["in process", "over sockets"])
async def test_a_film_never_stands_in_memory(room: Room, database: Database, *, in_process: bool) -> None:
    await room.make_space(encrypted=True)

    async with serving(room, database, in_process=in_process) as served:
        tracemalloc.start()
        media = await upload_media(served.client, "notes", film(100 * MIB))
        total = 0
        async for part in read_media(served.client, media.name):
            total += len(part)
        assert total == media.size == 100 * MIB
        with pytest.raises(InvalidFieldError, match="more than 104857600 bytes"):
            await upload_media(served.client, "notes", film(100 * MIB + 1))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 40 * MIB
    assert (await room.space()).media_bytes == 100 * MIB
