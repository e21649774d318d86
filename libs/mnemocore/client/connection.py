"""`connect`: the way in for programs."""

from __future__ import annotations

import importlib
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from mnemocore.client import convert, values
from mnemocore.client.administration import policy_to_wire, receipt_from_wire, space_from_wire
from mnemocore.client.agents import Agents
from mnemocore.client.channel import ResilientChannel
from mnemocore.client.credentials import ApiKeyCredentials, Credentials, NoCredentials
from mnemocore.client.dial import TlsFiles, open_channel
from mnemocore.client.encoders import Encoders
from mnemocore.client.events import Events
from mnemocore.client.hypervectors import Hypervectors
from mnemocore.client.services import Services
from mnemocore.client.sharing import grant_from_wire
from mnemocore.client.space import Space
from mnemocore.client.tasks import Tasks
from mnemocore.client.webhooks import Webhooks
from mnemocore.clock import Clock, SystemClock
from mnemocore.cognitive.v1 import cognition_service_pb2
from mnemocore.errors import DeadlineExceededError, PreconditionError
from mnemocore.gateway.v1 import gateway_service_pb2
from mnemocore.memory.v1 import grant_service_pb2, space_service_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime
    from types import TracebackType
    from typing import Self

    import grpc

S = TypeVar("S")

EMBEDDED_PREFIX: Final = "embedded:"
EMBEDDED_MODULE: Final = "mnemo_embedded"
"""Lies above the library, which therefore finds it by its name; it offers `open_embedded(directory)`."""

FIRST_POLL: Final = 0.05
LONGEST_POLL: Final = 1.0
"""Seconds between two looks at a job."""


class EmbeddedServer(Protocol):
    """What `open_embedded` gives: a way to all services over one data directory.

    `channel` leads to services in this process; None: a server runs already, at the address `target`. `api_key` opens
    the services for the owner of the directory.
    """

    channel: grpc.aio.Channel | None
    target: str
    api_key: str


def connect(
    target: str, *, api_key: str | None = None, timeout: float | None = None, tls: bool | TlsFiles = False
) -> Connection:
    """A connection to `HOST:PORT`, `unix:PATH` or `embedded:DIRECTORY`. Open it with `async with`, or with `open`.

    `api_key` proves who is calling. `timeout` is the most seconds a call may take; without it every method has a
    deadline of its own. `tls` is True for the authorities of the system, or the files to use. Calls that are safe to
    repeat are repeated when the server does not answer, and a server that fails again and again is left alone for a
    while.
    """
    return Connection(target, api_key=api_key, timeout=timeout, tls=tls)


class Connection:
    """Spaces, jobs, keys and events of one server. Made by `connect`; one event loop uses it."""

    def __init__(
        self,
        target: str,
        *,
        api_key: str | None = None,
        timeout: float | None = None,
        tls: bool | TlsFiles = False,
        clock: Clock | None = None,
    ) -> None:
        self.target = target
        self._credentials: Credentials = ApiKeyCredentials(api_key) if api_key else NoCredentials()
        self._timeout = timeout
        self._tls = tls
        self._clock: Clock = clock or SystemClock()
        self._resources = AsyncExitStack()
        self._channel: ResilientChannel | None = None
        self._services: Services | None = None

    async def open(self) -> Self:
        """Open the connection; `async with` does it too. A server is first spoken to by the first call.

        Raises InvalidFieldError if the target is not valid, DataDirectoryError if an embedded store cannot be opened.
        """
        if self._channel is None:
            self._channel = await self._open_channel()
            self._services = Services(self._channel, self._clock, self._timeout)
        return self

    async def close(self) -> None:
        """Close the connection, and stop the embedded services if it started them. Closing twice does nothing."""
        self._channel = None
        self._services = None
        await self._resources.aclose()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def channel(self) -> ResilientChannel:
        """The channel under the connection."""
        if self._channel is None:
            raise self._not_open()
        return self._channel

    def stub(self, cls: Callable[[grpc.aio.Channel], S]) -> S:
        """A generated stub on this connection, for what has no method here."""
        return cls(self.channel)

    @property
    def encoders(self) -> Encoders:
        """The models behind the vectors, for operators."""
        return Encoders(self._open_services)

    @property
    def events(self) -> Events:
        """The log of events, consumer groups, schemas and access policies. Called, it reads the log."""
        return Events(self._open_services)

    @property
    def webhooks(self) -> Webhooks:
        """HTTP endpoints that are sent events."""
        return Webhooks(self._open_services)

    @property
    def agents(self) -> Agents:
        """Which agents are there, and being one."""
        return Agents(self._open_services)

    @property
    def tasks(self) -> Tasks:
        """Work for agents, and doing it."""
        return Tasks(self._open_services)

    @property
    def hypervectors(self) -> Hypervectors:
        """Computing with meanings: bind, bundle, compare, concepts, analogies."""
        return Hypervectors(self._open_services)

    def space(self, id: str) -> Space:
        """A handle on a space; nothing is sent."""
        return Space(self._open_services, id)

    async def spaces(self, *, page_size: int = 0) -> AsyncIterator[values.SpaceInfo]:
        """All spaces, by name. Reads page by page."""
        services = self._open_services
        request = space_service_pb2.ListSpacesRequest(page_size=page_size)
        async for page in services.pages(services.spaces.ListSpaces, request):
            for space in page.spaces:
                yield space_from_wire(space)

    async def create_space(
        self, id: str, *, description: str = "", policy: values.SpacePolicy | None = None, encrypted: bool = False
    ) -> values.SpaceInfo:
        """Make a space; `encrypted` at rest, if it is to be, from the beginning and for good.

        Raises SpaceExistsError, or KeyUnavailableError if the installation has no master key to encrypt with.
        """
        request = space_service_pb2.CreateSpaceRequest(encrypted=encrypted)
        convert.assign(request, "space_id", id, "id")
        convert.assign(request, "description", description)
        if policy is not None:
            request.policy.CopyFrom(policy_to_wire(policy))
        return space_from_wire(await self._open_services.create_space(request))

    async def erasures(self, *, page_size: int = 0) -> AsyncIterator[values.ErasureReceipt]:
        """The receipts of the spaces that were erased, newest first. Reads page by page."""
        services = self._open_services
        request = space_service_pb2.ListErasuresRequest(page_size=page_size)
        async for page in services.pages(services.spaces.ListErasures, request):
            for receipt in page.receipts:
                yield receipt_from_wire(receipt)

    async def received_grants(self, *, page_size: int = 0) -> AsyncIterator[values.Grant]:
        """What others share with us, accepted or not, by creation. Reads page by page."""
        services = self._open_services
        request = grant_service_pb2.ListReceivedGrantsRequest(page_size=page_size)
        async for page in services.pages(services.grants.ListReceivedGrants, request):
            for grant in page.grants:
                yield grant_from_wire(grant)

    async def accept_grant(self, id: str, space_id: str) -> values.Grant:
        """Take a space that another tenant shares with us into our own names, as `space_id`.

        Raises GrantNotFoundError, or SpaceExistsError if the name is taken.
        """
        services = self._open_services
        request = grant_service_pb2.AcceptGrantRequest(id=id, space_id=space_id)
        return grant_from_wire((await services.call(services.grants.AcceptGrant, request)).grant)

    async def delete_grant(self, id: str) -> None:
        """End the sharing of a space at once; both sides may. Raises GrantNotFoundError."""
        services = self._open_services
        await services.call(services.grants.DeleteGrant, grant_service_pb2.DeleteGrantRequest(id=id))

    async def capabilities(self) -> values.Capabilities:
        """The version of the server, who we are to it, and what it offers."""
        services = self._open_services
        request = gateway_service_pb2.GetCapabilitiesRequest()
        return convert.capabilities_from_wire(await services.call(services.gateway.GetCapabilities, request))

    async def create_api_key(
        self, principal: str, scopes: Sequence[str], *, tenant: str = "", expire_time: datetime | None = None
    ) -> values.NewApiKey:
        """Make an API key for `principal`; the secret is in this answer and nowhere else. `tenant` is ours by default.

        Raises PermissionDeniedError if the key would be allowed more than we are. Not repeated after a failure, so that
        no key is made that nobody has.
        """
        services = self._open_services
        request = gateway_service_pb2.CreateApiKeyRequest(tenant=tenant, principal=principal, scopes=scopes)
        if expire_time is not None:
            convert.time_to_wire(expire_time, request.expire_time, "expire_time")
        response = await services.call(services.gateway.CreateApiKey, request)
        return values.NewApiKey(convert.api_key_from_wire(response.api_key), response.secret)

    async def list_api_keys(self, *, page_size: int = 0) -> AsyncIterator[values.ApiKey]:
        """All API keys, by creation. Reads page by page."""
        services = self._open_services
        request = gateway_service_pb2.ListApiKeysRequest(page_size=page_size)
        async for page in services.pages(services.gateway.ListApiKeys, request):
            for api_key in page.api_keys:
                yield convert.api_key_from_wire(api_key)

    async def delete_api_key(self, id: str) -> None:
        """Revoke an API key. Raises ApiKeyNotFoundError."""
        services = self._open_services
        await services.call(
            services.gateway.DeleteApiKey, gateway_service_pb2.DeleteApiKeyRequest(name=f"apiKeys/{id}")
        )

    async def job(self, id: str) -> values.Job:
        """A job and its report so far. Raises JobNotFoundError."""
        services = self._open_services
        request = cognition_service_pb2.GetJobRequest(name=f"jobs/{id}")
        return convert.job_from_wire((await services.call(services.cognition.GetJob, request)).job)

    async def jobs(self, *, space: str = "", page_size: int = 0) -> AsyncIterator[values.Job]:
        """All jobs, or those of one space, newest first; reports without groups and Markdown. Reads page by page."""
        services = self._open_services
        request = cognition_service_pb2.ListJobsRequest(space=f"spaces/{space}" if space else "", page_size=page_size)
        async for page in services.pages(services.cognition.ListJobs, request):
            for job in page.jobs:
                yield convert.job_from_wire(job)

    async def cancel_job(self, id: str) -> values.Job:
        """End a job at its next step; what it did stays done.

        Raises JobNotFoundError, or JobStateError if it has ended.
        """
        services = self._open_services
        request = cognition_service_pb2.CancelJobRequest(name=f"jobs/{id}")
        return convert.job_from_wire((await services.call(services.cognition.CancelJob, request)).job)

    async def wait_for_job(self, id: str, *, timeout: float) -> values.Job:
        """The job once it has ended, however it ended. Raises DeadlineExceededError after `timeout` seconds."""
        expiry = self._clock.monotonic() + timeout
        pause = FIRST_POLL
        while not (job := await self.job(id)).state.ended:
            if self._clock.monotonic() + pause > expiry:
                raise DeadlineExceededError(f"job {id} is still {job.state} after {timeout:g} s")
            await self._clock.sleep(pause)
            pause = min(LONGEST_POLL, pause * 2)
        return job

    @property
    def _open_services(self) -> Services:
        if self._services is None:
            raise self._not_open()
        return self._services

    async def _open_channel(self) -> ResilientChannel:
        if not self.target.startswith(EMBEDDED_PREFIX):
            return self._dial(self.target, self._credentials, self._tls)
        module = importlib.import_module(EMBEDDED_MODULE)
        opening: AbstractAsyncContextManager[EmbeddedServer]
        opening = module.open_embedded(Path(self.target.removeprefix(EMBEDDED_PREFIX)))
        server = await self._resources.enter_async_context(opening)
        credentials = self._credentials
        if isinstance(credentials, NoCredentials) and server.api_key:
            credentials = ApiKeyCredentials(server.api_key)
        if server.channel is None:
            return self._dial(server.target, credentials, tls=False)
        return ResilientChannel(server.channel, server.target, credentials=credentials, clock=self._clock)

    def _dial(self, target: str, credentials: Credentials, tls: bool | TlsFiles) -> ResilientChannel:
        channel = open_channel(target, credentials, tls=tls, clock=self._clock)
        self._resources.push_async_callback(channel.close)
        return channel

    def _not_open(self) -> PreconditionError:
        return PreconditionError(f"the connection to {self.target} is not open; use 'async with connect(...)'")

    def __repr__(self) -> str:
        return f"Connection({self.target!r})"
