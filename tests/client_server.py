"""A small server over the generated base classes, which does what it is told: fail, wait, break a stream, count calls.

It keeps memories in dictionaries and applies a request id once; what it has no desk for it answers as ANSWERS says. It
is no store, only somebody to talk to.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections import defaultdict, deque
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc

from mnemocore import __version__
from mnemocore.calls import Identity
from mnemocore.cognitive.v1 import cognition_service_pb2 as cognition
from mnemocore.cognitive.v1 import cognition_service_pb2_grpc as cognition_grpc
from mnemocore.cognitive.v1 import resources_pb2 as cognition_resources
from mnemocore.common.v1 import resources_pb2 as common
from mnemocore.errors import (
    InvalidFieldError,
    JobNotFoundError,
    MemoryNotFoundError,
    MnemoError,
    SpaceExistsError,
    SpaceNotFoundError,
    Violation,
)
from mnemocore.events.v1 import event_service_pb2 as events
from mnemocore.events.v1 import event_service_pb2_grpc as events_grpc
from mnemocore.gateway.v1 import gateway_service_pb2 as gateway
from mnemocore.gateway.v1 import gateway_service_pb2_grpc as gateway_grpc
from mnemocore.ids import Tenant
from mnemocore.memory.v1 import association_service_pb2 as links
from mnemocore.memory.v1 import association_service_pb2_grpc as links_grpc
from mnemocore.memory.v1 import grant_service_pb2 as grants
from mnemocore.memory.v1 import grant_service_pb2_grpc as grants_grpc
from mnemocore.memory.v1 import media_service_pb2 as media
from mnemocore.memory.v1 import media_service_pb2_grpc as media_grpc
from mnemocore.memory.v1 import memory_service_pb2 as memory
from mnemocore.memory.v1 import memory_service_pb2_grpc as memory_grpc
from mnemocore.memory.v1 import resources_pb2 as resources
from mnemocore.memory.v1 import session_service_pb2 as sessions
from mnemocore.memory.v1 import session_service_pb2_grpc as sessions_grpc
from mnemocore.memory.v1 import space_service_pb2 as spaces
from mnemocore.memory.v1 import space_service_pb2_grpc as spaces_grpc
from mnemocore.memory.v1 import working_memory_service_pb2 as working
from mnemocore.memory.v1 import working_memory_service_pb2_grpc as working_grpc
from mnemocore.server import Host, LocalChannel, Service
from mnemocore.status import DETAILS_HEADER, to_status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping

    from mnemocore.policy import MethodInfo

Context = Any  # the generated bases name a context of their own


@dataclass(frozen=True)
class Seen:
    """One call that arrived."""

    method: str
    request: Any
    metadata: dict[str, str | bytes]
    time_remaining: float | None


@dataclass
class Desk:
    """What the servicers share: what arrived, and what happens to the next calls of a method.

    A step is a MnemoError (a rich status), a gRPC code (a bare status), or an event (wait for it, then go on).
    """

    seen: list[Seen] = field(default_factory=list)
    script: defaultdict[str, deque[MnemoError | grpc.StatusCode | asyncio.Event]] = field(
        default_factory=lambda: defaultdict(deque)
    )
    always: dict[str, MnemoError | grpc.StatusCode | asyncio.Event] = field(default_factory=dict)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    def calls(self, method: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.method == method]

    async def enter(self, method: str, request: Any, context: Context) -> None:
        metadata = dict(context.invocation_metadata() or ())
        self.seen.append(Seen(method, request, metadata, context.time_remaining()))
        self.arrived.set()
        steps = self.script[method]
        step = steps.popleft() if steps else self.always.get(method)
        if isinstance(step, asyncio.Event):
            try:
                await step.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        elif isinstance(step, MnemoError):
            await refuse(context, step)
        elif step is not None:
            await context.abort(step, "told to")


async def refuse(context: Context, error: MnemoError) -> None:
    status = to_status(error)
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    await context.abort(code, status.message, ((DETAILS_HEADER, status.SerializeToString()),))


@dataclass
class Book:
    """The memories of all spaces."""

    spaces: dict[str, dict[str, resources.Memory]] = field(default_factory=dict)
    answers: dict[str, list[str]] = field(default_factory=dict)
    revision: int = 0

    def write(self, parent: str, item: resources.MemoryInput) -> resources.Memory:
        space = self.spaces[parent]
        self.revision += 1
        memory_id = item.id or str(uuid.uuid4())
        stored = resources.Memory(
            name=f"{parent}/memories/{memory_id}",
            kind=item.kind,
            content=item.content,
            metadata=item.metadata,
            tags=item.tags,
            actor=item.actor,
            session=item.session,
            importance=item.importance if item.HasField("importance") else 0.5,
            confidence=1.0,
            state=resources.MEMORY_STATE_ACTIVE,
            revision=self.revision,
            etag=str(self.revision),
        )
        if item.HasField("ordinal"):
            stored.ordinal = item.ordinal
        if item.HasField("occurred_at"):
            stored.occurred_at.CopyFrom(item.occurred_at)
        stored.create_time.GetCurrentTime()
        space[memory_id] = stored
        return stored

    def token(self) -> common.ConsistencyToken:
        return common.ConsistencyToken(value=f"token-{self.revision}")


_MEMORY = resources.Memory(name="spaces/a/memories/0198c5f0-7d2e-7b3c-9a41-5f0e6d2c1b7a", content="as told")
_TOKEN = common.ConsistencyToken(value="token-told")
_LINK = resources.Association(source=_MEMORY.name, target="spaces/a/memories/b", type=1, weight=0.5)  # type: ignore[arg-type]
_GRANT = grants.Grant(id="g", space="spaces/a", principal="p", role=1)  # type: ignore[arg-type]
_SESSION = sessions.Session(id="s1", agent="planner")
_CHECKPOINT = sessions.Checkpoint(id="c", session="s1", state={"step": 3})  # type: ignore[arg-type]
_ITEM = working.WorkingItem(id="w", agent="planner", memory=resources.MemoryInput(content="told"))
_MEDIA = resources.Media(name="spaces/a/media/m", mime_type="text/plain", size_bytes=3)
_RECEIPT = spaces.ErasureReceipt(id="r", memories=1)

ANSWERS: dict[str, Any] = {
    "UpdateMemory": memory.UpdateMemoryResponse(memory=_MEMORY, written_at=_TOKEN),
    "ProtectMemory": memory.ProtectMemoryResponse(memory=_MEMORY, written_at=_TOKEN),
    "SupersedeMemory": memory.SupersedeMemoryResponse(memory=_MEMORY, superseded=_MEMORY, written_at=_TOKEN),
    "RecordFeedback": memory.RecordFeedbackResponse(memory=_MEMORY, written_at=_TOKEN),
    "UpdateSpace": spaces.UpdateSpaceResponse(space=resources.Space(name="spaces/a", etag="e2")),
    "DeleteSpace": spaces.DeleteSpaceResponse(),
    "GetSpaceStats": spaces.GetSpaceStatsResponse(stats=spaces.SpaceStats(content_bytes=7)),
    "EraseSpace": spaces.EraseSpaceResponse(receipt=_RECEIPT),
    "ListErasures": spaces.ListErasuresResponse(receipts=[_RECEIPT]),
    "RotateSpaceKey": spaces.RotateSpaceKeyResponse(key_id="k2", sealed_again=4),
    "Associate": links.AssociateResponse(association=_LINK),
    "Dissociate": links.DissociateResponse(removed=1),
    "ListAssociations": links.ListAssociationsResponse(associations=[_LINK]),
    "FindPaths": links.FindPathsResponse(paths=[links.AssociationPath(associations=[_LINK], weight=0.5)]),
    "GetNeighbourhood": links.GetNeighbourhoodResponse(
        neighbours=[links.Neighbour(memory=_MEMORY, activation=0.35, hops=1)], associations=[_LINK]
    ),
    "CreateGrant": grants.CreateGrantResponse(grant=_GRANT),
    "ListGrants": grants.ListGrantsResponse(grants=[_GRANT]),
    "DeleteGrant": grants.DeleteGrantResponse(),
    "ListReceivedGrants": grants.ListReceivedGrantsResponse(grants=[_GRANT]),
    "AcceptGrant": grants.AcceptGrantResponse(grant=_GRANT),
    "StartSession": sessions.StartSessionResponse(session=_SESSION),
    "GetSession": sessions.GetSessionResponse(session=_SESSION),
    "ListSessions": sessions.ListSessionsResponse(sessions=[_SESSION]),
    "AppendToSession": sessions.AppendToSessionResponse(memories=[_MEMORY], written_at=_TOKEN),
    "EndSession": sessions.EndSessionResponse(session=_SESSION),
    "CreateCheckpoint": sessions.CreateCheckpointResponse(checkpoint=_CHECKPOINT),
    "ListCheckpoints": sessions.ListCheckpointsResponse(checkpoints=[_CHECKPOINT]),
    "RestoreCheckpoint": sessions.RestoreCheckpointResponse(checkpoint=_CHECKPOINT),
    "PushWorkingItem": working.PushWorkingItemResponse(item=_ITEM, evicted_id="old"),
    "ListWorkingItems": working.ListWorkingItemsResponse(items=[_ITEM]),
    "ClearWorkingMemory": working.ClearWorkingMemoryResponse(removed=1),
    "PromoteWorkingItem": working.PromoteWorkingItemResponse(memory=_MEMORY),
}
"""What is answered to the methods that no desk knows more about."""


def _answer(desk: Desk, method: str) -> Callable[[Any, Context], Awaitable[Any]]:
    async def answer(request: Any, context: Context) -> Any:
        await desk.enter(method, request, context)
        return ANSWERS[method]

    return answer


def _answering(desk: Desk, cls: Any, *others: Any) -> Any:
    """A servicer of this class, which ANSWERS the methods of its service that it has not."""
    servicer = cls(*others) if others else cls()
    for method in ANSWERS.keys() & set(dir(cls)):
        setattr(servicer, method, _answer(desk, method))
    return servicer


class MediaDesk(media_grpc.MediaServiceServicer):
    """Takes and gives the bytes of one medium."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.data = b""

    async def UploadMedia(
        self, request_iterator: AsyncIterator[media.UploadMediaRequest], context: Context
    ) -> media.UploadMediaResponse:
        first = await anext(request_iterator)
        await self.desk.enter("UploadMedia", first, context)
        self.data = b"".join([first.data, *[part.data async for part in request_iterator]])
        return media.UploadMediaResponse(media=_MEDIA)

    async def ReadMedia(
        self, request: media.ReadMediaRequest, context: Context
    ) -> AsyncIterator[media.ReadMediaResponse]:
        await self.desk.enter("ReadMedia", request, context)
        for offset in range(request.offset, len(self.data)):
            yield media.ReadMediaResponse(media=_MEDIA, data=self.data[offset : offset + 1])


class MemoryDesk(memory_grpc.MemoryServiceServicer):
    def __init__(self, desk: Desk, book: Book) -> None:
        self.desk = desk
        self.book = book
        self.streams = 0
        self.break_streams: deque[int] = deque()  # batches applied in a stream before it breaks without an answer
        self.results: deque[list[memory.IngestResult]] = deque()  # told instead of applying the next batches

    async def _space(self, parent: str, context: Context) -> dict[str, resources.Memory]:
        name = "/".join(parent.split("/")[:2])
        if name not in self.book.spaces:
            await refuse(context, SpaceNotFoundError(space=name))
        return self.book.spaces[name]

    async def _memory(self, name: str, context: Context) -> resources.Memory:
        space = await self._space(name, context)
        memory_id = name.rpartition("/")[2]
        if memory_id not in space:
            await refuse(context, MemoryNotFoundError(memory=memory_id))
        return space[memory_id]

    async def CreateMemory(self, request: memory.CreateMemoryRequest, context: Context) -> memory.CreateMemoryResponse:
        await self.desk.enter("CreateMemory", request, context)
        await self._space(request.parent, context)
        stored = self.book.write(request.parent, request.memory)
        return memory.CreateMemoryResponse(memory=stored, written_at=self.book.token())

    async def BatchCreateMemories(
        self, request: memory.BatchCreateMemoriesRequest, context: Context
    ) -> memory.BatchCreateMemoriesResponse:
        await self.desk.enter("BatchCreateMemories", request, context)
        await self._space(request.parent, context)
        stored = [self.book.write(request.parent, item) for item in request.memories]
        return memory.BatchCreateMemoriesResponse(memories=stored, written_at=self.book.token())

    async def IngestMemories(
        self, request_iterator: AsyncIterator[memory.IngestMemoriesRequest], context: Context
    ) -> AsyncIterator[memory.IngestMemoriesResponse]:
        self.streams += 1
        breaks_after = self.break_streams.popleft() if self.break_streams else None
        number = 0
        async for batch in request_iterator:
            await self.desk.enter("IngestMemories", batch, context)
            await self._space(batch.parent, context)
            results = self._apply(batch)
            if breaks_after is not None and number >= breaks_after:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "told to break")
            yield memory.IngestMemoriesResponse(batch=number, results=results, written_at=self.book.token())
            number += 1

    def _apply(self, batch: memory.IngestMemoriesRequest) -> list[memory.IngestResult]:
        if self.results:
            return self.results.popleft()
        results = []
        names = self.book.answers.get(batch.request_id)
        if batch.request_id and names is not None:
            return [memory.IngestResult(name=name) for name in names]
        for item in batch.memories:
            if not item.content:
                error = InvalidFieldError.of([Violation("content", "is empty; at least 1 character is needed")])
                results.append(memory.IngestResult(error=to_status(error)))
            else:
                results.append(memory.IngestResult(name=self.book.write(batch.parent, item).name))
        self.book.answers[batch.request_id] = [result.name for result in results]
        return results

    async def GetMemory(self, request: memory.GetMemoryRequest, context: Context) -> memory.GetMemoryResponse:
        await self.desk.enter("GetMemory", request, context)
        return memory.GetMemoryResponse(memory=await self._memory(request.name, context))

    async def BatchGetMemories(
        self, request: memory.BatchGetMemoriesRequest, context: Context
    ) -> memory.BatchGetMemoriesResponse:
        await self.desk.enter("BatchGetMemories", request, context)
        space = await self._space(request.parent, context)
        return memory.BatchGetMemoriesResponse(
            memories=[space[id] for id in request.ids if id in space],
            missing=[id for id in request.ids if id not in space],
        )

    async def ListMemories(self, request: memory.ListMemoriesRequest, context: Context) -> memory.ListMemoriesResponse:
        await self.desk.enter("ListMemories", request, context)
        found = list((await self._space(request.parent, context)).values())[::-1]
        start, size = int(request.page_token or 0), request.page_size or 100
        following = str(start + size) if start + size < len(found) else ""
        return memory.ListMemoriesResponse(memories=found[start : start + size], next_page_token=following)

    async def DeleteMemory(self, request: memory.DeleteMemoryRequest, context: Context) -> memory.DeleteMemoryResponse:
        await self.desk.enter("DeleteMemory", request, context)
        stored = await self._memory(request.name, context)
        self.book.revision += 1
        stored.state = resources.MEMORY_STATE_ARCHIVED
        return memory.DeleteMemoryResponse(written_at=self.book.token())

    async def RestoreMemory(
        self, request: memory.RestoreMemoryRequest, context: Context
    ) -> memory.RestoreMemoryResponse:
        await self.desk.enter("RestoreMemory", request, context)
        stored = await self._memory(request.name, context)
        self.book.revision += 1
        stored.state = resources.MEMORY_STATE_ACTIVE
        return memory.RestoreMemoryResponse(memory=stored, written_at=self.book.token())

    async def RecallMemories(
        self, request: memory.RecallMemoriesRequest, context: Context
    ) -> memory.RecallMemoriesResponse:
        await self.desk.enter("RecallMemories", request, context)
        found = [
            item
            for item in (await self._space(request.parent, context)).values()
            if item.state == resources.MEMORY_STATE_ACTIVE
        ]
        part = resources.ScoreComponent(name="semantic", value=0.9, weight=0.5, contribution=0.45)
        return memory.RecallMemoriesResponse(
            results=[
                memory.RecallResult(memory=item, score=0.45, explanation=[part]) for item in found[: request.limit]
            ],
            read_at=self.book.token(),
            degraded=[common.DEGRADED_PART_ENCODER],
        )

    async def ListRevisions(
        self, request: memory.ListRevisionsRequest, context: Context
    ) -> memory.ListRevisionsResponse:
        await self.desk.enter("ListRevisions", request, context)
        space = await self._space(request.parent, context)
        chosen = [item for item in space.values() if item.name.startswith(request.parent)]
        revisions = [
            resources.Revision(
                revision=item.revision, change=resources.CHANGE_TYPE_CREATED, memory=item, principal="tester"
            )
            for item in chosen
        ]
        return memory.ListRevisionsResponse(revisions=revisions)


class SpaceDesk(spaces_grpc.SpaceServiceServicer):
    def __init__(self, desk: Desk, book: Book) -> None:
        self.desk = desk
        self.book = book

    async def CreateSpace(self, request: spaces.CreateSpaceRequest, context: Context) -> spaces.CreateSpaceResponse:
        await self.desk.enter("CreateSpace", request, context)
        name = f"spaces/{request.space_id}"
        if name in self.book.spaces:
            await refuse(context, SpaceExistsError(space=request.space_id))
        self.book.spaces[name] = {}
        return spaces.CreateSpaceResponse(space=resources.Space(name=name, description=request.description))

    async def GetSpace(self, request: spaces.GetSpaceRequest, context: Context) -> spaces.GetSpaceResponse:
        await self.desk.enter("GetSpace", request, context)
        if request.name not in self.book.spaces:
            await refuse(context, SpaceNotFoundError(space=request.name))
        count = len(self.book.spaces[request.name])
        return spaces.GetSpaceResponse(space=resources.Space(name=request.name, active_memories=count))

    async def ListSpaces(self, request: spaces.ListSpacesRequest, context: Context) -> spaces.ListSpacesResponse:
        await self.desk.enter("ListSpaces", request, context)
        return spaces.ListSpacesResponse(spaces=[resources.Space(name=name) for name in sorted(self.book.spaces)])

    async def RepublishSpace(
        self, request: spaces.RepublishSpaceRequest, context: Context
    ) -> spaces.RepublishSpaceResponse:
        await self.desk.enter("RepublishSpace", request, context)
        return spaces.RepublishSpaceResponse(memories=len(self.book.spaces[request.name]))


class CognitionDesk(cognition_grpc.CognitionServiceServicer):
    """Jobs that are done when they have been looked at twice."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.jobs: dict[str, cognition_resources.Job] = {}

    async def ConsolidateSpace(
        self, request: cognition.ConsolidateSpaceRequest, context: Context
    ) -> cognition.ConsolidateSpaceResponse:
        await self.desk.enter("ConsolidateSpace", request, context)
        report = cognition_resources.ConsolidationReport(
            min_similarity=request.min_similarity if request.HasField("min_similarity") else 0.95,
            dry_run=request.dry_run,
            groups=[
                cognition_resources.DuplicateGroup(
                    kept=f"{request.space}/memories/a",
                    duplicates=[cognition_resources.Duplicate(name=f"{request.space}/memories/b", similarity=0.97)],
                )
            ],
        )
        job = cognition_resources.Job(
            name=f"jobs/{uuid.uuid4()}",
            space=request.space,
            state=cognition_resources.JOB_STATE_QUEUED,
            report=report,
        )
        self.jobs[job.name] = job
        return cognition.ConsolidateSpaceResponse(job=job)

    async def GetJob(self, request: cognition.GetJobRequest, context: Context) -> cognition.GetJobResponse:
        await self.desk.enter("GetJob", request, context)
        job = self.jobs.get(request.name)
        if job is None:
            await refuse(context, JobNotFoundError(job=request.name))
            raise AssertionError
        following = {
            cognition_resources.JOB_STATE_QUEUED: cognition_resources.JOB_STATE_RUNNING,
            cognition_resources.JOB_STATE_RUNNING: cognition_resources.JOB_STATE_SUCCEEDED,
        }
        job.state = following.get(job.state, job.state)
        return cognition.GetJobResponse(job=job)

    async def ListJobs(self, request: cognition.ListJobsRequest, context: Context) -> cognition.ListJobsResponse:
        await self.desk.enter("ListJobs", request, context)
        chosen = [job for job in self.jobs.values() if request.space in ("", job.space)]
        return cognition.ListJobsResponse(jobs=chosen)

    async def CancelJob(self, request: cognition.CancelJobRequest, context: Context) -> cognition.CancelJobResponse:
        await self.desk.enter("CancelJob", request, context)
        job = self.jobs[request.name]
        job.state = cognition_resources.JOB_STATE_CANCELLED
        return cognition.CancelJobResponse(job=job)


class GatewayDesk(gateway_grpc.GatewayServiceServicer):
    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.keys: dict[str, gateway.ApiKey] = {}

    async def GetCapabilities(
        self, request: gateway.GetCapabilitiesRequest, context: Context
    ) -> gateway.GetCapabilitiesResponse:
        await self.desk.enter("GetCapabilities", request, context)
        return gateway.GetCapabilitiesResponse(
            version=__version__,
            tenant="default",
            services=[gateway.ServiceStatus(service="mnemocore.memory.v1", ready=True)],
        )

    async def CreateApiKey(
        self, request: gateway.CreateApiKeyRequest, context: Context
    ) -> gateway.CreateApiKeyResponse:
        await self.desk.enter("CreateApiKey", request, context)
        key = gateway.ApiKey(
            name=f"apiKeys/{uuid.uuid4()}", tenant="default", principal=request.principal, scopes=request.scopes
        )
        if request.HasField("expire_time"):
            key.expire_time.CopyFrom(request.expire_time)
        self.keys[key.name] = key
        return gateway.CreateApiKeyResponse(api_key=key, secret="mk_secret")

    async def ListApiKeys(self, request: gateway.ListApiKeysRequest, context: Context) -> gateway.ListApiKeysResponse:
        await self.desk.enter("ListApiKeys", request, context)
        return gateway.ListApiKeysResponse(api_keys=list(self.keys.values()))

    async def DeleteApiKey(
        self, request: gateway.DeleteApiKeyRequest, context: Context
    ) -> gateway.DeleteApiKeyResponse:
        await self.desk.enter("DeleteApiKey", request, context)
        self.keys.pop(request.name, None)
        return gateway.DeleteApiKeyResponse()


class EventDesk(events_grpc.EventServiceServicer):
    """A log of `head` events; a subscription sends one event and then waits until it is told to end."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.head = 25
        self.hang_up = asyncio.Event()

    async def PublishEvents(
        self, request: events.PublishEventsRequest, context: Context
    ) -> events.PublishEventsResponse:
        await self.desk.enter("PublishEvents", request, context)
        return events.PublishEventsResponse(positions=[1])

    async def RedactEvents(self, request: events.RedactEventsRequest, context: Context) -> events.RedactEventsResponse:
        await self.desk.enter("RedactEvents", request, context)
        return events.RedactEventsResponse(redacted=len(request.keys))

    async def ReadEvents(self, request: events.ReadEventsRequest, context: Context) -> events.ReadEventsResponse:
        await self.desk.enter("ReadEvents", request, context)
        last = min(self.head, request.after_position + (request.page_size or 100))
        found = range(request.after_position + 1, last + 1)
        return events.ReadEventsResponse(
            events=[_event(position) for position in found], resume_position=last, head_position=self.head
        )

    async def SubscribeEvents(
        self, request_iterator: AsyncIterator[events.SubscribeEventsRequest], context: Context
    ) -> AsyncIterator[events.SubscribeEventsResponse]:
        await self.desk.enter("SubscribeEvents", None, context)
        yield events.SubscribeEventsResponse(events=[_event(1)], resume_position=1, head_position=1)
        await self.hang_up.wait()
        await context.abort(grpc.StatusCode.UNAVAILABLE, "told to break")


def _event(position: int) -> Any:
    return {"position": position, "event": {"id": str(position), "type": "memory.created", "source": "test"}}


@dataclass
class TestServer:
    """The running server; `target` is where it listens."""

    __test__ = False

    server: grpc.aio.Server
    target: str
    desk: Desk
    book: Book
    memory: MemoryDesk
    events: EventDesk
    services: tuple[Service, ...]

    def local_channel(self) -> LocalChannel:
        """A channel to the same servicers without a socket, behind the stages every service has."""
        return Host("test", self.services, authenticator=_Anybody()).channel()


class _Anybody:
    """Lets everybody in, for everything."""

    async def authenticate(self, metadata: Mapping[str, str], method: MethodInfo, peer: str) -> Identity:
        return Identity(Tenant("default"), "anybody", frozenset({method.scope}))


@asynccontextmanager
async def running_server(address: str = "127.0.0.1:0", book: Book | None = None) -> AsyncIterator[TestServer]:
    desk, book = Desk(), book or Book()
    server = grpc.aio.server()
    memory_desk, event_desk = _answering(desk, MemoryDesk, desk, book), _answering(desk, EventDesk, desk)
    services = (
        Service(
            memory_desk,
            memory_grpc.add_MemoryServiceServicer_to_server,
            "mnemocore.memory.v1.MemoryService",
        ),
        Service(
            _answering(desk, SpaceDesk, desk, book),
            spaces_grpc.add_SpaceServiceServicer_to_server,
            "mnemocore.memory.v1.SpaceService",
        ),
        Service(
            _answering(desk, links_grpc.AssociationServiceServicer),
            links_grpc.add_AssociationServiceServicer_to_server,
            "mnemocore.memory.v1.AssociationService",
        ),
        Service(
            _answering(desk, grants_grpc.GrantServiceServicer),
            grants_grpc.add_GrantServiceServicer_to_server,
            "mnemocore.memory.v1.GrantService",
        ),
        Service(
            _answering(desk, sessions_grpc.SessionServiceServicer),
            sessions_grpc.add_SessionServiceServicer_to_server,
            "mnemocore.memory.v1.SessionService",
        ),
        Service(
            _answering(desk, working_grpc.WorkingMemoryServiceServicer),
            working_grpc.add_WorkingMemoryServiceServicer_to_server,
            "mnemocore.memory.v1.WorkingMemoryService",
        ),
        Service(MediaDesk(desk), media_grpc.add_MediaServiceServicer_to_server, "mnemocore.memory.v1.MediaService"),
        Service(
            CognitionDesk(desk),
            cognition_grpc.add_CognitionServiceServicer_to_server,
            "mnemocore.cognitive.v1.CognitionService",
        ),
        Service(
            GatewayDesk(desk), gateway_grpc.add_GatewayServiceServicer_to_server, "mnemocore.gateway.v1.GatewayService"
        ),
        Service(event_desk, events_grpc.add_EventServiceServicer_to_server, "mnemocore.events.v1.EventService"),
    )
    for service in services:
        service.add(service.servicer, server)
    port = server.add_insecure_port(address)
    await server.start()
    try:
        target = address if address.startswith("unix:") else f"127.0.0.1:{port}"
        yield TestServer(server, target, desk, book, memory_desk, event_desk, services)
    finally:
        await server.stop(None)


@contextmanager
def serving_in_a_thread() -> Iterator[tuple[TestServer, asyncio.AbstractEventLoop]]:
    """A running server for callers that block, and the event loop it runs on."""
    started = threading.Event()
    state: list[Any] = []

    async def serve() -> None:
        async with running_server() as server:
            done = asyncio.Event()
            state.extend([server, asyncio.get_running_loop(), done])
            started.set()
            await done.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(10)
    try:
        yield state[0], state[1]
    finally:
        state[1].call_soon_threadsafe(state[2].set)
        thread.join(10)
        assert not thread.is_alive()
