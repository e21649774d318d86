"""Bytes that belong to memories: sending them up and reading them back, part by part."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mnemocore.memory.v1 import media_service_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from mnemocore.client.services import Services
    from mnemocore.client.streams import StreamCall, UploadCall
    from mnemocore.memory.v1 import resources_pb2

PART_BYTES: Final = 1024 * 1024
"""Bytes sent in one message at most."""


@dataclass(frozen=True, slots=True)
class Media:
    """Bytes that belong to a memory, or may be named by one. `sha256` is in hexadecimal."""

    id: str
    space: str
    mime_type: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """The resource name."""
        return f"spaces/{self.space}/media/{self.id}"


def media_from_wire(message: resources_pb2.Media) -> Media:
    """A medium from its message."""
    _, space, _, media_id = message.name.split("/")
    return Media(media_id, space, message.mime_type, message.size_bytes, message.sha256)


async def upload_media(
    services: Services, space_id: str, source: bytes | Path | AsyncIterable[bytes], mime_type: str = ""
) -> Media:
    """Send bytes, the content of a file, or what an iterator yields; a memory may name the result for 24 hours.

    `mime_type` is what it is said to be; without it the first bytes tell. Never holds more than a part of a file or an
    iterator's items. Raises UnsupportedMediaError, InvalidFieldError if it is too large, QuotaExceededError,
    SpaceNotFoundError. A broken stream is not taken up again.
    """
    call: UploadCall[media_service_pb2.UploadMediaRequest, media_service_pb2.UploadMediaResponse]
    call = services.media.UploadMedia(timeout=services.timeout)  # type: ignore[assignment]  # on a resilient channel
    request = media_service_pb2.UploadMediaRequest(parent=f"spaces/{space_id}", mime_type=mime_type)
    try:
        async with aclosing(_parts(source)) as parts:
            async for part in parts:
                request.data = part
                await call.write(request)
                request = media_service_pb2.UploadMediaRequest()
        if request.parent:  # nothing was sent yet: the server says what it thinks of no bytes
            await call.write(request)
        await call.done_writing()
        return media_from_wire((await call).media)
    finally:
        call.cancel()


async def read_media(services: Services, name: str, offset: int = 0) -> AsyncGenerator[bytes]:
    """The bytes of a medium from `offset` on, part by part. Raises MediaNotFoundError, SpaceNotFoundError.

    `name` is `spaces/{space}/media/{media}`.
    """
    request = media_service_pb2.ReadMediaRequest(name=name, offset=offset)
    call: StreamCall[Any, media_service_pb2.ReadMediaResponse]
    call = services.media.ReadMedia(request, timeout=services.timeout)  # type: ignore[assignment]
    try:
        async for response in call:
            if response.data:
                yield response.data
    finally:
        call.cancel()


async def _parts(source: bytes | Path | AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
    """Parts of at most PART_BYTES."""
    if isinstance(source, Path):
        async with aclosing(_file_parts(source)) as parts:
            async for part in parts:
                yield part
        return
    pieces = source if isinstance(source, AsyncIterable) else _once(source)
    async for piece in pieces:
        for start in range(0, len(piece), PART_BYTES):
            yield bytes(piece[start : start + PART_BYTES])


async def _once(data: bytes) -> AsyncGenerator[bytes]:
    yield data


async def _file_parts(path: Path) -> AsyncGenerator[bytes]:
    """The content of a file. Raises OSError if it cannot be read."""
    file = await asyncio.to_thread(path.open, "rb")
    try:
        while part := await asyncio.to_thread(file.read, PART_BYTES):
            yield part
    finally:
        await asyncio.to_thread(file.close)
