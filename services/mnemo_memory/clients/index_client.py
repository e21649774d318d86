"""The index, over gRPC."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnemo_memory import wire
from mnemo_memory.domain.ports import Found, Hit, ScorePart
from mnemocore.ids import MemoryId
from mnemocore.index.v1 import index_service_pb2, index_service_pb2_grpc

if TYPE_CHECKING:
    import grpc

    from mnemo_memory.domain.memory import Filter
    from mnemocore.ids import SpaceUid


class IndexClient:
    """Implements `mnemo_memory.domain.ports.Index` on a channel to the index service."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = index_service_pb2_grpc.IndexServiceStub(channel)

    async def search(
        self, space_uid: SpaceUid, query: str, limit: int, where: Filter, min_revision: int, wanted_revision: int
    ) -> Found:
        """The best hits, best first. Raises IndexLaggingError, PeerUnavailableError."""
        response = await self._stub.Search(
            index_service_pb2.SearchRequest(
                space_uid=space_uid,
                query=query,
                limit=min(limit, 2000),
                filter=wire.from_filter(where),
                min_revision=min_revision,
                wanted_revision=wanted_revision,
            )
        )
        hits = tuple(
            Hit(
                MemoryId(hit.memory_id),
                hit.relevance,
                tuple(ScorePart(c.name, c.value, c.weight, c.contribution) for c in hit.components),
            )
            for hit in response.hits
        )
        return Found(hits, response.applied_revision)
