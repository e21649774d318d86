"""MediaService on the wire, and the media of requests that write memories."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from mnemo_memory import wire
from mnemo_memory.domain.media import MediaInput
from mnemocore.calls import caller
from mnemocore.errors import InvalidFieldError, Violation
from mnemocore.memory.v1 import media_service_pb2 as pb
from mnemocore.memory.v1 import media_service_pb2_grpc, resources_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    import grpc

    from mnemo_memory.domain.media import MediaLibrary


class MediaServicer(media_service_pb2_grpc.MediaServiceServicer):
    """Converts, calls the domain, converts back."""

    def __init__(self, media: MediaLibrary) -> None:
        self._media = media

    async def UploadMedia(
        self, request_iterator: AsyncIterator[pb.UploadMediaRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.UploadMediaResponse:
        requests = aiter(request_iterator)
        first = await anext(requests, pb.UploadMediaRequest())
        if not first.parent:
            raise InvalidFieldError.of([Violation("parent", "is required in the first part")])
        async with aclosing(_data(first, requests)) as data:
            space, media = await self._media.upload(caller(), wire.space_of(first.parent), first.mime_type, data)
        return pb.UploadMediaResponse(media=wire.from_media(space, media))

    async def ReadMedia(
        self, request: pb.ReadMediaRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.ReadMediaResponse]:
        slug, _, media_id = request.name.removeprefix("spaces/").partition("/media/")
        space, media, pieces = await self._media.read(caller(), slug, media_id, request.offset)
        response = pb.ReadMediaResponse(media=wire.from_media(space, media))
        async with aclosing(pieces):
            async for piece in pieces:
                response.data = piece
                yield response
                response = pb.ReadMediaResponse()
        if response.HasField("media"):
            yield response


def to_media_input(item: resources_pb2.MemoryInput, path: str) -> MediaInput | None:
    """The medium of an item at `path` of its request; None if it has none. Raises InvalidFieldError."""
    if not item.HasField("media"):
        return None
    if item.media.WhichOneof("source") is None:
        raise InvalidFieldError.of([Violation(f"{path}.media", "has no source; data or upload is required")])
    return MediaInput(item.media.data, item.media.upload, item.media.mime_type)


async def _data(first: pb.UploadMediaRequest, requests: AsyncIterator[pb.UploadMediaRequest]) -> AsyncGenerator[bytes]:
    """The bytes of all parts. Raises InvalidFieldError if one contradicts the first."""
    yield first.data
    async for request in requests:
        for field in ("parent", "mime_type"):
            if getattr(request, field) not in ("", getattr(first, field)):
                raise InvalidFieldError.of([Violation(field, "is another one than that of the first part")])
        yield request.data
