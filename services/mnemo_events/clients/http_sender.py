"""Sending to endpoints: one POST, over a connection of its own, to an address that was judged a moment before.

Connections are not kept: the next request is judged anew, and no two hosts ever share one. Nothing of the environment
is used, no proxy, no cookie, no credential. Of what an endpoint answers nothing is passed on but its status.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, Protocol
from weakref import WeakValueDictionary

import httpx2

from mnemo_events.domain.group import Reason
from mnemo_events.domain.webhook import AddressNotAllowedError, Answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from mnemo_events.clients.address_guard import Target
    from mnemocore.clock import Clock
    from mnemocore.ids import Tenant

MAX_REDIRECTS: Final = 3
MAX_ANSWER_BYTES: Final = 4096
"""As much of an answer is read, so that the endpoint can finish; nobody looks at it."""
MAX_RETRY_AFTER: Final = 300.0
"""Seconds that an endpoint may ask to be left alone."""
_READ_SECONDS: Final = 1.0
"""How long the rest of an answer is waited for whose status is known."""
_MAX_ATTEMPTED: Final = 4
"""Addresses of a host that are tried."""
_FOLLOWED: Final = (307, 308)
"""Redirects that repeat the request as it is."""
_LATER: Final = (408, 425, 429)
"""Refusals that may be none a moment later."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of sending: seconds to connect, seconds for all of a request, requests at once in all and of a tenant."""

    connect_seconds: float = 5.0
    total_seconds: float = 10.0
    requests: int = 64
    requests_of_tenant: int = 32


class Guard(Protocol):
    """Judges a URL and finds its addresses."""

    async def check(self, tenant: Tenant, url: str) -> Target:
        """The URL of a tenant with addresses that are allowed now. Raises AddressNotAllowedError."""
        ...


class _RequestFailed(Exception):
    """A request without an answer, in one line."""

    def __init__(self, text: str, reason: Reason) -> None:
        super().__init__(text)
        self.reason = reason


class HttpSender:
    """Implements `mnemo_events.domain.webhook.Sender`. `tls` replaces the trust in the usual authorities."""

    def __init__(
        self, guard: Guard, clock: Clock, limits: Limits | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self._guard = guard
        self._clock = clock
        self._limits = limits or Limits()
        self._tls = tls
        self._opened: asyncio.Task[httpx2.AsyncHTTPTransport] | None = None
        self._all = asyncio.Semaphore(self._limits.requests)
        self._by_tenant: WeakValueDictionary[Tenant, asyncio.Semaphore] = WeakValueDictionary()

    async def send(self, tenant: Tenant, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """POST a body and follow redirects that repeat the request; what goes wrong is in the answer."""
        async with self._turn(tenant):
            transport = await self._transport()
            started = time.monotonic()
            try:
                async with asyncio.timeout(self._limits.total_seconds):
                    status, retry_after, error = await self._follow(transport, tenant, url, headers, body)
            except TimeoutError:
                status, retry_after = 0, None
                error = _RequestFailed(f"no answer within {self._limits.total_seconds:g} s", Reason.TIMEOUT)
            seconds = time.monotonic() - started
        if error is None:
            return Answer(status, seconds)
        return Answer(status, seconds, str(error), error.reason, retry_after)

    async def close(self) -> None:
        """End what is under way."""
        if self._opened is not None:
            await (await self._opened).aclose()

    @asynccontextmanager
    async def _turn(self, tenant: Tenant) -> AsyncIterator[None]:
        """Wait for a place among the requests of the tenant, then among all."""
        own = self._by_tenant.get(tenant)
        if own is None:
            own = self._by_tenant[tenant] = asyncio.Semaphore(self._limits.requests_of_tenant)
        async with own, self._all:
            yield

    async def _transport(self) -> httpx2.AsyncHTTPTransport:
        if self._opened is None:
            self._opened = asyncio.create_task(asyncio.to_thread(self._open))
        return await asyncio.shield(self._opened)

    def _open(self) -> httpx2.AsyncHTTPTransport:
        """Reads the certificates of the authorities, which takes a while."""
        limits = httpx2.Limits(max_connections=self._limits.requests, max_keepalive_connections=0)
        return httpx2.AsyncHTTPTransport(verify=self._tls or True, trust_env=False, limits=limits)

    async def _follow(
        self,
        transport: httpx2.AsyncHTTPTransport,
        tenant: Tenant,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
    ) -> tuple[int, float | None, _RequestFailed | None]:
        """Status of the last answer, the pause it asks for, and what went wrong."""
        status = 0
        try:
            target = await self._judged(tenant, url)
            for _ in range(1 + MAX_REDIRECTS):
                status, answer_headers = await self._post(transport, target, headers, body)
                if status not in _FOLLOWED:
                    return status, self._retry_after(answer_headers), _failure(status)
                target = await self._next(tenant, target, answer_headers)
        except _RequestFailed as error:
            return status, None, error
        return status, None, _RequestFailed(f"more than {MAX_REDIRECTS} redirects", Reason.HANDLER_ERROR)

    async def _judged(self, tenant: Tenant, url: str) -> Target:
        try:
            return await self._guard.check(tenant, url)
        except AddressNotAllowedError as error:
            raise _RequestFailed(f"not sent: {error}", Reason.UNAVAILABLE) from None

    async def _next(self, tenant: Tenant, target: Target, headers: httpx2.Headers) -> Target:
        """Where a redirect leads, judged as the first target was."""
        try:
            location = target.url.join(headers.get("location", ""))
        except (httpx2.InvalidURL, ValueError):
            raise _RequestFailed("redirected to what is no URL", Reason.HANDLER_ERROR) from None
        if target.url.scheme == "https" and location.scheme != "https":
            raise _RequestFailed("redirected from https to another scheme", Reason.HANDLER_ERROR)
        try:
            return await self._guard.check(tenant, str(location))
        except AddressNotAllowedError as error:
            raise _RequestFailed(f"redirect not followed: {error}", Reason.HANDLER_ERROR) from None

    async def _post(
        self, transport: httpx2.AsyncHTTPTransport, target: Target, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, httpx2.Headers]:
        """Status and headers of the answer of the first address that takes a connection. Raises _RequestFailed."""
        connect_by = time.monotonic() + self._limits.connect_seconds
        failure: httpx2.HTTPError | None = None
        for address in target.addresses[:_MAX_ATTEMPTED]:
            left = connect_by - time.monotonic()
            if left <= 0:
                break
            try:
                return await self._post_to(transport, self._request(target, str(address), headers, body, left))
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                failure = error
            except httpx2.TimeoutException:
                raise _RequestFailed(f"no answer within {self._limits.total_seconds:g} s", Reason.TIMEOUT) from None
            except httpx2.HTTPError:
                raise _RequestFailed("the connection broke before an answer", Reason.UNAVAILABLE) from None
        raise _unreachable(target.host, failure)

    def _request(
        self, target: Target, address: str, headers: Mapping[str, str], body: bytes, connect_seconds: float
    ) -> httpx2.Request:
        """A request to an address in the name of the host: in the header, and where TLS looks for it."""
        everything = {"Host": target.url.netloc.decode("ascii"), **headers, "Connection": "close"}
        total = self._limits.total_seconds
        timeouts = {"connect": connect_seconds, "read": total, "write": total, "pool": total}
        return httpx2.Request(
            "POST",
            target.url.copy_with(host=address, fragment=None),
            headers=everything,
            content=body,
            extensions={"timeout": timeouts, "sni_hostname": target.host},
        )

    async def _post_to(
        self, transport: httpx2.AsyncHTTPTransport, request: httpx2.Request
    ) -> tuple[int, httpx2.Headers]:
        async with AsyncExitStack() as stack:
            response = await transport.handle_async_request(request)
            stack.push_async_callback(response.aclose)
            with suppress(httpx2.HTTPError, TimeoutError):
                async with asyncio.timeout(_READ_SECONDS):
                    await _read_beginning(response)
            return response.status_code, response.headers

    def _retry_after(self, headers: httpx2.Headers) -> float | None:
        """Seconds that an endpoint asks to be left alone, as a number or as a date; None if it asks for nothing."""
        text = headers.get("retry-after", "")
        with suppress(ValueError):
            return _bounded(float(text))
        with suppress(ValueError, TypeError, OverflowError):
            moment = parsedate_to_datetime(text)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            return _bounded((moment - self._clock.now()).total_seconds())
        return None


async def _read_beginning(response: httpx2.Response) -> None:
    size = 0
    async for part in response.aiter_raw():
        size += len(part)
        if size >= MAX_ANSWER_BYTES:
            return


def _bounded(seconds: float) -> float | None:
    return min(max(seconds, 0.0), MAX_RETRY_AFTER) if seconds == seconds else None


def _failure(status: int) -> _RequestFailed | None:
    """What a status means; None if the event was taken."""
    if 200 <= status < 300:
        return None
    text = f"answered HTTP {status}"
    if 300 <= status < 400:
        return _RequestFailed(f"{text}; followed are 307 and 308", Reason.HANDLER_ERROR)
    if 400 <= status < 500 and status not in _LATER:
        return _RequestFailed(text, Reason.REFUSED_BY_TARGET)
    return _RequestFailed(text, Reason.UNAVAILABLE if status in (429, 503) else Reason.HANDLER_ERROR)


def _unreachable(host: str, failure: httpx2.HTTPError | None) -> _RequestFailed:
    if isinstance(failure, httpx2.ConnectTimeout) or failure is None:
        return _RequestFailed(f"{host} takes no connection in time", Reason.TIMEOUT)
    cause: BaseException | None = failure
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            why = getattr(cause, "verify_message", "") or cause.reason or "no TLS"
            return _RequestFailed(f"TLS with {host} failed: {why}", Reason.UNAVAILABLE)
        cause = cause.__cause__ or cause.__context__
    return _RequestFailed(f"{host} takes no connection", Reason.UNAVAILABLE)
