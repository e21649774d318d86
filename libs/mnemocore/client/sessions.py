"""Conversations and runs that go on where they stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnemocore.client import convert, values
from mnemocore.memory.v1 import session_service_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from mnemocore.client.services import Services


def session_from_wire(message: wire.Session) -> values.SessionInfo:
    """One session."""
    return values.SessionInfo(
        id=message.id,
        agent=message.agent,
        metadata=convert.struct_from_wire(message.metadata),
        start_time=convert.time_from_wire(message, "start_time"),
        end_time=convert.time_from_wire(message, "end_time"),
        memories=message.memories,
    )


def checkpoint_from_wire(message: wire.Checkpoint) -> values.Checkpoint:
    """One checkpoint."""
    return values.Checkpoint(
        id=message.id,
        session=message.session,
        label=message.label,
        state=convert.struct_from_wire(message.state) if message.HasField("state") else None,
        create_time=convert.time_from_wire(message, "create_time"),
        working_items=message.working_items,
        revision=message.revision,
    )


class Session:
    """A session of a space by its id. Comes from `Space.start_session` or `Space.session`.

    Every method raises SessionNotFoundError if it was not started.
    """

    def __init__(self, services: Services, space_id: str, session_id: str) -> None:
        self.space = space_id
        self.id = session_id
        self._services = services
        self._parent = f"spaces/{space_id}"

    async def info(self) -> values.SessionInfo:
        """Who runs it, when it was started and ended, and how many memories it has."""
        request = wire.GetSessionRequest(parent=self._parent, session_id=self.id)
        return session_from_wire((await self._services.call(self._services.sessions.GetSession, request)).session)

    async def append(self, items: Iterable[str | values.MemoryInput]) -> list[values.Memory]:
        """Keep up to 1,000 memories at the end of the session, all or none. Raises SessionEndedError.

        They need not name the session, and may name no other.
        """
        now = self._services.clock.now()
        inputs = [values.MemoryInput(item) if isinstance(item, str) else item for item in items]
        request = wire.AppendToSessionRequest(
            parent=self._parent,
            session_id=self.id,
            memories=[convert.memory_input_to_wire(item, now) for item in inputs],
            request_id=self._services.request_id(),
        )
        response = await self._services.write(self.space, self._services.sessions.AppendToSession, request)
        return [convert.memory_from_wire(memory) for memory in response.memories]

    async def end(self) -> values.SessionInfo:
        """End it: nothing can be appended any more. Ending it twice changes nothing."""
        request = wire.EndSessionRequest(parent=self._parent, session_id=self.id)
        return session_from_wire((await self._services.call(self._services.sessions.EndSession, request)).session)

    async def checkpoint(self, state: Mapping[str, values.Json] | None = None, *, label: str = "") -> values.Checkpoint:
        """Keep the state of the agent, its working memory included: anything that is JSON, up to 1 MiB.

        The 100 newest checkpoints are kept.
        """
        request = wire.CreateCheckpointRequest(
            parent=self._parent, session_id=self.id, request_id=self._services.request_id()
        )
        convert.assign(request, "label", label)
        convert.struct_to_wire(state or {}, request.state, "state")
        response = await self._services.call(self._services.sessions.CreateCheckpoint, request)
        return checkpoint_from_wire(response.checkpoint)

    async def checkpoints(self, *, page_size: int = 0) -> AsyncIterator[values.Checkpoint]:
        """The checkpoints, newest first, without their states. Reads page by page."""
        request = wire.ListCheckpointsRequest(parent=self._parent, session_id=self.id, page_size=page_size)
        async for page in self._services.pages(self._services.sessions.ListCheckpoints, request):
            for checkpoint in page.checkpoints:
                yield checkpoint_from_wire(checkpoint)

    async def restore_checkpoint(self, id: str = "") -> values.Checkpoint:
        """A checkpoint with its state, the newest without `id`; the agent's working memory is as it was then.

        Memories are not touched. Raises CheckpointNotFoundError.
        """
        request = wire.RestoreCheckpointRequest(parent=self._parent, session_id=self.id, checkpoint_id=id)
        response = await self._services.call(self._services.sessions.RestoreCheckpoint, request)
        return checkpoint_from_wire(response.checkpoint)

    def __repr__(self) -> str:
        return f"Session({self.space!r}, {self.id!r})"
