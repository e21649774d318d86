"""MemoryService on the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mnemo_memory import wire
from mnemocore.calls import caller
from mnemocore.errors import InvalidFieldError, MemoryExistsError, MnemoError, Violation
from mnemocore.memory.v1 import memory_service_pb2 as pb
from mnemocore.memory.v1 import memory_service_pb2_grpc, resources_pb2
from mnemocore.server import Validator
from mnemocore.status import to_status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import grpc

    from mnemo_memory.domain.memories import Memories
    from mnemo_memory.domain.memory import Draft
    from mnemo_memory.domain.recall import Recall

_ITEM = Validator.for_message(resources_pb2.MemoryInput.DESCRIPTOR)


class MemoryServicer(memory_service_pb2_grpc.MemoryServiceServicer):
    """Converts, calls the domain, converts back."""

    def __init__(self, memories: Memories, recall: Recall) -> None:
        self._memories = memories
        self._recall = recall

    async def CreateMemory(
        self, request: pb.CreateMemoryRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.CreateMemoryResponse:
        space, memories, token = await self._memories.create(
            caller(),
            wire.space_of(request.parent),
            [wire.to_draft(request.memory, "memory")],
            wire.request_of(request),
        )
        return pb.CreateMemoryResponse(memory=wire.from_memory(space, memories[0]), written_at=wire.token(token))

    async def BatchCreateMemories(
        self, request: pb.BatchCreateMemoriesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.BatchCreateMemoriesResponse:
        drafts = [wire.to_draft(item, f"memories[{number}]") for number, item in enumerate(request.memories)]
        space, memories, token = await self._memories.create(
            caller(), wire.space_of(request.parent), drafts, wire.request_of(request)
        )
        return pb.BatchCreateMemoriesResponse(
            memories=[wire.from_memory(space, memory) for memory in memories], written_at=wire.token(token)
        )

    async def IngestMemories(
        self, request_iterator: AsyncIterator[pb.IngestMemoriesRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.IngestMemoriesResponse]:
        number = 0
        async for request in request_iterator:
            yield await self._ingest(number, request)
            number += 1

    async def _ingest(self, number: int, request: pb.IngestMemoriesRequest) -> pb.IngestMemoriesResponse:
        results: list[pb.IngestResult | None] = [None] * len(request.memories)
        drafts: list[tuple[int, Draft]] = []
        for place, item in enumerate(request.memories):
            try:
                drafts.append((place, _checked(item, f"memories[{place}]")))
            except InvalidFieldError as error:
                results[place] = _refused(error)
        response = pb.IngestMemoriesResponse(batch=number)
        if drafts:
            space, memories, token = await self._memories.create_each(
                caller(),
                wire.space_of(request.parent),
                [draft for _, draft in drafts],
                wire.request_of(request),
            )
            for (place, draft), memory in zip(drafts, memories, strict=True):
                name = wire.memory_name(space, memory.id) if memory else f"{space.name}/memories/{draft.id}"
                results[place] = pb.IngestResult(name=name) if memory else _refused(MemoryExistsError(memory=name))
            response.written_at.value = token
        response.results.extend(result for result in results if result is not None)
        return response

    async def GetMemory(
        self, request: pb.GetMemoryRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetMemoryResponse:
        slug, memory_id = wire.memory_of(request.name)
        space, memory = await self._memories.get_one(caller(), slug, memory_id)
        return pb.GetMemoryResponse(memory=wire.from_memory(space, memory))

    async def BatchGetMemories(
        self, request: pb.BatchGetMemoriesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.BatchGetMemoriesResponse:
        space, memories, missing = await self._memories.get(
            caller(), wire.space_of(request.parent), wire.ids_of(request.ids)
        )
        return pb.BatchGetMemoriesResponse(
            memories=[wire.from_memory(space, memory) for memory in memories], missing=missing
        )

    async def ListMemories(
        self, request: pb.ListMemoriesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListMemoriesResponse:
        space, memories, token = await self._memories.list_memories(
            caller(),
            wire.space_of(request.parent),
            wire.to_filter(request.filter),
            wire.to_states(request.states),
            request.page_size,
            request.page_token,
        )
        return pb.ListMemoriesResponse(
            memories=[wire.from_memory(space, memory) for memory in memories], next_page_token=token
        )

    async def DeleteMemory(
        self, request: pb.DeleteMemoryRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.DeleteMemoryResponse:
        slug, memory_id = wire.memory_of(request.name)
        token = await self._memories.delete(
            caller(),
            slug,
            memory_id,
            purge=request.purge,
            etag=request.etag,
            reason=wire.text("reason", request.reason),
            request=wire.request_of(request),
        )
        return pb.DeleteMemoryResponse(written_at=wire.token(token))

    async def RestoreMemory(
        self, request: pb.RestoreMemoryRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.RestoreMemoryResponse:
        slug, memory_id = wire.memory_of(request.name)
        space, memory, token = await self._memories.restore(
            caller(),
            slug,
            memory_id,
            etag=request.etag,
            reason=wire.text("reason", request.reason),
            request=wire.request_of(request),
        )
        return pb.RestoreMemoryResponse(memory=wire.from_memory(space, memory), written_at=wire.token(token))

    async def RecallMemories(
        self, request: pb.RecallMemoriesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.RecallMemoriesResponse:
        space, recalled, token = await self._recall.recall(
            caller(),
            wire.space_of(request.parent),
            request.query,
            request.limit,
            wire.to_filter(request.filter),
            wire.to_profile(request.profile),
            wire.to_freshness(request.consistency),
        )
        return pb.RecallMemoriesResponse(
            results=[wire.from_recalled(space, each) for each in recalled], read_at=wire.token(token)
        )

    async def ListRevisions(
        self, request: pb.ListRevisionsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListRevisionsResponse:
        slug, memory_id = wire.parent_of(request.parent)
        space, revisions, token = await self._memories.history(
            caller(), slug, memory_id, request.page_size, request.page_token
        )
        return pb.ListRevisionsResponse(
            revisions=[wire.from_revision(space, revision) for revision in revisions], next_page_token=token
        )


def _checked(item: resources_pb2.MemoryInput, path: str) -> Draft:
    broken = _ITEM.violations(item)
    if broken:
        raise InvalidFieldError.of([Violation(f"{path}.{each.field}", each.description) for each in broken])
    return wire.to_draft(item, path)


def _refused(error: MnemoError) -> pb.IngestResult:
    return pb.IngestResult(error=to_status(error))
