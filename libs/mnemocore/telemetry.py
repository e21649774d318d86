"""Traces, metrics and logs. Libraries only record; a process decides in its main, by `configure`, where records go.

Without `configure` nothing is printed, exported or changed: OpenTelemetry's own no-operation providers stay in place.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Final, Literal

from opentelemetry import metrics, trace
from pythonjsonlogger.json import JsonFormatter

from mnemocore import calls
from mnemocore.errors import InvalidSettingError
from mnemocore.version import __version__

if TYPE_CHECKING:
    from opentelemetry.metrics import Counter, Histogram, Meter, UpDownCounter
    from opentelemetry.metrics import _Gauge as Gauge
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.trace import Tracer

LogFormat = Literal["json", "text"]

_SCOPE: Final = "mnemocore"

# As libraries do: without it Python prints the warnings of a program that has not configured logging.
logging.getLogger(_SCOPE).addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class Metric:
    """One instrument: what it is called, how it counts, in which unit (UCUM), and what it tells an operator."""

    name: str
    kind: Literal["counter", "up_down_counter", "histogram", "gauge"]
    unit: str
    doc: str


METRICS: Final[tuple[Metric, ...]] = (
    Metric("mnemo.server.calls", "counter", "{call}", "Calls answered, by `method` and `status` (the gRPC code)."),
    Metric("mnemo.server.duration", "histogram", "s", "Time to answer a call, by `method` and `status`."),
    Metric("mnemo.server.in_flight", "up_down_counter", "{call}", "Calls being handled now, by `method`."),
    Metric("mnemo.client.calls", "counter", "{call}", "Calls made, retries not counted, by `method` and `status`."),
    Metric("mnemo.client.duration", "histogram", "s", "Time a call took with its retries, by `method` and `status`."),
    Metric("mnemo.client.retries", "counter", "{attempt}", "Further attempts of calls that failed, by `method`."),
    Metric("mnemo.client.breaker.changes", "counter", "{change}", "Circuit breaker changes, by `target` and `state`."),
    Metric("mnemo.relay.lag", "gauge", "s", "Age of the oldest committed change that is not published yet."),
    Metric("mnemo.index.waiting", "gauge", "{memory}", "Memories that have no vector yet and are found by words only."),
    Metric("mnemo.index.query_cache", "counter", "{question}", "Questions encoded, by `outcome`: `hit` or `miss`."),
    Metric("mnemo.index.lag", "gauge", "s", "Age of the oldest known event that the index has not applied yet."),
    Metric("mnemo.index.drift", "counter", "{space}", "Spaces that differed from their source and were built anew."),
    Metric("mnemo.index.resident", "gauge", "By", "RAM that the spaces of the index take, estimated."),
    Metric("mnemo.events.members", "up_down_counter", "{member}", "Members of consumer groups that are here now."),
    Metric(
        "mnemo.events.deliveries",
        "counter",
        "{event}",
        "Events given to members of consumer groups, by `kind`: `first`, `again` or `replay`.",
    ),
    Metric(
        "mnemo.events.outcomes",
        "counter",
        "{event}",
        "What members said of events, by `outcome`: `done`, `failed`, `dead`, `extended`; `lost` did not count.",
    ),
    Metric("mnemo.events.dead_letters", "counter", "{event}", "Events that became dead letters, by `reason`."),
    Metric(
        "mnemo.events.lag", "gauge", "{position}", "How far the consumer group that is last here is behind the log."
    ),
    Metric(
        "mnemo.webhook.deliveries",
        "counter",
        "{request}",
        "Events sent to webhooks, by `outcome`: `delivered`, or why not.",
    ),
    Metric("mnemo.webhook.duration", "histogram", "s", "Time a request to a webhook took, by `outcome`."),
)
"""Every instrument of the project."""


def tracer() -> Tracer:
    """The tracer of this library."""
    return trace.get_tracer(_SCOPE, __version__)


def meter() -> Meter:
    """The meter of this library."""
    return metrics.get_meter(_SCOPE, __version__)


@cache
def counter(name: str) -> Counter:
    """The counter `name` of METRICS."""
    metric = _declared(name, "counter")
    return meter().create_counter(metric.name, metric.unit, metric.doc)


@cache
def up_down_counter(name: str) -> UpDownCounter:
    """The counter `name` of METRICS that can go down."""
    metric = _declared(name, "up_down_counter")
    return meter().create_up_down_counter(metric.name, metric.unit, metric.doc)


@cache
def histogram(name: str) -> Histogram:
    """The histogram `name` of METRICS."""
    metric = _declared(name, "histogram")
    return meter().create_histogram(metric.name, metric.unit, metric.doc)


@cache
def gauge(name: str) -> Gauge:
    """The gauge `name` of METRICS."""
    metric = _declared(name, "gauge")
    return meter().create_gauge(metric.name, metric.unit, metric.doc)


def configure(
    service: str, *, otlp_endpoint: str = "", log_format: LogFormat = "text", log_level: str = "INFO"
) -> None:
    """Send this process's logs to stderr, and its traces and metrics to `otlp_endpoint` (`http://host:4317`) if given.

    Called once, by the main of a process. Every log line carries the request id of the call it belongs to. Without an
    endpoint spans and metrics cost next to nothing and go nowhere.

    Raises InvalidSettingError if the level or format is unknown, or the exporter is asked for and not installed.
    """
    _configure_logging(service, log_format, log_level)
    if otlp_endpoint:
        _configure_export(service, otlp_endpoint)


def _declared(name: str, kind: str) -> Metric:
    for metric in METRICS:
        if metric.name == name and metric.kind == kind:
            return metric
    raise LookupError(f"METRICS has no {kind} {name!r}")


def _configure_logging(service: str, log_format: str, log_level: str) -> None:
    levels = logging.getLevelNamesMapping()
    if log_level.upper() not in levels:
        raise InvalidSettingError(
            f"log_level = {log_level!r}: allowed is one of {', '.join(levels)}", setting="log_level"
        )
    if log_format not in ("json", "text"):
        raise InvalidSettingError(f"log_format = {log_format!r}: allowed is json or text", setting="log_format")
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_add_request_id)
    handler.setFormatter(_json_formatter(service) if log_format == "json" else _TextFormatter())
    logging.basicConfig(handlers=[handler], level=log_level.upper(), force=True)
    logging.getLogger("asyncpg.pool").setLevel(logging.ERROR)  # what it warns of at every attempt we say once


def _add_request_id(record: logging.LogRecord) -> bool:
    record.request_id = calls.request_id.get()
    return True


def _json_formatter(service: str) -> logging.Formatter:
    return JsonFormatter(
        "{levelname}{name}{message}{request_id}",
        style="{",
        rename_fields={"levelname": "level", "name": "logger"},
        static_fields={"service": service},
        timestamp="time",
    )


class _TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.123Z INFO logger: message [request id]`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line for the record, followed by its traceback if it has one."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        request_id = getattr(record, "request_id", "")
        suffix = f" [{request_id}]" if request_id else ""
        message = record.getMessage().replace("\n", "\\n")
        line = f"{moment.removesuffix('+00:00')}Z {record.levelname} {record.name}: {message}{suffix}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _configure_export(service: str, endpoint: str) -> None:
    try:
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise InvalidSettingError(
            f"otlp_endpoint = {endpoint!r}: the exporter is not installed; install mnemocore[otlp]",
            setting="otlp_endpoint",
        ) from error
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = _resource(service)
    tracer_provider = TracerProvider(resource=resource)
    tracer_provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    trace.set_tracer_provider(tracer_provider)
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(endpoint=endpoint))
    metrics.set_meter_provider(MeterProvider(metric_readers=[reader], resource=resource))


def _resource(service: str) -> Resource:
    from opentelemetry.sdk.resources import Resource

    return Resource.create({"service.name": service, "service.version": __version__})
