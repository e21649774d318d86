"""The stages that watch: request id, tracing, metrics, access log."""

from __future__ import annotations

import logging
import time
import uuid
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from mnemocore import calls, telemetry

if TYPE_CHECKING:
    from mnemocore.server.chain import Proceed, ServerCall

MAX_REQUEST_ID: Final = 128
"""Greatest number of characters of a request id that is taken over from the caller."""

_SERVER_FAULTS: Final = frozenset(
    ("UNKNOWN", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
)
_LOGGER: Final = logging.getLogger("mnemocore.server.access")
_PROPAGATOR: Final = TraceContextTextMapPropagator()


class RequestIdStage:
    """Takes over the caller's `x-request-id` or makes one; it is in every log line and in the trailing metadata."""

    name = "request id"

    async def handle(self, call: ServerCall, proceed: Proceed) -> Any:
        """Name the call."""
        given = call.metadata.get(calls.REQUEST_ID_HEADER, "")
        call.request_id = given if _is_request_id(given) else str(uuid.uuid4())
        calls.request_id.set(call.request_id)
        response = await proceed(call)
        trailing = tuple(call.context.trailing_metadata() or ())
        call.context.set_trailing_metadata((*trailing, (calls.REQUEST_ID_HEADER, call.request_id)))
        return response


class TracingStage:
    """A server span for the call, child of the caller's `traceparent` if there is one."""

    name = "tracing"

    def __init__(self) -> None:
        self._tracer = telemetry.tracer()

    async def handle(self, call: ServerCall, proceed: Proceed) -> Any:
        """Trace the call."""
        parent = _PROPAGATOR.extract(call.metadata) if calls.TRACEPARENT_HEADER in call.metadata else None
        with self._tracer.start_as_current_span(
            call.label, context=parent, kind=SpanKind.SERVER, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                return await proceed(call)
            finally:
                if span.is_recording():
                    span.set_attribute("rpc.system", "grpc")
                    span.set_attribute("rpc.method", call.label)
                    span.set_attribute("rpc.grpc.status", call.status)
                    span.set_attribute("mnemo.request_id", call.request_id)
                    if call.status in _SERVER_FAULTS:
                        span.set_status(StatusCode.ERROR, call.status)


class MetricsStage:
    """Counts and times the calls."""

    name = "metrics"

    def __init__(self) -> None:
        self._calls = telemetry.counter("mnemo.server.calls")
        self._duration = telemetry.histogram("mnemo.server.duration")
        self._in_flight = telemetry.up_down_counter("mnemo.server.in_flight")

    async def handle(self, call: ServerCall, proceed: Proceed) -> Any:
        """Measure the call."""
        started = time.perf_counter()
        method = {"method": call.label}
        self._in_flight.add(1, method)
        try:
            return await proceed(call)
        finally:
            outcome = {"method": call.label, "status": call.status}
            self._in_flight.add(-1, method)
            self._calls.add(1, outcome)
            self._duration.record(time.perf_counter() - started, outcome)


class AccessLogStage:
    """One log line a call: DEBUG if it succeeded, INFO if the caller was wrong, WARNING if the server failed."""

    name = "access log"

    async def handle(self, call: ServerCall, proceed: Proceed) -> Any:
        """Log the call when it is over."""
        started = time.perf_counter()
        try:
            return await proceed(call)
        finally:
            level = _level(call.status)
            if _LOGGER.isEnabledFor(level):
                _log(call, level, (time.perf_counter() - started) * 1000)


def _log(call: ServerCall, level: int, milliseconds: float) -> None:
    tenant = call.identity.tenant if call.identity is not None else ""
    fields = {
        "method": call.path,
        "status": call.status,
        "ms": round(milliseconds, 3),
        "tenant": tenant,
        "request_id": call.request_id,
    }
    _LOGGER.log(level, "%s %s %.1f ms tenant=%s", call.path, call.status, milliseconds, tenant or "-", extra=fields)


def _level(status: str) -> int:
    if status == "OK":
        return logging.DEBUG
    return logging.WARNING if status in _SERVER_FAULTS else logging.INFO


def _is_request_id(text: str) -> bool:
    return 0 < len(text) <= MAX_REQUEST_ID and text.isascii() and text.isprintable()
