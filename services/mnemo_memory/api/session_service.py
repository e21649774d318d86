"""SessionService on the wire."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

from mnemo_memory import wire
from mnemo_memory.api.media_service import to_media_input
from mnemocore.calls import caller
from mnemocore.errors import InvalidFieldError, Violation
from mnemocore.memory.v1 import session_service_pb2 as pb
from mnemocore.memory.v1 import session_service_pb2_grpc
from mnemocore.wire import dict_to_struct, struct_to_dict, to_timestamp

if TYPE_CHECKING:
    from collections.abc import Iterator

    import grpc
    from google.protobuf.struct_pb2 import Struct

    from mnemo_memory.domain.sessions import Checkpoint, Session, Sessions

MAX_METADATA_BYTES: Final = 102_400
"""As much as the metadata of a memory may have, as JSON."""
MAX_STATE_BYTES: Final = 1024 * 1024
"""The state of a checkpoint, as JSON."""


class SessionServicer(session_service_pb2_grpc.SessionServiceServicer):
    """Converts, calls the domain, converts back."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def StartSession(
        self, request: pb.StartSessionRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.StartSessionResponse:
        session = await self._sessions.start(
            caller(),
            wire.space_of(request.parent),
            wire.text("session_id", request.session_id),
            wire.text("agent", request.agent),
            _json("metadata", request.metadata, MAX_METADATA_BYTES),
            wire.request_of(request),
        )
        return pb.StartSessionResponse(session=_from_session(session))

    async def GetSession(
        self, request: pb.GetSessionRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetSessionResponse:
        session = await self._sessions.get(
            caller(), wire.space_of(request.parent), wire.text("session_id", request.session_id)
        )
        return pb.GetSessionResponse(session=_from_session(session))

    async def ListSessions(
        self, request: pb.ListSessionsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListSessionsResponse:
        sessions, token = await self._sessions.list_sessions(
            caller(),
            wire.space_of(request.parent),
            wire.text("agent", request.agent),
            request.page_size,
            request.page_token,
            open_only=request.open_only,
        )
        return pb.ListSessionsResponse(sessions=[_from_session(session) for session in sessions], next_page_token=token)

    async def AppendToSession(
        self, request: pb.AppendToSessionRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.AppendToSessionResponse:
        paths = [f"memories[{place}]" for place in range(len(request.memories))]
        drafts = [
            (wire.to_draft(item, path), to_media_input(item, path))
            for item, path in zip(request.memories, paths, strict=True)
        ]
        space, memories, token = await self._sessions.append(
            caller(),
            wire.space_of(request.parent),
            wire.text("session_id", request.session_id),
            drafts,
            wire.request_of(request),
        )
        return pb.AppendToSessionResponse(
            memories=[wire.from_memory(space, memory) for memory in memories], written_at=wire.token(token)
        )

    async def EndSession(
        self, request: pb.EndSessionRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.EndSessionResponse:
        session = await self._sessions.end(
            caller(), wire.space_of(request.parent), wire.text("session_id", request.session_id)
        )
        return pb.EndSessionResponse(session=_from_session(session))

    async def CreateCheckpoint(
        self, request: pb.CreateCheckpointRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.CreateCheckpointResponse:
        checkpoint = await self._sessions.checkpoint(
            caller(),
            wire.space_of(request.parent),
            wire.text("session_id", request.session_id),
            wire.text("label", request.label),
            await asyncio.to_thread(_json, "state", request.state, MAX_STATE_BYTES),
            wire.request_of(request),
        )
        return pb.CreateCheckpointResponse(checkpoint=await asyncio.to_thread(_from_checkpoint, checkpoint))

    async def ListCheckpoints(
        self, request: pb.ListCheckpointsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListCheckpointsResponse:
        checkpoints, token = await self._sessions.list_checkpoints(
            caller(),
            wire.space_of(request.parent),
            wire.text("session_id", request.session_id),
            request.page_size,
            request.page_token,
        )
        return pb.ListCheckpointsResponse(
            checkpoints=[_from_checkpoint(checkpoint) for checkpoint in checkpoints], next_page_token=token
        )

    async def RestoreCheckpoint(
        self, request: pb.RestoreCheckpointRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.RestoreCheckpointResponse:
        checkpoint = await self._sessions.restore(
            caller(),
            wire.space_of(request.parent),
            wire.text("session_id", request.session_id),
            request.checkpoint_id,
        )
        return pb.RestoreCheckpointResponse(checkpoint=await asyncio.to_thread(_from_checkpoint, checkpoint))


def _json(field: str, struct: Struct, most_bytes: int) -> dict[str, Any]:
    """The content of a Struct. Raises InvalidFieldError if it is too large or holds the character U+0000."""
    content = struct_to_dict(struct)
    for each in _texts(content):
        wire.text(field, each)
    size = len(json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode())
    if size > most_bytes:
        described = f"has {size} bytes as JSON; allowed are at most {most_bytes}"
        raise InvalidFieldError.of([Violation(field, described)])
    return content


def _texts(content: Any) -> Iterator[str]:
    """Every text in JSON values, keys too."""
    pending = [content]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            yield from value
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)


def _from_session(session: Session) -> pb.Session:
    message = pb.Session(
        id=session.id, agent=session.agent, start_time=to_timestamp(session.started_at), memories=session.memories
    )
    if session.metadata:
        message.metadata.CopyFrom(dict_to_struct(session.metadata))
    if session.ended_at is not None:
        message.end_time.CopyFrom(to_timestamp(session.ended_at))
    return message


def _from_checkpoint(checkpoint: Checkpoint) -> pb.Checkpoint:
    message = pb.Checkpoint(
        id=checkpoint.id,
        session=checkpoint.session,
        label=checkpoint.label,
        create_time=to_timestamp(checkpoint.created_at),
        working_items=checkpoint.working_items,
        revision=checkpoint.revision,
    )
    if checkpoint.state is not None:
        message.state.CopyFrom(dict_to_struct(checkpoint.state))
    return message
