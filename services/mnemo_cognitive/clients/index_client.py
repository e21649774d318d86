"""The index, over gRPC."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mnemo_cognitive.domain.consolidation import Pair
from mnemocore.index.v1 import index_service_pb2, index_service_pb2_grpc

if TYPE_CHECKING:
    import grpc

    from mnemo_cognitive.domain.ports import SpaceState

MAX_PAIRS: Final = 100_000


class IndexClient:
    """Implements `mnemo_cognitive.domain.ports.Index` on a channel to the index service."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = index_service_pb2_grpc.IndexServiceStub(channel)

    async def near_duplicates(self, space: str, state: SpaceState, min_similarity: float) -> list[Pair]:
        """Pairs of active memories that say the same, most similar first, by public names."""
        response = await self._stub.FindNearDuplicates(
            index_service_pb2.FindNearDuplicatesRequest(
                space_uid=state.uid, min_similarity=min_similarity, limit=MAX_PAIRS, min_revision=state.revision
            )
        )
        return [
            Pair(
                f"{space}/memories/{pair.first_memory_id}",
                f"{space}/memories/{pair.second_memory_id}",
                pair.similarity,
            )
            for pair in response.pairs
        ]
