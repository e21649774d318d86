"""IndexService on the wire."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from mnemo_index import wire
from mnemocore.ids import SpaceUid
from mnemocore.index.v1 import index_service_pb2 as pb
from mnemocore.index.v1 import index_service_pb2_grpc

if TYPE_CHECKING:
    import grpc

    from mnemo_index.domain.encoder import Encoder
    from mnemo_index.domain.projection import Projection


class IndexServicer(index_service_pb2_grpc.IndexServiceServicer):
    """Converts, calls the domain, converts back."""

    def __init__(self, projection: Projection, encoder: Encoder) -> None:
        self._projection = projection
        self._encoder = encoder

    async def Search(self, request: pb.SearchRequest, context: grpc.aio.ServicerContext[Any, Any]) -> pb.SearchResponse:
        space_uid = SpaceUid(request.space_uid)
        await self._projection.at_revision(space_uid, request.min_revision)
        index = await self._projection.soon_at_revision(space_uid, request.wanted_revision)
        if index is None:
            return pb.SearchResponse()
        applied = index.applied_revision
        hits = await self._projection.run(
            partial(index.search, request.query, request.limit, wire.to_filter(request.filter))
        )
        return pb.SearchResponse(
            hits=[
                pb.SearchHit(
                    memory_id=hit.memory_id,
                    relevance=hit.relevance,
                    components=[wire.from_part(part) for part in hit.components],
                )
                for hit in hits
            ],
            applied_revision=applied,
        )

    async def FindNearDuplicates(
        self, request: pb.FindNearDuplicatesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.FindNearDuplicatesResponse:
        index = await self._projection.at_revision(SpaceUid(request.space_uid), request.min_revision)
        if index is None:
            return pb.FindNearDuplicatesResponse()
        applied = index.applied_revision
        pairs, more = await self._projection.run(partial(index.near_duplicates, request.min_similarity, request.limit))
        return pb.FindNearDuplicatesResponse(
            pairs=[
                pb.NearDuplicatePair(
                    first_memory_id=pair.first, second_memory_id=pair.second, similarity=pair.similarity
                )
                for pair in pairs
            ],
            applied_revision=applied,
            truncated=more,
        )

    async def EncodeTexts(
        self, request: pb.EncodeTextsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.EncodeTextsResponse:
        vectors = await self._projection.run(partial(self._encoder.encode, list(request.texts)))
        return pb.EncodeTextsResponse(
            vectors=[vector.astype("<f4").tobytes() for vector in vectors],
            dimension=self._encoder.dimension,
            model=self._encoder.model,
        )

    async def GetIndexStatus(
        self, request: pb.GetIndexStatusRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetIndexStatusResponse:
        projection = self._projection
        one = projection.index(SpaceUid(request.space_uid)) if request.space_uid else None
        indexes = ([one] if one else []) if request.space_uid else projection.indexes()
        response = pb.GetIndexStatusResponse(
            applied_position=projection.applied_position,
            persisted_position=projection.persisted_position,
            head_position=projection.head_position,
            memories=sum(index.size for index in indexes),
            memory_bytes=sum(index.memory_bytes for index in indexes),
            applied_revision=one.applied_revision if one else 0,
            model=projection.model,
        )
        response.lag.FromTimedelta(timedelta(seconds=projection.lag_seconds))
        return response
