"""IndexService on the wire."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from mnemo_index import wire
from mnemo_index.domain.documents import Filter
from mnemocore.ids import SpaceUid
from mnemocore.index.v1 import index_service_pb2 as pb
from mnemocore.index.v1 import index_service_pb2_grpc

if TYPE_CHECKING:
    import grpc

    from mnemo_index.domain.encoder import Encoder
    from mnemo_index.domain.projection import Projection
    from mnemocore.clock import Clock


class IndexServicer(index_service_pb2_grpc.IndexServiceServicer):
    """Converts, calls the domain, converts back."""

    def __init__(self, projection: Projection, encoder: Encoder, clock: Clock) -> None:
        self._projection = projection
        self._encoder = encoder
        self._clock = clock

    async def Search(self, request: pb.SearchRequest, context: grpc.aio.ServicerContext[Any, Any]) -> pb.SearchResponse:
        space_uid = SpaceUid(request.space_uid)
        await self._projection.at_revision(space_uid, request.min_revision)
        held = await self._projection.soon_at_revision(space_uid, request.wanted_revision)
        if held is None:
            return pb.SearchResponse()
        applied = held.applied_revision
        wanted = wire.to_filter(request.filter, wire.to_moment(request, self._clock.now()), request.states)
        index = await self._projection.opened(held, wire.to_keys(request.keys))
        hits = await self._projection.run(partial(index.search, request.query, request.limit, wanted))
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

    async def FindSimilar(
        self, request: pb.FindSimilarRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.FindSimilarResponse:
        held = await self._projection.at_revision(SpaceUid(request.space_uid), request.min_revision)
        if held is None:
            return pb.FindSimilarResponse()
        applied = held.applied_revision
        wanted = wire.to_filter(request.filter, wire.to_moment(request, self._clock.now()))
        index = await self._projection.opened(held, wire.to_keys(request.keys))
        found = await self._projection.run(
            partial(index.similar, request.text, request.limit, request.min_similarity, wanted)
        )
        return pb.FindSimilarResponse(
            memories=[pb.SimilarMemory(memory_id=each.memory_id, similarity=each.similarity) for each in found],
            applied_revision=applied,
        )

    async def FindNearDuplicates(
        self, request: pb.FindNearDuplicatesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.FindNearDuplicatesResponse:
        held = await self._projection.at_revision(SpaceUid(request.space_uid), request.min_revision)
        if held is None:
            return pb.FindNearDuplicatesResponse()
        applied = held.applied_revision
        index = await self._projection.unlocked(held)
        wanted = Filter(now=self._clock.now())
        pairs, more = await self._projection.run(
            partial(index.near_duplicates, request.min_similarity, request.limit, wanted)
        )
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
        one = projection.held(SpaceUid(request.space_uid)) if request.space_uid else None
        spaces = ([one] if one else []) if request.space_uid else projection.all_held()
        response = pb.GetIndexStatusResponse(
            applied_position=projection.applied_position,
            persisted_position=projection.persisted_position,
            head_position=projection.head_position,
            memories=sum(held.size for held in spaces),
            memory_bytes=sum(held.memory_bytes for held in spaces),
            applied_revision=one.applied_revision if one else 0,
            model=projection.model,
        )
        response.lag.FromTimedelta(timedelta(seconds=projection.lag_seconds))
        return response
