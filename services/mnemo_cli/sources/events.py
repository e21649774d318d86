"""JSONL of events: one for each line, with the attributes of CloudEvents."""

from __future__ import annotations

import base64
import binascii
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from mnemo_cli.sources.jsonl import parse_object
from mnemo_cli.sources.record import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mnemo_cli.sources.lines import Line
    from mnemo_cli.sources.record import Place
    from mnemocore.client import EventInput

_TEXTS: Final = (
    "type",
    "subject",
    "id",
    "source",
    "datacontenttype",
    "dataschema",
    "correlation_id",
    "causation_id",
)
_PASSED_OVER: Final = ("specversion", "position", "stored_at", "space_uid", "revision", "traceparent")
"""What `mnemo events read --json` shows, and nobody who publishes may say."""

_ALLOWED: Final = (*_TEXTS, "time", "data", "data_base64")


def read(lines: Iterable[Line], defaults: dict[str, Any]) -> Iterator[tuple[Place, EventInput]]:
    """Where each line is that is not empty, and its event; `defaults` for what it leaves out. Raises SourceError."""
    for line in lines:
        if not line.raw.strip():
            continue
        try:
            yield line.place, event_from_fields(defaults | parse_object(line.text))
        except SourceError:
            raise
        except ValueError as error:
            raise SourceError(line.place, str(error)) from None


def event_from_fields(fields: dict[str, Any]) -> EventInput:
    """The event of a JSON object. Raises ValueError that names the field."""
    from mnemocore.client import EventInput

    unknown = fields.keys() - {*_ALLOWED, *_PASSED_OVER}
    if unknown:
        raise ValueError(f"{', '.join(sorted(unknown))}: not a field of an event; allowed are {', '.join(_ALLOWED)}")
    texts = {name: _text(name, fields[name]) for name in _TEXTS if fields.get(name) is not None}
    if not texts.get("type"):
        raise ValueError("type: is missing")
    data, content_type = _data(fields, texts.pop("datacontenttype", ""))
    return EventInput(**texts, data=data, datacontenttype=content_type, time=_time(fields.get("time")))


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name}: {value!r} is not a text")
    return value


def _data(fields: dict[str, Any], content_type: str) -> tuple[bytes | None, str]:
    data, encoded = fields.get("data"), fields.get("data_base64")
    if encoded is not None:
        if data is not None:
            raise ValueError("data and data_base64 cannot be given together")
        try:
            return base64.b64decode(_text("data_base64", encoded), validate=True), content_type
        except binascii.Error as error:
            raise ValueError(f"data_base64: is not base64: {error}") from None
    if data is None:
        return None, content_type
    is_text = isinstance(data, str) and content_type and "json" not in content_type
    return (data if is_text else json.dumps(data, ensure_ascii=False)).encode(), content_type or "application/json"


def _time(value: object) -> datetime | None:
    if value is None:
        return None
    try:
        time = datetime.fromisoformat(_text("time", value))
    except ValueError:
        raise ValueError(f"time: {value!r} is not a time; allowed are such as 2026-01-31T12:00:00Z") from None
    if time.tzinfo is None:
        raise ValueError(f"time: {value!r} has no time zone; append Z for UTC")
    return time
