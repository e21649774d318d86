"""A space as a program sees it: keep memories, find them, forget them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnemocore.client import convert, values
from mnemocore.client.ingest import Ingestion, OnError
from mnemocore.cognitive.v1 import cognition_service_pb2
from mnemocore.common.v1.resources_pb2 import Consistency
from mnemocore.errors import SpaceNotFoundError
from mnemocore.memory.v1 import memory_service_pb2, space_service_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from mnemocore.client.services import Services


class Space:
    """A handle on the space `id`; it need not exist. Comes from `Connection.space`.

    The first memory kept in a space that does not exist makes it; everything else raises SpaceNotFoundError. Recall
    finds what this connection has written before.
    """

    def __init__(self, services: Services, space_id: str) -> None:
        self.id = space_id
        self._services = services
        self._name = f"spaces/{space_id}"
        self._freshness = services.freshness(space_id)

    async def remember(
        self,
        content: str,
        *,
        kind: values.MemoryKind | str = values.MemoryKind.OBSERVATION,
        metadata: Mapping[str, values.Json] | None = None,
        tags: Sequence[str] = (),
        actor: str = "",
        session: str = "",
        ordinal: int | None = None,
        occurred_at: datetime | None = None,
        importance: float | None = None,
        confidence: float | None = None,
        id: str = "",
    ) -> values.Memory:
        """Keep one memory; durable when it returns. The parameters are those of `MemoryInput`.

        Raises InvalidFieldError, or MemoryExistsError if the chosen id is taken.
        """
        item = values.MemoryInput(
            content=content,
            kind=kind,
            metadata=metadata or {},
            tags=tags,
            actor=actor,
            session=session,
            ordinal=ordinal,
            occurred_at=occurred_at,
            importance=importance,
            confidence=confidence,
            id=id,
        )
        request = memory_service_pb2.CreateMemoryRequest(
            parent=self._name, memory=convert.memory_input_to_wire(item), request_id=self._services.request_id()
        )
        write = self._freshness.begin_write()
        try:
            response = await self._services.call(self._services.memory.CreateMemory, request)
        except SpaceNotFoundError:
            await self._services.ensure_space(self.id)
            response = await self._services.call(self._services.memory.CreateMemory, request)
        write.answered(response.written_at.value)
        return convert.memory_from_wire(response.memory)

    async def remember_many(
        self,
        items: Iterable[values.MemoryInput] | AsyncIterable[values.MemoryInput],
        *,
        batch_size: int = 256,
        on_progress: Callable[[int], None] | None = None,
        on_error: OnError = "raise",
    ) -> values.RememberedMany:
        """Keep any number of memories, in batches of at most `batch_size` (1 to 1,000); durable when it returns.

        `on_progress` is called after every answered batch with the number of items done. An item that is refused ends
        the call with its error, once everything sent until then is kept; with `on_error="collect"` it is listed in the
        result and all others are kept. A broken stream is taken up again; nothing is lost, nothing is kept twice.
        """
        ingestion = Ingestion(
            self._services, self.id, batch_size=batch_size, on_progress=on_progress, on_error=on_error
        )
        return await ingestion.run(items)

    async def recall(
        self,
        query: str,
        *,
        limit: int = 10,
        filter: values.MemoryFilter | None = None,
        profile: values.RecallProfile | str = values.RecallProfile.BALANCED,
        fully_consistent: bool = False,
    ) -> values.RecallHits:
        """The active memories that answer `query`, best first, at most `limit`.

        Finds what this connection has written before; with `fully_consistent` what anybody has. Raises
        IndexLaggingError if the index does not catch up with that in time.
        """
        request = memory_service_pb2.RecallMemoriesRequest(
            parent=self._name,
            filter=convert.filter_to_wire(filter) if filter is not None else None,
            profile=convert.enum_to_wire(values.RecallProfile, profile, "profile"),
            consistency=Consistency(fully_consistent=True) if fully_consistent else self._freshness.requirement(),
        )
        convert.assign(request, "query", query)
        convert.assign(request, "limit", limit)
        answered = self._freshness.answered
        response = await self._services.call(self._services.memory.RecallMemories, request)
        self._freshness.note_read(response.read_at.value, answered)
        return convert.recall_from_wire(response)

    async def get(self, id: str) -> values.Memory:
        """One memory, in whatever state. Raises MemoryNotFoundError."""
        request = memory_service_pb2.GetMemoryRequest(name=self._memory_name(id))
        response = await self._services.call(self._services.memory.GetMemory, request)
        return convert.memory_from_wire(response.memory)

    async def get_many(self, ids: Iterable[str]) -> values.FoundMany:
        """Up to 1,000 memories in the order of `ids`, and the ids that name none."""
        request = memory_service_pb2.BatchGetMemoriesRequest(parent=self._name, ids=[*ids])
        response = await self._services.call(self._services.memory.BatchGetMemories, request)
        return values.FoundMany([convert.memory_from_wire(memory) for memory in response.memories], [*response.missing])

    async def list(
        self,
        *,
        filter: values.MemoryFilter | None = None,
        states: Sequence[values.MemoryState | str] = (),
        page_size: int = 0,
    ) -> AsyncIterator[values.Memory]:
        """All matching memories, newest first; active ones unless `states` names others. Reads page by page."""
        request = memory_service_pb2.ListMemoriesRequest(
            parent=self._name,
            filter=convert.filter_to_wire(filter) if filter is not None else None,
            states=[convert.enum_to_wire(values.MemoryState, state, "states") for state in states],
            page_size=page_size,
        )
        async for page in self._services.pages(self._services.memory.ListMemories, request):
            for memory in page.memories:
                yield convert.memory_from_wire(memory)

    async def forget(self, id: str, *, purge: bool = False, etag: str = "", reason: str = "") -> None:
        """Take a memory out of recall, restorable; with `purge` erase it and its history.

        Raises MemoryNotFoundError, or EtagMismatchError if the memory has changed since `etag` was read.
        """
        request = memory_service_pb2.DeleteMemoryRequest(
            name=self._memory_name(id), purge=purge, etag=etag, reason=reason, request_id=self._services.request_id()
        )
        write = self._freshness.begin_write()
        response = await self._services.call(self._services.memory.DeleteMemory, request)
        write.answered(response.written_at.value)

    async def restore(self, id: str, *, etag: str = "", reason: str = "") -> values.Memory:
        """Take an archived memory back into recall. Raises MemoryNotFoundError or EtagMismatchError."""
        request = memory_service_pb2.RestoreMemoryRequest(
            name=self._memory_name(id), etag=etag, reason=reason, request_id=self._services.request_id()
        )
        write = self._freshness.begin_write()
        response = await self._services.call(self._services.memory.RestoreMemory, request)
        write.answered(response.written_at.value)
        return convert.memory_from_wire(response.memory)

    async def history(self, id: str | None = None, *, page_size: int = 0) -> AsyncIterator[values.Revision]:
        """The changes of one memory, or of the whole space, oldest first. Reads page by page."""
        parent = self._name if id is None else self._memory_name(id)
        request = memory_service_pb2.ListRevisionsRequest(parent=parent, page_size=page_size)
        async for page in self._services.pages(self._services.memory.ListRevisions, request):
            for revision in page.revisions:
                yield convert.revision_from_wire(revision)

    async def info(self) -> values.SpaceInfo:
        """The description and the counts of the space."""
        request = space_service_pb2.GetSpaceRequest(name=self._name)
        return convert.space_from_wire((await self._services.call(self._services.spaces.GetSpace, request)).space)

    async def republish(self) -> int:
        """Publish every active memory again, so that indexes can be rebuilt; returns their number."""
        request = space_service_pb2.RepublishSpaceRequest(name=self._name)
        return (await self._services.call(self._services.spaces.RepublishSpace, request)).memories

    async def consolidate(self, *, min_similarity: float | None = None, dry_run: bool = False) -> values.Job:
        """Start a job that archives memories that say the same as an older one; `min_similarity` is 0.95 if not given.

        Follow it with `Connection.job` or `Connection.wait_for_job`.
        """
        request = cognition_service_pb2.ConsolidateSpaceRequest(
            space=self._name, min_similarity=min_similarity, dry_run=dry_run, request_id=self._services.request_id()
        )
        response = await self._services.call(self._services.cognition.ConsolidateSpace, request)
        return convert.job_from_wire(response.job)

    def _memory_name(self, memory_id: str) -> str:
        return f"{self._name}/memories/{memory_id}"

    def __repr__(self) -> str:
        return f"Space({self.id!r})"
