"""Telemetry: silent as a library, one line a record as a process."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from mnemocore import telemetry
from mnemocore.errors import InvalidSettingError
from mnemocore.telemetry import METRICS, Metric


def run(script: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own, because telemetry is a matter of whole processes."""
    path = "import sys; sys.path[:0] = " + repr([entry for entry in sys.path if entry.endswith("libs")])
    return subprocess.run(
        [sys.executable, "-c", f"{path}\n{script}"], capture_output=True, text=True, timeout=60, check=True
    )


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_metric_is_described_and_can_be_recorded(metric: Metric) -> None:
    assert metric.name.startswith("mnemo.")
    assert metric.unit
    assert metric.doc.endswith(".")
    instrument = getattr(telemetry, metric.kind)(metric.name)
    assert instrument is getattr(telemetry, metric.kind)(metric.name)


def test_metric_names_are_unique() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_an_undeclared_metric_is_refused() -> None:
    with pytest.raises(LookupError, match="METRICS has no counter"):
        telemetry.counter("mnemo.surprise")
    with pytest.raises(LookupError):
        telemetry.gauge("mnemo.server.calls")


def test_as_a_library_nothing_is_printed_or_changed() -> None:
    result = run(
        """
import logging
from opentelemetry import trace
from mnemocore import telemetry
telemetry.counter("mnemo.server.calls").add(1)
with telemetry.tracer().start_as_current_span("quiet"):
    logging.getLogger("mnemocore.server").error("a failure that a library keeps to itself")
assert not logging.getLogger().handlers
assert type(trace.get_tracer_provider()).__name__ == "ProxyTracerProvider"
"""
    )
    assert (result.stdout, result.stderr) == ("", "")


LOGGING = """
import logging
from mnemocore import calls, telemetry
telemetry.configure("memory", log_format={format!r}, log_level="info")
calls.request_id.set("request-1")
logging.getLogger("a.b").debug("left out")
logging.getLogger("a.b").info("two\\nlines of %s", "text", extra={{"tenant": "acme"}})
"""


def test_json_logs() -> None:
    [line] = run(LOGGING.format(format="json")).stderr.splitlines()
    record = json.loads(line)
    assert record.pop("time")
    assert record == {
        "level": "INFO",
        "logger": "a.b",
        "message": "two\nlines of text",
        "request_id": "request-1",
        "service": "memory",
        "tenant": "acme",
    }


def test_text_logs() -> None:
    [line] = run(LOGGING.format(format="text")).stderr.splitlines()
    moment, text = line.split(" ", 1)
    assert moment.endswith("Z")
    assert text == "INFO a.b: two\\nlines of text [request-1]"


def test_export_sets_providers() -> None:
    result = run(
        """
from opentelemetry import metrics, trace
from mnemocore import telemetry
telemetry.configure("memory", otlp_endpoint="http://127.0.0.1:9", log_level="CRITICAL")
print(trace.get_tracer_provider().resource.attributes["service.name"], type(metrics.get_meter_provider()).__name__)
import os
os._exit(0) if sys.stdout.flush() is None else None
"""
    )
    assert result.stdout.strip() == "memory MeterProvider"


def test_a_missing_exporter_is_a_clear_error() -> None:
    result = run(
        """
sys.modules["opentelemetry.exporter.otlp.proto.grpc.metric_exporter"] = None
from mnemocore import telemetry
from mnemocore.errors import InvalidSettingError
try:
    telemetry.configure("memory", otlp_endpoint="http://127.0.0.1:9")
except InvalidSettingError as error:
    print(error)
"""
    )
    assert result.stdout == (
        "otlp_endpoint = 'http://127.0.0.1:9': the exporter is not installed; install mnemocore[otlp]\n"
    )


@pytest.mark.parametrize(("name", "value"), [("log_level", "LOUD"), ("log_format", "xml")])
def test_unknown_settings_are_refused(name: str, value: str) -> None:
    with pytest.raises(InvalidSettingError, match=f"{name} = '{value}': allowed is"):
        telemetry.configure("memory", **{name: value})  # type: ignore[arg-type]
