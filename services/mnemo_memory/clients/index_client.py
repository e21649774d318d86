"""The index, over gRPC."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar

from mnemo_memory import wire
from mnemo_memory.domain.index_check import Contents
from mnemo_memory.domain.ports import Found, Hit, ScorePart
from mnemocore.common.v1 import resources_pb2 as common_pb2
from mnemocore.errors import IndexLaggingError, KeyUnavailableError
from mnemocore.ids import MemoryId
from mnemocore.index.v1 import index_service_pb2 as pb
from mnemocore.index.v1 import index_service_pb2_grpc
from mnemocore.memory.v1 import resources_pb2
from mnemocore.wire import to_timestamp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    import grpc

    from mnemo_memory.domain.memory import Filter, Space
    from mnemo_memory.domain.ports import Question, Vault
    from mnemocore.clock import Clock
    from mnemocore.sealing import SpaceCipher

MOST_HITS: Final = 2000
SETTLE_SECONDS: Final = 60.0
"""How long the index is waited for until it has applied a revision."""
_LOOK_SECONDS: Final = 0.05
Q = TypeVar("Q", pb.SearchRequest, pb.FindSimilarRequest)
A = TypeVar("A")


class IndexClient:
    """Implements `mnemo_memory.domain.ports.Index` on a channel to the index service.

    The keys of encrypted spaces go with every question: the index has them from nowhere else.
    """

    def __init__(self, channel: grpc.aio.Channel, vault: Vault, clock: Clock) -> None:
        self._stub = index_service_pb2_grpc.IndexServiceStub(channel)
        self._vault = vault
        self._clock = clock

    async def search(self, space: Space, question: Question) -> Found:
        """The best hits, best first. Raises IndexLaggingError, PeerUnavailableError, KeyUnavailableError."""
        request = pb.SearchRequest(
            space_uid=space.uid,
            query=question.query,
            limit=min(question.limit, MOST_HITS),
            filter=wire.from_filter(question.where),
            min_revision=question.min_revision,
            wanted_revision=question.wanted_revision,
            states=[resources_pb2.MemoryState.ValueType(state) for state in question.states],
            now=to_timestamp(question.now),
        )
        response = await self._asked(space, request, self._stub.Search)
        hits = tuple(
            Hit(
                MemoryId(hit.memory_id),
                hit.relevance,
                tuple(ScorePart(c.name, c.value, c.weight, c.contribution) for c in hit.components),
            )
            for hit in response.hits
        )
        without_encoder = common_pb2.DEGRADED_PART_ENCODER in response.degraded
        return Found(hits, response.applied_revision, without_encoder)

    async def similar(
        self, space: Space, text: str, limit: int, where: Filter, least: float, revision: int, now: datetime
    ) -> list[tuple[MemoryId, float]]:
        """Active memories that say something like a text. Raises UnavailableError, KeyUnavailableError."""
        request = pb.FindSimilarRequest(
            space_uid=space.uid,
            text=text,
            limit=limit,
            filter=wire.from_filter(where),
            min_similarity=least,
            min_revision=revision,
            now=to_timestamp(now),
        )
        response = await self._asked(space, request, self._stub.FindSimilar)
        return [(MemoryId(each.memory_id), each.similarity) for each in response.memories]

    async def settled(self, space: Space, revision: int) -> None:
        """Return when the index has applied `revision`. Raises IndexLaggingError, PeerUnavailableError."""
        request = pb.GetIndexStatusRequest(space_uid=space.uid)
        applied = 0
        try:
            async with asyncio.timeout(SETTLE_SECONDS):
                while (applied := (await self._stub.GetIndexStatus(request)).applied_revision) < revision:
                    await self._clock.sleep(_LOOK_SECONDS)
        except TimeoutError:
            raise IndexLaggingError(
                retry_after=1.0, space=space.name, wanted=str(revision), applied=str(applied)
            ) from None

    async def compare(self, space: Space, contents: Contents, base: int) -> Contents | None:
        """What the index holds of a space; None if it has not got to the revision and is still reading the log.

        Raises UnavailableError.
        """
        request = pb.CompareSpaceRequest(
            space_uid=space.uid,
            revision=contents.revision,
            memories=contents.memories,
            checksum=contents.checksum,
            base_revision=base,
        )
        held = await self._stub.CompareSpace(request)
        if held.revision < contents.revision and not held.at_head:
            return None
        return Contents(held.revision, held.memories, held.checksum)

    async def _asked(self, space: Space, request: Q, call: Callable[[Q], Awaitable[A]]) -> A:
        """The answer to a question with the keys of the space; asked again if the index knows of a newer key."""
        cipher = await self._vault.cipher(space)
        try:
            return await call(_with_keys(request, cipher))
        except KeyUnavailableError:
            if cipher is None:
                raise
            return await call(_with_keys(request, await self._vault.renewed(space)))


def _with_keys(request: Q, cipher: SpaceCipher | None) -> Q:
    if cipher is not None:
        del request.keys[:]
        request.keys.extend(pb.SpaceKey(id=each.id, key=each.key) for each in cipher.keys)
    return request
