"""The stubs of a connection, and how its calls are made."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import grpc

from mnemocore.client.freshness import Freshness
from mnemocore.cognitive.v1.cognition_service_pb2_grpc import CognitionServiceStub
from mnemocore.errors import SpaceExistsError, SpaceNotFoundError
from mnemocore.events.v1.access_service_pb2_grpc import AccessServiceStub
from mnemocore.events.v1.agent_service_pb2_grpc import AgentServiceStub
from mnemocore.events.v1.event_service_pb2_grpc import EventServiceStub
from mnemocore.events.v1.group_service_pb2_grpc import GroupServiceStub
from mnemocore.events.v1.schema_service_pb2_grpc import SchemaServiceStub
from mnemocore.events.v1.task_service_pb2_grpc import TaskServiceStub
from mnemocore.events.v1.webhook_service_pb2_grpc import WebhookServiceStub
from mnemocore.gateway.v1.gateway_service_pb2_grpc import GatewayServiceStub
from mnemocore.ids import new_uuid
from mnemocore.index.v1.encoder_service_pb2_grpc import EncoderServiceStub
from mnemocore.index.v1.hypervector_service_pb2_grpc import HypervectorServiceStub
from mnemocore.memory.v1 import space_service_pb2
from mnemocore.memory.v1.association_service_pb2_grpc import AssociationServiceStub
from mnemocore.memory.v1.grant_service_pb2_grpc import GrantServiceStub
from mnemocore.memory.v1.media_service_pb2_grpc import MediaServiceStub
from mnemocore.memory.v1.memory_service_pb2_grpc import MemoryServiceStub
from mnemocore.memory.v1.session_service_pb2_grpc import SessionServiceStub
from mnemocore.memory.v1.space_service_pb2_grpc import SpaceServiceStub
from mnemocore.memory.v1.transfer_service_pb2_grpc import TransferServiceStub
from mnemocore.memory.v1.working_memory_service_pb2_grpc import WorkingMemoryServiceStub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

    from mnemocore.client.channel import ResilientChannel
    from mnemocore.clock import Clock
    from mnemocore.common.v1.resources_pb2 import ConsistencyToken
    from mnemocore.memory.v1 import resources_pb2

Req = TypeVar("Req", contravariant=True)
Res = TypeVar("Res", covariant=True)


class UnaryMethod(Protocol[Req, Res]):
    """A method of a stub with one request and one response."""

    def __call__(self, request: Req, *, timeout: float | None = None) -> Awaitable[Res]:
        """Send `request`."""
        ...


class Written(Protocol):
    """The response to a write."""

    @property
    def written_at(self) -> ConsistencyToken:
        """Proof of the write."""
        ...


W = TypeVar("W", bound=Written)


class Services:
    """The stubs on one channel. `timeout` is the most seconds a call may take, None for what each method declares."""

    def __init__(self, channel: ResilientChannel, clock: Clock, timeout: float | None) -> None:
        self.memory = MemoryServiceStub(channel)
        self.spaces = SpaceServiceStub(channel)
        self.media = MediaServiceStub(channel)
        self.transfer = TransferServiceStub(channel)
        self.associations = AssociationServiceStub(channel)
        self.grants = GrantServiceStub(channel)
        self.sessions = SessionServiceStub(channel)
        self.working_memory = WorkingMemoryServiceStub(channel)
        self.encoders = EncoderServiceStub(channel)
        self.hypervectors = HypervectorServiceStub(channel)
        self.cognition = CognitionServiceStub(channel)
        self.events = EventServiceStub(channel)
        self.groups = GroupServiceStub(channel)
        self.schemas = SchemaServiceStub(channel)
        self.access = AccessServiceStub(channel)
        self.webhooks = WebhookServiceStub(channel)
        self.agents = AgentServiceStub(channel)
        self.tasks = TaskServiceStub(channel)
        self.gateway = GatewayServiceStub(channel)
        self.clock = clock
        self.timeout = timeout
        self._channel = channel
        self._freshness: dict[str, Freshness] = {}

    def freshness(self, space_id: str) -> Freshness:
        """The newest token seen in a space."""
        return self._freshness.setdefault(space_id, Freshness())

    def request_id(self) -> str:
        """A new name for a write, under which it may be sent more than once."""
        return new_uuid(self.clock.now())

    async def call(self, method: UnaryMethod[Req, Res], request: Req) -> Res:
        """The response to `request`."""
        return await method(request, timeout=self.timeout)

    async def connected(self, seconds: float) -> None:
        """Return when the server can be spoken to, after `seconds` at the latest.

        Who opens a stream again and again waits here in between: attempts that find nobody would open the breaker, and
        a server that is back after 3 seconds would be left alone for 30.
        """
        with contextlib.suppress(TimeoutError, grpc.aio.UsageError):  # of a closed channel: the next call tells
            async with asyncio.timeout(seconds):
                await self._channel.channel_ready()

    async def call_in(self, space_id: str, method: UnaryMethod[Req, Res], request: Req) -> Res:
        """The response to `request`, which is about a space; the space is made if it does not exist."""
        try:
            return await self.call(method, request)
        except SpaceNotFoundError:
            await self.ensure_space(space_id)
            return await self.call(method, request)

    async def write(self, space_id: str, method: UnaryMethod[Req, W], request: Req, *, make_space: bool = False) -> W:
        """The response to a write in a space, which reads of the space are from now on as fresh as."""
        pending = self.freshness(space_id).begin_write()
        calling = self.call_in(space_id, method, request) if make_space else self.call(method, request)
        response = await calling
        pending.answered(response.written_at.value)
        return response

    async def pages(self, method: UnaryMethod[Any, Any], request: Any) -> AsyncIterator[Any]:
        """Every page from the one `request` asks for to the last one."""
        while True:
            response = await self.call(method, request)
            yield response
            if not response.next_page_token:
                return
            following = type(request)()
            following.CopyFrom(request)
            following.page_token = response.next_page_token
            request = following

    async def create_space(self, request: space_service_pb2.CreateSpaceRequest) -> resources_pb2.Space:
        """Make a space; the request gets its id here. Raises SpaceExistsError."""
        request.request_id = self.request_id()
        return (await self.call(self.spaces.CreateSpace, request)).space

    async def ensure_space(self, space_id: str) -> None:
        """Make a space unless somebody else has just made it. Tokens of an older one of this name are forgotten."""
        self.freshness(space_id).forget()
        with contextlib.suppress(SpaceExistsError):
            await self.create_space(space_service_pb2.CreateSpaceRequest(space_id=space_id))
