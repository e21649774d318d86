"""Events as CloudEvents 1.0 in the structured mode of JSON.

Attributes of this platform are extensions: `correlationid`, `causationid`, `traceparent`, `tenant`, `spaceuid`,
`revision` and `position`. The last two are numbers of 64 bits, which CloudEvents knows as texts only. Attributes
without a value are left out.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from datetime import UTC
from typing import TYPE_CHECKING, Final, NoReturn
from urllib.parse import quote

if TYPE_CHECKING:
    from mnemo_events.domain.event import Event, StoredEvent

CONTENT_TYPE: Final = "application/cloudevents+json; charset=utf-8"
_LARGE: Final = 32 * 1024
"""Bytes of payload from which on it is written in a thread, for it takes a while."""
_JSON: Final = re.compile(r"(application|text)/json|[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+\+json")
_ABSOLUTE: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+")


class CloudEvents:
    """Implements `mnemo_events.domain.webhook.Envelope`."""

    content_type = CONTENT_TYPE

    async def write(self, stored: StoredEvent) -> bytes:
        """An event as JSON in UTF-8."""
        if len(stored.event.data) < _LARGE:
            return to_cloud_event(stored)
        return await asyncio.to_thread(to_cloud_event, stored)


def to_cloud_event(stored: StoredEvent) -> bytes:
    """An event as JSON in UTF-8.

    `data` stands in it as it is, if it is JSON by its media type and its form; else it is `data_base64`. An event
    without a payload has neither.
    """
    event = stored.event
    attributes = {
        "specversion": "1.0",
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "subject": event.subject,
        "time": _time(event),
        "datacontenttype": event.datacontenttype,
        "dataschema": _uri(event.dataschema),
        "correlationid": event.correlation_id,
        "causationid": event.causation_id,
        "traceparent": event.traceparent,
        "tenant": event.tenant,
        "spaceuid": event.space_uid,
        "revision": str(event.revision or ""),
        "position": str(stored.position or ""),
    }
    written = {name: value for name, value in attributes.items() if value}
    members = json.dumps(written, ensure_ascii=False, separators=(",", ":"))[:-1]
    return f"{members}{_data(event)}}}".encode()


def _data(event: Event) -> str:
    """The member of the payload, with the comma before it."""
    if not event.data:
        return ""
    text = _json_text(event)
    if text is not None:
        return f',"data":{text}'
    return f',"data_base64":"{base64.b64encode(event.data).decode()}"'


def _json_text(event: Event) -> str | None:
    """The payload as JSON text; None if it is none."""
    media_type = event.datacontenttype.partition(";")[0].strip().lower()
    if not _JSON.fullmatch(media_type):
        return None
    try:
        text = event.data.decode()
        json.loads(text, parse_constant=_refuse, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return None
    return text


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _time(event: Event) -> str:
    """The time as RFC 3339 writes it, in UTC."""
    return event.time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _uri(schema: str) -> str:
    """The schema as a URI: as it is, or its name as a URN."""
    return schema if not schema or _ABSOLUTE.fullmatch(schema) else f"urn:mnemocore:schema:{quote(schema, safe='/.:')}"
