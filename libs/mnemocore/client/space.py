"""A space as a program sees it: keep memories, find them, change them, forget them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mnemocore.client import convert, values
from mnemocore.client.administration import Administration
from mnemocore.client.ingest import Ingestion, OnError
from mnemocore.client.links import Linking
from mnemocore.client.media import Media, read_media, upload_media
from mnemocore.client.sessions import Session, session_from_wire
from mnemocore.client.sharing import Sharing
from mnemocore.client.transfer import ExportPart, Imported, OnConflict, export, import_records
from mnemocore.client.values import UNCHANGED, Unchanged
from mnemocore.client.working_memory import WorkingMemory
from mnemocore.cognitive.v1 import cognition_service_pb2
from mnemocore.common.v1.resources_pb2 import Consistency
from mnemocore.errors import ForeignTokenError, SpaceNotFoundError
from mnemocore.memory.v1 import memory_service_pb2, session_service_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
    from datetime import datetime, timedelta
    from typing import Any

    from mnemocore.client.freshness import Freshness
    from mnemocore.client.services import UnaryMethod
    from mnemocore.memory.v1 import resources_pb2, transfer_service_pb2


class Space(Linking, Sharing, Administration):
    """A handle on the space `id`; it need not exist. Comes from `Connection.space`.

    The first thing that is kept in a space that does not exist makes it: a memory, a medium, a session or an item of
    working memory. Everything else raises SpaceNotFoundError. Recall finds what this connection has written before.
    """

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
        media: bytes | Media | None = None,
        media_type: str = "",
        valid_from: datetime | None = None,
        valid_to: datetime | None = None,
        expires_at: datetime | None = None,
        ttl: timedelta | None = None,
        provenance: values.Provenance | None = None,
        protected: bool = False,
        on_duplicate: values.OnDuplicate | str | None = None,
        novelty_gate: values.NoveltyGate | str | None = None,
    ) -> values.Memory:
        """Keep one memory; durable when it returns. The parameters are those of `MemoryInput`.

        Returns the memory as it is stored, or the one that was there if `on_duplicate` or the novelty gate kept that
        one; `remember_with_outcome` tells which. Raises InvalidFieldError, MemoryExistsError if the chosen id is taken,
        DuplicateMemoryError if duplicates are to be rejected, UnsupportedMediaError, QuotaExceededError.
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
            media=media,
            media_type=media_type,
            valid_from=valid_from,
            valid_to=valid_to,
            expires_at=expires_at,
            ttl=ttl,
            provenance=provenance,
            protected=protected,
            on_duplicate=on_duplicate,
            novelty_gate=novelty_gate,
        )
        return (await self.remember_with_outcome(item)).memory

    async def remember_with_outcome(self, item: values.MemoryInput) -> values.Remembered:
        """Keep one memory as `remember` does; says whether an equal one was there, and what the gate decided."""
        request = memory_service_pb2.CreateMemoryRequest(
            parent=self._name, memory=self._to_wire(item), request_id=self._services.request_id()
        )
        response = await self._services.write(self.id, self._services.memory.CreateMemory, request, make_space=True)
        return convert.remembered_from_wire(response)

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
        states: Sequence[values.MemoryState | str] = (),
        known_at: datetime | None = None,
        min_score: float = 0.0,
    ) -> values.RecallHits:
        """The memories that answer `query`, best first, at most `limit` and none with a score below `min_score`.

        Active ones unless `states` names others; with a time of validity in the filter superseded ones too. With
        `known_at` the answer is the one of that time: memories as they were then. Finds what this connection has
        written before; with `fully_consistent` what anybody has. Raises IndexLaggingError if the index does not catch
        up with that in time.
        """
        request = memory_service_pb2.RecallMemoriesRequest(
            parent=self._name,
            filter=convert.filter_to_wire(filter) if filter is not None else None,
            profile=convert.enum_to_wire(values.RecallProfile, profile, "profile"),
            consistency=Consistency(fully_consistent=True) if fully_consistent else self._freshness.requirement(),
            states=convert.enums_to_wire(values.MemoryState, states, "states"),
        )
        convert.assign(request, "query", query)
        convert.assign(request, "limit", limit)
        convert.assign(request, "min_score", min_score)
        if known_at is not None:
            convert.time_to_wire(known_at, request.known_at, "known_at")
        return await self._recall(request)

    async def get(
        self, id: str, *, as_of: datetime | None = None, minimize_latency: bool = False, touch: bool = False
    ) -> values.Memory:
        """One memory, in whatever state; with `as_of` as it was known at that time.

        With `minimize_latency` it may come from a cache that follows changes within moments. With `touch` reading it
        counts as a use of it. Raises MemoryNotFoundError.
        """
        request = memory_service_pb2.GetMemoryRequest(
            name=self._memory_name(id),
            consistency=Consistency(minimize_latency=True) if minimize_latency else None,
            touch=touch,
        )
        if as_of is not None:
            convert.time_to_wire(as_of, request.as_of, "as_of")
        return convert.read_memory_from_wire(await self._services.call(self._services.memory.GetMemory, request))

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
            states=convert.enums_to_wire(values.MemoryState, states, "states"),
            page_size=page_size,
        )
        async for page in self._services.pages(self._services.memory.ListMemories, request):
            for memory in page.memories:
                yield convert.memory_from_wire(memory)

    async def update(
        self,
        id: str,
        *,
        etag: str = "",
        reason: str = "",
        content: str | Unchanged = UNCHANGED,
        kind: values.MemoryKind | str | Unchanged | None = UNCHANGED,
        metadata: Mapping[str, values.Json] | Unchanged | None = UNCHANGED,
        tags: Sequence[str] | Unchanged | None = UNCHANGED,
        actor: str | Unchanged | None = UNCHANGED,
        occurred_at: datetime | Unchanged | None = UNCHANGED,
        valid_from: datetime | Unchanged | None = UNCHANGED,
        valid_to: datetime | Unchanged | None = UNCHANGED,
        expires_at: datetime | Unchanged | None = UNCHANGED,
        ttl: timedelta | Unchanged = UNCHANGED,
        importance: float | Unchanged | None = UNCHANGED,
        confidence: float | Unchanged | None = UNCHANGED,
        provenance: values.Provenance | Unchanged | None = UNCHANGED,
    ) -> values.Memory:
        """Change the fields that are given and nothing else; None empties a field.

        Raises InvalidFieldError, MemoryNotFoundError, or EtagMismatchError if the memory has changed since `etag` was
        read.
        """
        fields = {
            "content": content,
            "kind": kind,
            "metadata": metadata,
            "tags": tags,
            "actor": actor,
            "occurred_at": occurred_at,
            "valid_from": valid_from,
            "valid_to": valid_to,
            "expires_at": expires_at,
            "ttl": ttl,
            "importance": importance,
            "confidence": confidence,
            "provenance": provenance,
        }
        memory, mask = convert.update_to_wire(fields, self._services.clock.now())
        request = memory_service_pb2.UpdateMemoryRequest(memory=memory, update_mask=mask)
        return await self._change(self._services.memory.UpdateMemory, request, id, reason, etag)

    async def protect(self, id: str, *, etag: str = "", reason: str = "") -> values.Memory:
        """Keep a memory from being archived, erased and forgotten. Raises MemoryNotFoundError or EtagMismatchError."""
        request = memory_service_pb2.ProtectMemoryRequest(protected=True)
        return await self._change(self._services.memory.ProtectMemory, request, id, reason, etag)

    async def unprotect(self, id: str, *, etag: str = "", reason: str = "") -> values.Memory:
        """Take the protection of a memory away. Raises MemoryNotFoundError or EtagMismatchError."""
        request = memory_service_pb2.ProtectMemoryRequest(protected=False)
        return await self._change(self._services.memory.ProtectMemory, request, id, reason, etag)

    async def supersede(
        self, id: str, item: str | values.MemoryInput, *, etag: str = "", reason: str = ""
    ) -> values.Memory:
        """Keep a memory that takes the place of another one, and return it; a text keeps the kind of the old one.

        The old one is out of recall, with the end of its validity where the new one's begins. Raises
        MemoryNotFoundError, AlreadySupersededError if somebody was first, EtagMismatchError, MemoryProtectedError.
        """
        if isinstance(item, str):
            item = values.MemoryInput(item, kind=(await self.get(id)).kind)
        request = memory_service_pb2.SupersedeMemoryRequest(memory=self._to_wire(item))
        return await self._change(self._services.memory.SupersedeMemory, request, id, reason, etag)

    async def feedback(
        self, id: str, positive: bool, *, weight: float | None = None, reason: str = ""
    ) -> values.Memory:
        """Say whether a memory proved right or useful; `weight` is above 0 and at most 10, 1 if not given.

        Moves its reliability. Raises MemoryNotFoundError.
        """
        request = memory_service_pb2.RecordFeedbackRequest(positive=positive)
        if weight is not None:
            convert.assign(request, "weight", weight)
        return await self._change(self._services.memory.RecordFeedback, request, id, reason)

    async def forget(self, id: str, *, purge: bool = False, etag: str = "", reason: str = "") -> None:
        """Take a memory out of recall, restorable; with `purge` erase it and its history.

        Raises MemoryNotFoundError, MemoryProtectedError, or EtagMismatchError if the memory has changed since `etag`
        was read.
        """
        request = memory_service_pb2.DeleteMemoryRequest(
            name=self._memory_name(id), purge=purge, etag=etag, reason=reason, request_id=self._services.request_id()
        )
        await self._services.write(self.id, self._services.memory.DeleteMemory, request)

    async def restore(self, id: str, *, etag: str = "", reason: str = "") -> values.Memory:
        """Take an archived memory back into recall. Raises MemoryNotFoundError or EtagMismatchError."""
        request = memory_service_pb2.RestoreMemoryRequest()
        return await self._change(self._services.memory.RestoreMemory, request, id, reason, etag)

    async def history(
        self, id: str | None = None, *, as_of: datetime | None = None, page_size: int = 0
    ) -> AsyncIterator[values.Revision]:
        """The changes of one memory, or of the whole space, oldest first; only those until `as_of` if it is given.

        Reads page by page.
        """
        parent = self._name if id is None else self._memory_name(id)
        request = memory_service_pb2.ListRevisionsRequest(parent=parent, page_size=page_size)
        if as_of is not None:
            convert.time_to_wire(as_of, request.as_of, "as_of")
        async for page in self._services.pages(self._services.memory.ListRevisions, request):
            for revision in page.revisions:
                yield convert.revision_from_wire(revision)

    async def upload_media(self, source: bytes | Path | AsyncIterable[bytes], *, media_type: str = "") -> Media:
        """Send bytes, a file, or what an iterator yields; a memory may take the result as its `media` for 24 hours.

        `media_type` is the MIME type they are said to have; without it the first bytes tell. A space that does not
        exist is made for bytes and files only. Raises UnsupportedMediaError, InvalidFieldError if they are too many,
        QuotaExceededError.
        """
        try:
            return await upload_media(self._services, self.id, source, media_type)
        except SpaceNotFoundError:
            if not isinstance(source, (bytes, Path)):
                raise
            await self._services.ensure_space(self.id)
            return await upload_media(self._services, self.id, source, media_type)

    async def read_media(self, media: Media | str, *, offset: int = 0) -> AsyncIterator[bytes]:
        """The bytes of a medium, or of the one with this id, from `offset` on, part by part.

        Raises MediaNotFoundError.
        """
        media_id = media if isinstance(media, str) else media.id
        async for part in read_media(self._services, f"{self._name}/media/{media_id}", offset):
            yield part

    def working_memory(self, agent: str, session: str = "") -> WorkingMemory:
        """What an agent has in mind in a session; nothing is sent."""
        return WorkingMemory(self._services, self.id, agent, session)

    def session(self, id: str) -> Session:
        """A handle on a session; nothing is sent."""
        return Session(self._services, self.id, id)

    async def start_session(
        self, id: str = "", *, agent: str = "", metadata: Mapping[str, values.Json] | None = None
    ) -> Session:
        """Start a session that `agent` runs; without `id` the server chooses one. Raises SessionExistsError."""
        request = session_service_pb2.StartSessionRequest(parent=self._name, request_id=self._services.request_id())
        convert.assign(request, "session_id", id, "id")
        convert.assign(request, "agent", agent)
        convert.struct_to_wire(metadata or {}, request.metadata, "metadata")
        response = await self._services.call_in(self.id, self._services.sessions.StartSession, request)
        return self.session(response.session.id)

    async def sessions(
        self, *, agent: str = "", open_only: bool = False, page_size: int = 0
    ) -> AsyncIterator[values.SessionInfo]:
        """The sessions that were started, of all agents or of one, newest first. Reads page by page."""
        request = session_service_pb2.ListSessionsRequest(
            parent=self._name, agent=agent, open_only=open_only, page_size=page_size
        )
        async for page in self._services.pages(self._services.sessions.ListSessions, request):
            for session in page.sessions:
                yield session_from_wire(session)

    def export(
        self,
        *,
        filter: values.MemoryFilter | None = None,
        states: Sequence[values.MemoryState | str] = (),
        history: bool = False,
        media: bool = False,
        up_to_revision: int = 0,
        position: str = "",
    ) -> AsyncIterator[ExportPart]:
        """Everything in the space as it is now, part by part; with `history` every revision, with `media` their bytes.

        `position` goes on after a part of the same export. A broken stream is taken up again. Raises
        PageTokenMismatchError, and InvalidFieldError for a filter or states together with `history`.
        """
        return export(
            self._services,
            self.id,
            filter=filter,
            states=states,
            history=history,
            media=media,
            up_to_revision=up_to_revision,
            position=position,
        )

    def import_records(
        self,
        records: Iterable[transfer_service_pb2.TransferRecord] | AsyncIterable[transfer_service_pb2.TransferRecord],
        *,
        on_conflict: OnConflict | str = OnConflict.SKIP,
    ) -> AsyncIterator[Sequence[Imported]]:
        """Write the records of an export; yields what became of them, batch by batch, once it is durable.

        Makes the space if it does not exist. Raises QuotaExceededError, StoreFullError, RoleRequiredError.
        """
        return import_records(self._services, self.id, records, on_conflict=on_conflict)

    async def consolidate(self, *, min_similarity: float | None = None, dry_run: bool = False) -> values.Job:
        """Start a job that archives memories that say the same as an older one; `min_similarity` is 0.95 if not given.

        Follow it with `Connection.job` or `Connection.wait_for_job`.
        """
        request = cognition_service_pb2.ConsolidateSpaceRequest(
            space=self._name, min_similarity=min_similarity, dry_run=dry_run, request_id=self._services.request_id()
        )
        response = await self._services.call(self._services.cognition.ConsolidateSpace, request)
        return convert.job_from_wire(response.job)

    @property
    def _freshness(self) -> Freshness:
        return self._services.freshness(self.id)

    def _memory_name(self, memory_id: str) -> str:
        return f"{self._name}/memories/{memory_id}"

    def _to_wire(self, item: values.MemoryInput) -> resources_pb2.MemoryInput:
        return convert.memory_input_to_wire(item, self._services.clock.now())

    async def _change(
        self, method: UnaryMethod[Any, Any], request: Any, memory_id: str, reason: str, etag: str = ""
    ) -> values.Memory:
        """The memory after a change of the memory with this id, which `request` describes."""
        request.name = self._memory_name(memory_id)
        request.request_id = self._services.request_id()
        convert.assign(request, "reason", reason)
        if etag:
            convert.assign(request, "etag", etag)
        response = await self._services.write(self.id, method, request)
        return convert.memory_from_wire(response.memory)

    async def _recall(self, request: memory_service_pb2.RecallMemoriesRequest) -> values.RecallHits:
        answered = self._freshness.answered
        method = self._services.memory.RecallMemories
        try:
            response = await self._services.call(method, request)
        except ForeignTokenError:  # somebody has erased the space and made another one of this name
            self._freshness.forget()
            request.consistency.CopyFrom(Consistency(fully_consistent=True))
            response = await self._services.call(method, request)
        self._freshness.note_read(response.read_at.value, answered)
        return convert.recall_from_wire(response)
