"""Events as lines of JSON, payloads as they are typed and shown, and places in the log."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
import pytest

from mnemo_cli import places
from mnemo_cli.payloads import document_of, in_a_line, payload_of
from mnemo_cli.shown import moment
from mnemo_cli.sources import events as event_lines
from mnemo_cli.sources.lines import read_lines
from mnemo_cli.sources.record import SourceError
from mnemocore.client import Event, EventInput

if TYPE_CHECKING:
    from pathlib import Path


def inputs(*lines: str | dict[str, Any], defaults: dict[str, Any] | None = None) -> list[EventInput]:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    return [item for _, item in event_lines.read(read_lines(io.BytesIO(text.encode()), "stdin"), defaults or {})]


def test_years_have_four_digits() -> None:
    assert moment(datetime(1, 1, 1, tzinfo=UTC)) == "0001-01-01 00:00:00Z"
    assert moment(datetime(2026, 1, 31, 12, 0, 5, 999999, tzinfo=UTC)) == "2026-01-31 12:00:05Z"


def event(data: bytes, content_type: str) -> Event:
    time = datetime(2026, 1, 31, tzinfo=UTC)
    return Event(7, "e1", "shop", "order.placed", "orders/7", time, content_type, "", data, "", 0, time)


def test_a_line_has_the_attributes_of_cloudevents() -> None:
    [item] = inputs(
        {
            "specversion": "1.0",
            "id": "e1",
            "source": "shop",
            "type": "order.placed",
            "subject": "orders/7",
            "time": "2026-01-31T12:00:00Z",
            "data": {"who": "Zoë"},
            "dataschema": "schemas/order.placed/versions/1",
            "correlation_id": "c",
            "causation_id": "e0",
        }
    )
    assert item == EventInput(
        "order.placed",
        '{"who": "Zoë"}'.encode(),
        subject="orders/7",
        id="e1",
        time=datetime(2026, 1, 31, 12, tzinfo=UTC),
        source="shop",
        datacontenttype="application/json",
        dataschema="schemas/order.placed/versions/1",
        correlation_id="c",
        causation_id="e0",
    )


def test_payloads_of_lines() -> None:
    found = inputs(
        {"type": "a.b"},
        {"type": "a.b", "data": "text"},
        {"type": "a.b", "data": "text", "datacontenttype": "text/plain"},
        {"type": "a.b", "data": "text", "datacontenttype": "application/vnd.x+json"},
        {"type": "a.b", "data_base64": "AP8="},
        {"type": "a.b", "data": False},
        "",
    )
    assert [(item.data, item.datacontenttype) for item in found] == [
        (None, ""),
        (b'"text"', "application/json"),
        (b"text", "text/plain"),
        (b'"text"', "application/vnd.x+json"),
        (b"\x00\xff", ""),
        (b"false", "application/json"),
    ]


def test_options_stand_in_for_what_a_line_leaves_out() -> None:
    found = inputs({}, {"type": "c.d"}, defaults={"type": "a.b", "subject": "s"})
    assert [(item.type, item.subject) for item in found] == [("a.b", "s"), ("c.d", "s")]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("[1]", "not a JSON object but a list"),
        ("{", "not valid JSON"),
        ({"data": 1}, "type: is missing"),
        ({"type": 3}, "type: 3 is not a text"),
        ({"type": "a.b", "tpye": 1}, "tpye: not a field of an event; allowed are type, "),
        ({"type": "a.b", "time": "noon"}, "time: 'noon' is not a time"),
        ({"type": "a.b", "time": "2026-01-31T12:00:00"}, "has no time zone"),
        ({"type": "a.b", "data_base64": "?"}, "data_base64: is not base64"),
        ({"type": "a.b", "data": 1, "data_base64": "AA=="}, "cannot be given together"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(line: str | dict[str, Any], problem: str) -> None:
    with pytest.raises(SourceError) as caught:
        inputs({"type": "a.b"}, line)
    assert str(caught.value).startswith("stdin:2: ")
    assert problem in str(caught.value)


def test_what_is_read_can_be_published_again() -> None:
    for stored in (event(b'{"a":1}', "application/json"), event(b"x", "text/plain"), event(b"\xff", "image/png")):
        [item] = inputs(document_of(stored))
        assert (item.id, item.type, item.subject, item.datacontenttype) == (
            stored.id,
            stored.type,
            stored.subject,
            stored.datacontenttype,
        )
        assert isinstance(item.data, bytes)
        assert item.data.replace(b" ", b"") == stored.data


def test_payloads_as_they_are_typed(tmp_path: Path) -> None:
    file = tmp_path / "payload"
    file.write_bytes(b"\xff")
    assert payload_of(None, "") == (None, "")
    assert payload_of('{"a": 1}', "") == (b'{"a": 1}', "application/json")
    assert payload_of("hello", "text/plain") == (b"hello", "text/plain")
    assert payload_of(f"@{file}", "image/png") == (b"\xff", "image/png")
    with pytest.raises(click.BadParameter, match="is not JSON"):
        payload_of("hello", "")


def test_payloads_in_a_line() -> None:
    assert in_a_line(b"") == ""
    assert in_a_line(b'{"a":\n1}') == '{"a": 1}'
    assert in_a_line(b"\xff\xfe") == "(2 bytes)"
    assert len(in_a_line(b"x" * 500)) <= 80


def test_places() -> None:
    assert (places.place("earliest"), places.place("latest"), places.place("0"), places.place("20260131")) == (
        "earliest",
        "latest",
        0,
        20260131,
    )
    assert places.place("2026-01-31") == datetime(2026, 1, 31, tzinfo=UTC)
    for text in ("middle", "-1", "²", "2026-01-31T12:00"):
        with pytest.raises(click.BadParameter, match=r"allowed are earliest, latest, a position"):
            places.place(text)
