"""Taking and giving the bytes that belong to memories."""

from __future__ import annotations

import asyncio
import hashlib
import time
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol
from uuid import UUID, uuid5

from mnemo_memory.domain.media_types import HEAD_BYTES, TYPES, UNKNOWN, TextCheck, check, require_declared
from mnemo_memory.domain.memory import Media, Role
from mnemocore import calls
from mnemocore.errors import (
    DeadlineExceededError,
    InvalidFieldError,
    MediaNotFoundError,
    MnemoError,
    QuotaExceededError,
    RequestIdReusedError,
    UnavailableError,
    UnsupportedMediaError,
    Violation,
)
from mnemocore.ids import MemoryId, new_uuid

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
    from datetime import datetime

    from mnemo_memory.domain.access import Access, Entry
    from mnemo_memory.domain.media_types import MediaType
    from mnemo_memory.domain.memory import Draft, Space
    from mnemo_memory.domain.ports import Request, Store
    from mnemocore.calls import Identity
    from mnemocore.clock import Clock

PART_BYTES: Final = 1024 * 1024
"""Media are kept and given in parts of so many bytes; the last one may have fewer."""
UNTAKEN_LIFE: Final = timedelta(hours=24)
"""How long an upload waits for a memory."""

_REMOVAL_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class MediaInput:
    """The medium of a new memory: `data`, or the name of an upload; `mime_type` is what it is said to be."""

    data: bytes = b""
    upload: str = ""
    mime_type: str = ""


@dataclass(frozen=True, slots=True)
class StoredMedia:
    """A whole medium, and the memory that has taken it; None if none has yet."""

    media: Media
    memory_id: MemoryId | None


class MediaStore(Protocol):
    """Keeps media in numbered parts of PART_BYTES. Nobody can find a medium before it is finished."""

    async def begin(self, space: Space, media_id: str, mime_type: str, at: datetime) -> None:
        """Begin a medium. Raises SpaceNotFoundError."""
        ...

    async def append(self, space: Space, media_id: str, number: int, data: bytes) -> None:
        """Add part `number`, from 0. Raises MediaNotFoundError if the medium is gone."""
        ...

    async def finish(self, space: Space, media: Media) -> None:
        """Make a medium whole and count its bytes.

        Raises QuotaExceededError, MediaNotFoundError if it is gone, SpaceNotFoundError.
        """
        ...

    async def put(self, space: Space, media: Media, parts: Sequence[bytes], at: datetime) -> StoredMedia:
        """Keep a medium in one step and count its bytes; the one that is there if the id is in use.

        Raises QuotaExceededError, SpaceNotFoundError.
        """
        ...

    async def find(self, space: Space, media_id: str) -> StoredMedia | None:
        """A whole medium."""
        ...

    async def part(self, space: Space, media_id: str, number: int) -> bytes | None:
        """Part `number` of a medium; None if it is gone."""
        ...

    async def discard(self, space: Space, ids: Sequence[str]) -> None:
        """Remove those of the media that no memory has taken, finished or not."""
        ...

    async def remove_untaken(self, before: datetime) -> int:
        """Remove the media begun before `before` that no memory has taken; returns their number."""
        ...


class MediaLibrary:
    """The media of all spaces. `check_room` raises StoreFullError when the store has no room for more."""

    def __init__(
        self, media: MediaStore, memories: Store, access: Access, clock: Clock, check_room: Callable[[], None]
    ) -> None:
        self._media = media
        self._memories = memories
        self._access = access
        self._clock = clock
        self._check_room = check_room
        self._removals: set[asyncio.Task[None]] = set()

    async def upload(
        self, caller: Identity, slug: str, mime_type: str, data: AsyncIterator[bytes]
    ) -> tuple[Space, Media]:
        """Take bytes that a memory may name afterwards. If this raises or is cancelled, nothing of them is left.

        Raises SpaceNotFoundError, RoleRequiredError, UnsupportedMediaError, QuotaExceededError, StoreFullError, and
        InvalidFieldError as soon as more has come than is allowed.
        """
        entry = await self._access.enter(caller, slug, Role.WRITE)
        self._check_room()
        now = self._clock.now()
        media_id = new_uuid(now)
        try:
            return entry.space, await self._receive(entry.space, media_id, mime_type, data, now)
        except BaseException:  # also a cancellation leaves nothing behind
            await self._discard(entry.space, [media_id])
            raise

    async def read(
        self, caller: Identity, slug: str, media_id: str, offset: int
    ) -> tuple[Space, Media, AsyncGenerator[bytes]]:
        """A medium, and its bytes from `offset` on in pieces of at most PART_BYTES.

        Raises SpaceNotFoundError, MediaNotFoundError (also in the midst of it, if the memory is erased), and
        InvalidFieldError if the offset is beyond the end.
        """
        entry = await self._access.enter(caller, slug, Role.READ)
        media = await self._visible(entry, media_id)
        if offset > media.size:
            description = f"{offset}; 0 to {media.size} is allowed, for the medium has {media.size} bytes"
            raise InvalidFieldError.of([Violation("offset", description)])
        return entry.space, media, self._pieces(entry.space, media, offset)

    async def take(self, entry: Entry, item: MediaInput, request: Request | None = None, number: int = 0) -> Media:
        """The medium for memory `number` of a request; bytes in `item` are kept as an upload until a memory takes it.

        A repeated request gets the same medium, also if its memory has it by now. Raises UnsupportedMediaError,
        MediaNotFoundError, QuotaExceededError, StoreFullError, RequestIdReusedError.
        """
        if item.upload:
            return await self._uploaded(entry, item, repeated=request is not None)
        return await self._keep(entry.space, item, request, number)

    @asynccontextmanager
    async def taking(self, entry: Entry, request: Request | None) -> AsyncIterator[Taking]:
        """The media of one request that writes memories. What none of them has taken is removed at the end.

        It stays for the next attempt if the request can be repeated and was not answered.
        """
        taking = Taking(self, entry, request)
        try:
            yield taking
        except BaseException as error:
            if request is None or _is_answer(error):
                await self._discard(entry.space, taking.made)
            raise
        await self._discard(entry.space, taking.made)

    async def clean(self, now: datetime) -> int:
        """Remove the uploads that no memory took within 24 hours; returns their number."""
        return await self._media.remove_untaken(now - UNTAKEN_LIFE)

    async def close(self) -> None:
        """Return when nothing is being removed any more; no call is under way."""
        while self._removals:
            await asyncio.gather(*self._removals)

    async def _receive(
        self, space: Space, media_id: str, mime_type: str, data: AsyncIterator[bytes], now: datetime
    ) -> Media:
        intake = Intake(space, mime_type)
        async with aclosing(_in_parts(data)) as parts:
            async for part in parts:
                number = intake.parts
                await asyncio.to_thread(intake.accept, part)
                self._check_room()
                if number == 0:
                    await self._media.begin(space, media_id, intake.type.mime_type, now)
                await self._media.append(space, media_id, number, part)
        media = intake.finish(media_id)
        await self._media.finish(space, media)
        return media

    async def _keep(self, space: Space, item: MediaInput, request: Request | None, number: int) -> Media:
        self._check_room()
        now = self._clock.now()
        media_id = str(uuid5(UUID(request.id), f"media {number}")) if request else new_uuid(now)
        parts = [item.data[start : start + PART_BYTES] for start in range(0, len(item.data), PART_BYTES)]
        media = await asyncio.to_thread(_whole, space, media_id, item.mime_type, parts)
        kept = (await self._media.put(space, media, parts, now)).media
        if kept.sha256 != media.sha256:
            raise RequestIdReusedError
        return kept

    async def _uploaded(self, entry: Entry, item: MediaInput, *, repeated: bool) -> Media:
        slug, _, media_id = item.upload.removeprefix("spaces/").partition("/media/")
        stored = await self._media.find(entry.space, media_id) if slug == entry.space.slug else None
        free = stored is not None and stored.memory_id is None
        if stored is None or not (free or (repeated and await self._may_see(entry, stored))):
            raise MediaNotFoundError(media=item.upload)
        require_declared(item.mime_type, stored.media.mime_type)
        return stored.media

    async def _visible(self, entry: Entry, media_id: str) -> Media:
        stored = await self._media.find(entry.space, media_id)
        if stored is None or not await self._may_see(entry, stored):
            raise _unknown(entry.space, media_id)
        return stored.media

    async def _may_see(self, entry: Entry, stored: StoredMedia) -> bool:
        """A medium can be seen with its memory; one that no memory has, by those who see the whole space."""
        if stored.memory_id is None:
            return entry.whole
        found = await self._memories.get(entry.space, [stored.memory_id], self._clock.now())
        return any(entry.sees(memory) for memory in found.values())

    async def _pieces(self, space: Space, media: Media, offset: int) -> AsyncGenerator[bytes]:
        first, skipped = divmod(offset, PART_BYTES)
        for number in range(first, -(-media.size // PART_BYTES)):
            part = await self._media.part(space, media.id, number)
            if part is None:
                raise _unknown(space, media.id)
            yield part[skipped:] if number == first else part

    async def _discard(self, space: Space, ids: Sequence[str]) -> None:
        """Remove media that no memory has. It goes on when the call is cancelled; if it fails, `clean` does it."""
        if not ids:
            return
        removal = asyncio.get_running_loop().create_task(self._remove(space, ids))
        self._removals.add(removal)
        removal.add_done_callback(self._removals.discard)
        await asyncio.shield(removal)

    async def _remove(self, space: Space, ids: Sequence[str]) -> None:
        calls.deadline.set(time.monotonic() + _REMOVAL_SECONDS)
        with suppress(MnemoError):
            await self._media.discard(space, ids)


class Taking:
    """The media of one request that writes memories. `made` are the ids of those made of bytes in the request."""

    def __init__(self, library: MediaLibrary, entry: Entry, request: Request | None) -> None:
        self._library = library
        self._entry = entry
        self._request = request
        self.made: list[str] = []

    async def give(self, draft: Draft, item: MediaInput | None, number: int = 0) -> Draft:
        """The draft of memory `number` of the request with its medium. Raises what `MediaLibrary.take` raises."""
        if item is None:
            return draft
        media = await self._library.take(self._entry, item, self._request, number)
        if not item.upload:
            self.made.append(media.id)
        return replace(draft, media=media, modality=TYPES[media.mime_type].modality)


class Intake:
    """Bytes of a medium on their way in: counted, hashed, and checked for their kind.

    Work of some milliseconds a part; call `accept` and `finish` where the event loop does not wait for it.
    """

    def __init__(self, space: Space, declared: str) -> None:
        self._space = space
        self._declared = declared
        self._type: MediaType | None = None
        self._text: TextCheck | None = None
        self._hash = hashlib.sha256()
        self._size = 0
        self.parts = 0

    @property
    def type(self) -> MediaType:
        """The kind. Raises UnsupportedMediaError as long as no byte has come."""
        return self._type or check(self._declared, b"")

    def accept(self, part: bytes) -> None:
        """Take the next part.

        Raises UnsupportedMediaError, InvalidFieldError or QuotaExceededError if the medium cannot stay.
        """
        if self._type is None:
            self._type = check(self._declared, part[:HEAD_BYTES])
            self._text = TextCheck() if self._type.is_text else None
        self._size += len(part)
        self.parts += 1
        self._refuse_excess(self._type)
        if self._text is not None and not self._text.feed(part):
            raise self._no_text()
        self._hash.update(part)

    def finish(self, media_id: str) -> Media:
        """The medium of everything that was taken. Raises UnsupportedMediaError if it is none."""
        mime_type = self.type.mime_type
        if self._text is not None and not self._text.complete:
            raise self._no_text()
        return Media(media_id, mime_type, self._size, self._hash.hexdigest())

    def _refuse_excess(self, kind: MediaType) -> None:
        if self._size > kind.max_bytes:
            description = f"has more than {kind.max_bytes} bytes, which is the most of {kind.mime_type}"
            raise InvalidFieldError.of([Violation("data", description)])
        refuse_beyond_quota(self._space, self._size)

    def _no_text(self) -> UnsupportedMediaError:
        return UnsupportedMediaError(
            "the bytes begin as text/plain and are not valid UTF-8 without control characters to the end",
            declared=self._declared,
            detected=UNKNOWN,
        )


def refuse_beyond_quota(space: Space, size: int) -> None:
    """Raise QuotaExceededError if the space, as it is given here, may not hold `size` bytes more."""
    limit = space.policy.limits.max_bytes
    if 0 < limit < space.bytes + space.media_bytes + size:
        raise QuotaExceededError(space=space.name, quota="max_bytes", limit=str(limit))


def _whole(space: Space, media_id: str, declared: str, parts: Sequence[bytes]) -> Media:
    intake = Intake(space, declared)
    for part in parts:
        intake.accept(part)
    return intake.finish(media_id)


async def _in_parts(data: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """The same bytes in parts of PART_BYTES; the last one may have fewer, none is empty."""
    buffer = bytearray()
    async for piece in data:
        buffer += piece
        while len(buffer) >= PART_BYTES:
            yield bytes(buffer[:PART_BYTES])
            del buffer[:PART_BYTES]
    if buffer:
        yield bytes(buffer)


def _is_answer(error: BaseException) -> bool:
    """Whether an error is the last word on a request: the caller has no reason to send it again."""
    return isinstance(error, MnemoError) and not isinstance(error, (UnavailableError, DeadlineExceededError))


def _unknown(space: Space, media_id: str) -> MediaNotFoundError:
    return MediaNotFoundError(media=f"{space.name}/media/{media_id}")
