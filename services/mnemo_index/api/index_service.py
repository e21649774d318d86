"""IndexService on the wire."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from mnemo_index import wire
from mnemo_index.domain.documents import Filter
from mnemo_index.domain.fingerprint import Fingerprint
from mnemo_index.domain.space_index import SpaceIndex
from mnemocore.common.v1 import resources_pb2 as common_pb2
from mnemocore.ids import SpaceUid
from mnemocore.index.v1 import index_service_pb2 as pb
from mnemocore.index.v1 import index_service_pb2_grpc

if TYPE_CHECKING:
    from concurrent.futures import Executor

    import grpc

    from mnemo_index.domain.backlog import Backlog
    from mnemo_index.domain.engine import SpaceEngine
    from mnemo_index.domain.models import Encoders
    from mnemo_index.domain.projection import Projection
    from mnemo_index.domain.search import Hit
    from mnemocore.clock import Clock


class IndexServicer(index_service_pb2_grpc.IndexServiceServicer):
    """Converts, calls the domain, converts back."""

    def __init__(
        self, projection: Projection, encoders: Encoders, backlog: Backlog, questions: Executor, clock: Clock
    ) -> None:
        self._projection = projection
        self._encoders = encoders
        self._backlog = backlog
        self._questions = questions
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
        hits, by_words_only = await self._searched(index, request.query, request.limit, wanted)
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
            degraded=[common_pb2.DEGRADED_PART_ENCODER] if by_words_only else [],
        )

    async def _searched(self, index: SpaceEngine, query: str, limit: int, wanted: Filter) -> tuple[list[Hit], bool]:
        """The hits, and whether only words were searched. A slow encoder keeps no other search waiting."""
        if not (isinstance(index, SpaceIndex) and index.deferred):
            return await self._projection.run(partial(index.search, query, limit, wanted)), False
        asked = await self._projection.run(partial(index.ask, query), self._questions)
        return await self._projection.run(partial(index.answer, asked, limit, wanted)), asked.by_words_only

    async def FindSimilar(
        self, request: pb.FindSimilarRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.FindSimilarResponse:
        held = await self._projection.at_revision(SpaceUid(request.space_uid), request.min_revision)
        if held is None:
            return pb.FindSimilarResponse()
        applied = held.applied_revision
        wanted = wire.to_filter(request.filter, wire.to_moment(request, self._clock.now()))
        index = await self._projection.opened(held, wire.to_keys(request.keys))
        work = partial(index.similar, request.text, request.limit, request.min_similarity, wanted)
        if isinstance(index, SpaceIndex) and index.deferred:
            await self._backlog.soon_encoded(index)
            found = await self._projection.run(work, self._questions)
        else:
            found = await self._projection.run(work)
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
        encoder = self._encoders.chosen
        executor = self._questions if self._encoders.remote(encoder.model) else None
        vectors = await self._projection.run(partial(encoder.encode, list(request.texts)), executor)
        return pb.EncodeTextsResponse(
            vectors=[vector.astype("<f4").tobytes() for vector in vectors],
            dimension=encoder.dimension,
            model=encoder.model,
        )

    async def CompareSpace(
        self, request: pb.CompareSpaceRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.CompareSpaceResponse:
        wanted = Fingerprint(request.revision, request.memories, request.checksum)
        found = await self._projection.compare(SpaceUid(request.space_uid), wanted, request.base_revision)
        return pb.CompareSpaceResponse(
            revision=found.applied_revision,
            memories=found.memories,
            checksum=found.checksum,
            at_head=self._projection.applied_position >= self._projection.head_position,
        )

    async def GetIndexStatus(
        self, request: pb.GetIndexStatusRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetIndexStatusResponse:
        projection = self._projection
        one = projection.status(SpaceUid(request.space_uid)) if request.space_uid else None
        spaces = ([one] if one else []) if request.space_uid else projection.all_status()
        response = pb.GetIndexStatusResponse(
            applied_position=projection.applied_position,
            persisted_position=projection.persisted_position,
            head_position=projection.head_position,
            memories=sum(space.size for space in spaces),
            memory_bytes=sum(space.memory_bytes for space in spaces),
            applied_revision=one.applied_revision if one else 0,
            model=self._encoders.chosen.model,
            waiting_memories=sum(status.waiting for status in spaces),
        )
        response.lag.FromTimedelta(timedelta(seconds=projection.lag_seconds))
        return response
