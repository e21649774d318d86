"""WorkingMemoryService on the wire."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from mnemo_memory import wire
from mnemocore.calls import caller
from mnemocore.errors import InvalidFieldError, Violation
from mnemocore.memory.v1 import resources_pb2, working_memory_service_pb2_grpc
from mnemocore.memory.v1 import working_memory_service_pb2 as pb
from mnemocore.wire import dict_to_struct, to_timestamp

if TYPE_CHECKING:
    import grpc
    from google.protobuf.duration_pb2 import Duration

    from mnemo_memory.domain.memory import Draft
    from mnemo_memory.domain.working_memory import WorkingItem, WorkingMemory


class WorkingMemoryServicer(working_memory_service_pb2_grpc.WorkingMemoryServiceServicer):
    """Converts, calls the domain, converts back."""

    def __init__(self, working_memory: WorkingMemory) -> None:
        self._working_memory = working_memory

    async def PushWorkingItem(
        self, request: pb.PushWorkingItemRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.PushWorkingItemResponse:
        if request.memory.HasField("media"):
            raise InvalidFieldError.of([Violation("memory.media", "is not allowed: working memory holds text only")])
        pushed = await self._working_memory.push(
            caller(),
            wire.space_of(request.parent),
            wire.text("agent", request.agent),
            wire.text("session", request.session),
            wire.to_draft(request.memory, "memory"),
            protected=request.protected,
            life=_to_life(request.ttl) if request.HasField("ttl") else None,
            request=wire.request_of(request),
        )
        return pb.PushWorkingItemResponse(item=_from_item(pushed.item), evicted_id=pushed.evicted_id)

    async def ListWorkingItems(
        self, request: pb.ListWorkingItemsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListWorkingItemsResponse:
        items = await self._working_memory.list_items(
            caller(),
            wire.space_of(request.parent),
            wire.text("agent", request.agent),
            wire.text("session", request.session),
        )
        return pb.ListWorkingItemsResponse(items=[_from_item(item) for item in items])

    async def ClearWorkingMemory(
        self, request: pb.ClearWorkingMemoryRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ClearWorkingMemoryResponse:
        removed = await self._working_memory.clear(
            caller(),
            wire.space_of(request.parent),
            wire.text("agent", request.agent),
            wire.text("session", request.session),
            request.ids,
        )
        return pb.ClearWorkingMemoryResponse(removed=removed)

    async def PromoteWorkingItem(
        self, request: pb.PromoteWorkingItemRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.PromoteWorkingItemResponse:
        space, memory = await self._working_memory.promote(
            caller(), wire.space_of(request.parent), request.id, wire.request_of(request)
        )
        return pb.PromoteWorkingItemResponse(memory=wire.from_memory(space, memory))


def _to_life(duration: Duration) -> timedelta:
    try:
        return timedelta(seconds=duration.seconds, microseconds=duration.nanos // 1000)
    except OverflowError:
        raise InvalidFieldError.of([Violation("ttl", f"{duration.seconds} s is no duration")]) from None


def _from_item(item: WorkingItem) -> pb.WorkingItem:
    message = pb.WorkingItem(
        id=item.id,
        agent=item.agent,
        session=item.session,
        memory=_from_draft(item.draft),
        protected=item.protected,
        access_count=item.accesses,
        create_time=to_timestamp(item.created_at),
    )
    if item.expires_at is not None:
        message.expire_time.CopyFrom(to_timestamp(item.expires_at))
    return message


def _from_draft(draft: Draft) -> resources_pb2.MemoryInput:
    message = resources_pb2.MemoryInput(
        id=draft.id or "",
        kind=resources_pb2.MemoryKind.ValueType(draft.kind),
        content=draft.content,
        tags=draft.tags,
        actor=draft.actor,
        session=draft.session,
        ordinal=draft.ordinal,
        importance=draft.importance,
        confidence=draft.confidence,
        protected=draft.protected,
        on_duplicate=resources_pb2.OnDuplicate.ValueType(draft.on_duplicate),
        novelty_gate=resources_pb2.NoveltyGate.ValueType(draft.novelty_gate),
    )
    if draft.metadata:
        message.metadata.CopyFrom(dict_to_struct(draft.metadata))
    moments = (
        (message.occurred_at, draft.occurred_at),
        (message.valid_from, draft.valid_from),
        (message.valid_to, draft.valid_to),
        (message.expires_at, draft.expires_at),
    )
    for field, moment in moments:
        if moment is not None:
            field.CopyFrom(to_timestamp(moment))
    provenance = draft.provenance
    if provenance.origin or provenance.sources or provenance.agent:
        message.provenance.origin = resources_pb2.Origin.ValueType(provenance.origin)
        message.provenance.sources.extend(provenance.sources)
        message.provenance.agent = provenance.agent
    return message
