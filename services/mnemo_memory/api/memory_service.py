"""MemoryService on the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from mnemo_memory import wire
from mnemo_memory.api.media_service import to_media_input
from mnemo_memory.domain.memories import Edit, New
from mnemo_memory.domain.recall import Inquiry
from mnemocore.calls import caller
from mnemocore.errors import InvalidFieldError, MnemoError, Violation
from mnemocore.memory.v1 import memory_service_pb2 as pb
from mnemocore.memory.v1 import memory_service_pb2_grpc, resources_pb2
from mnemocore.server import Validator
from mnemocore.status import to_status
from mnemocore.wire import to_datetime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Container

    import grpc

    from mnemo_memory.domain.active_days import ActiveDays
    from mnemo_memory.domain.memories import Memories, Remembered
    from mnemo_memory.domain.memory import Memory, Space
    from mnemo_memory.domain.recall import Recall
    from mnemocore.clock import Clock

_Change: TypeAlias = (
    "pb.DeleteMemoryRequest | pb.RestoreMemoryRequest | pb.UpdateMemoryRequest | pb.ProtectMemoryRequest "
    "| pb.SupersedeMemoryRequest"
)
_ITEM = Validator.for_message(resources_pb2.MemoryInput.DESCRIPTOR)


class MemoryServicer(memory_service_pb2_grpc.MemoryServiceServicer):
    """Converts, calls the domain, converts back."""

    def __init__(self, memories: Memories, recall: Recall, active_days: ActiveDays, clock: Clock) -> None:
        self._memories = memories
        self._recall = recall
        self._active_days = active_days
        self._clock = clock

    async def CreateMemory(
        self, request: pb.CreateMemoryRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.CreateMemoryResponse:
        space, remembered, token = await self._memories.create_one(
            caller(), wire.space_of(request.parent), _new(request.memory, "memory"), wire.request_of(request)
        )
        return pb.CreateMemoryResponse(
            memory=self._message(space, remembered.memory),
            written_at=wire.token(token),
            duplicate=remembered.duplicate,
            novelty=resources_pb2.NoveltyDecision.ValueType(remembered.novelty or 0),
        )

    async def BatchCreateMemories(
        self, request: pb.BatchCreateMemoriesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.BatchCreateMemoriesResponse:
        items = [_new(item, f"memories[{number}]") for number, item in enumerate(request.memories)]
        space, outcomes, token = await self._memories.create(
            caller(), wire.space_of(request.parent), items, wire.request_of(request)
        )
        return pb.BatchCreateMemoriesResponse(
            memories=[self._message(space, outcome.memory) for outcome in outcomes], written_at=wire.token(token)
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
        items: list[tuple[int, New]] = []
        for place, item in enumerate(request.memories):
            try:
                items.append((place, _checked(item, f"memories[{place}]")))
            except InvalidFieldError as error:
                results[place] = _refused(error)
        response = pb.IngestMemoriesResponse(batch=number)
        if items:
            space, outcomes, token = await self._memories.create_each(
                caller(), wire.space_of(request.parent), [item for _, item in items], wire.request_of(request)
            )
            for (place, _), outcome in zip(items, outcomes, strict=True):
                results[place] = _result(space, outcome)
            if token:
                response.written_at.value = token
        response.results.extend(result for result in results if result is not None)
        return response

    async def GetMemory(
        self, request: pb.GetMemoryRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetMemoryResponse:
        slug, memory_id = wire.memory_of(request.name)
        space, memory = await self._memories.get_one(
            caller(),
            slug,
            memory_id,
            as_of=to_datetime(request.as_of) if request.HasField("as_of") else None,
            at_once=request.consistency.minimize_latency,
            touch=request.touch,
        )
        response = pb.GetMemoryResponse(memory=self._message(space, memory))
        if not request.HasField("as_of") and not request.consistency.minimize_latency:
            retained = await self._active_days.retained(space, memory)
            response.retention = retained.retention
            response.retention_state = pb.RetentionState.ValueType(retained.candidacy)
        return response

    async def BatchGetMemories(
        self, request: pb.BatchGetMemoriesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.BatchGetMemoriesResponse:
        space, memories, missing = await self._memories.get(
            caller(), wire.space_of(request.parent), wire.ids_of(request.ids)
        )
        return pb.BatchGetMemoriesResponse(
            memories=[self._message(space, memory) for memory in memories], missing=missing
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
            memories=[self._message(space, memory) for memory in memories], next_page_token=token
        )

    async def DeleteMemory(
        self, request: pb.DeleteMemoryRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.DeleteMemoryResponse:
        slug, memory_id = wire.memory_of(request.name)
        if request.purge:
            token = await self._memories.erase(caller(), slug, memory_id, _edit(request))
        else:
            _, _, token = await self._memories.archive(caller(), slug, memory_id, _edit(request))
        return pb.DeleteMemoryResponse(written_at=wire.token(token))

    async def RestoreMemory(
        self, request: pb.RestoreMemoryRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.RestoreMemoryResponse:
        slug, memory_id = wire.memory_of(request.name)
        space, memory, token = await self._memories.restore(caller(), slug, memory_id, _edit(request))
        return pb.RestoreMemoryResponse(memory=self._message(space, memory), written_at=wire.token(token))

    async def UpdateMemory(
        self, request: pb.UpdateMemoryRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.UpdateMemoryResponse:
        slug, memory_id = wire.memory_of(request.name)
        _refuse_broken(request.memory, "memory", set(request.update_mask.paths))
        update = wire.to_update(request.memory, request.update_mask.paths, "memory")
        space, memory, token = await self._memories.update(caller(), slug, memory_id, update, _edit(request))
        return pb.UpdateMemoryResponse(memory=self._message(space, memory), written_at=wire.token(token))

    async def ProtectMemory(
        self, request: pb.ProtectMemoryRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ProtectMemoryResponse:
        slug, memory_id = wire.memory_of(request.name)
        space, memory, token = await self._memories.protect(
            caller(), slug, memory_id, request.protected, _edit(request)
        )
        return pb.ProtectMemoryResponse(memory=self._message(space, memory), written_at=wire.token(token))

    async def SupersedeMemory(
        self, request: pb.SupersedeMemoryRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.SupersedeMemoryResponse:
        slug, memory_id = wire.memory_of(request.name)
        space, fresh, old, token = await self._memories.supersede(
            caller(), slug, memory_id, _new(request.memory, "memory"), _edit(request)
        )
        return pb.SupersedeMemoryResponse(
            memory=self._message(space, fresh), superseded=self._message(space, old), written_at=wire.token(token)
        )

    async def RecordFeedback(
        self, request: pb.RecordFeedbackRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.RecordFeedbackResponse:
        slug, memory_id = wire.memory_of(request.name)
        weight = request.weight if request.HasField("weight") else 1.0
        edit = Edit(reason=wire.text("reason", request.reason), request=wire.request_of(request))
        space, memory, token = await self._memories.record_feedback(
            caller(), slug, memory_id, request.positive, weight, edit
        )
        return pb.RecordFeedbackResponse(memory=self._message(space, memory), written_at=wire.token(token))

    async def RecallMemories(
        self, request: pb.RecallMemoriesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.RecallMemoriesResponse:
        inquiry = Inquiry(
            query=request.query,
            limit=request.limit,
            where=wire.to_filter(request.filter),
            profile=wire.to_profile(request.profile),
            freshness=wire.to_freshness(request.consistency),
            states=tuple(wire.to_states(request.states)),
            known_at=to_datetime(request.known_at) if request.HasField("known_at") else None,
            min_score=request.min_score,
        )
        answer = await self._recall.recall(caller(), wire.space_of(request.parent), inquiry)
        now = self._clock.now()
        return pb.RecallMemoriesResponse(
            results=[wire.from_recalled(answer.space, each, now) for each in answer.recalled],
            read_at=wire.token(answer.token),
            degraded=wire.from_degraded(answer),
        )

    async def ListRevisions(
        self, request: pb.ListRevisionsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListRevisionsResponse:
        slug, memory_id = wire.parent_of(request.parent)
        as_of = to_datetime(request.as_of) if request.HasField("as_of") else None
        space, revisions, token = await self._memories.history(
            caller(), slug, memory_id, as_of, request.page_size, request.page_token
        )
        return pb.ListRevisionsResponse(
            revisions=[wire.from_revision(space, revision) for revision in revisions], next_page_token=token
        )

    def _message(self, space: Space, memory: Memory) -> resources_pb2.Memory:
        return wire.from_memory(space, memory, self._clock.now())


def _new(item: resources_pb2.MemoryInput, path: str) -> New:
    return New(wire.to_draft(item, path), to_media_input(item, f"{path}.media"))


def _edit(request: _Change) -> Edit:
    """How a change is asked for; every request that changes a memory has these fields."""
    return Edit(request.etag, wire.text("reason", request.reason), wire.request_of(request))


def _checked(item: resources_pb2.MemoryInput, path: str) -> New:
    _refuse_broken(item, path)
    return _new(item, path)


def _refuse_broken(item: resources_pb2.MemoryInput, path: str, fields: Container[str] | None = None) -> None:
    """Raise InvalidFieldError for the rules that fields of an item break; all of them, or those named in `fields`."""
    broken = [
        each
        for each in _ITEM.violations(item)
        if fields is None or each.field.partition(".")[0].partition("[")[0] in fields
    ]
    if broken:
        raise InvalidFieldError.of([Violation(f"{path}.{each.field}", each.description) for each in broken])


def _result(space: Space, outcome: Remembered | MnemoError) -> pb.IngestResult:
    if isinstance(outcome, MnemoError):
        return _refused(outcome)
    return pb.IngestResult(name=wire.memory_name(space, outcome.memory.id), duplicate=outcome.duplicate)


def _refused(error: MnemoError) -> pb.IngestResult:
    return pb.IngestResult(error=to_status(error))
