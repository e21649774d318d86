"""The fields of a memory in JSON, checked one by one."""

from __future__ import annotations

import math
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from mnemocore.client.values import MemoryInput, MemoryKind, NoveltyGate, OnDuplicate, Origin, Provenance
from mnemocore.ids import is_uuid

if TYPE_CHECKING:
    from collections.abc import Callable
    from enum import StrEnum


MAX_CONTENT_BYTES: Final = 102_400
"""Bytes of UTF-8 that a memory holds; what is longer is refused here, before it takes up room."""


def memory_from_fields(fields: dict[str, Any]) -> MemoryInput:
    """The memory that `fields` describe; null is the same as leaving a field out.

    Raises ValueError that names the field, its value and what is allowed.
    """
    checked = {}
    for name, value in fields.items():
        check = FIELDS.get(name)
        if check is None:
            raise ValueError(f"unknown field {name!r}; allowed are {', '.join(FIELDS)}")
        if value is not None:
            checked[name] = check(name, value)
    if "content" not in checked:
        raise ValueError("the field 'content' is missing")
    return MemoryInput(**checked)


def parse_time(name: str, value: object) -> datetime:
    """A time of RFC 3339, with its zone. Raises ValueError."""
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise _wrong(name, value, "a time with its zone, such as '2026-01-31T12:00:00Z'")
    return time


def _content(name: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise _wrong(name, value, "a text that is not empty")
    size = len(value.encode(errors="surrogatepass"))
    if size > MAX_CONTENT_BYTES:
        raise ValueError(f"{name} has {size} bytes; allowed are at most {MAX_CONTENT_BYTES}")
    return value


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise _wrong(name, value, "a text")
    return value


def _id(name: str, value: object) -> str:
    if not isinstance(value, str) or not is_uuid(value.lower()):
        raise _wrong(name, value, "a UUID such as '0198c5f0-7d2e-7b3c-9a41-5f0e6d2c1b7a'")
    return value.lower()


def _member(cls: type[StrEnum], name: str, value: object) -> StrEnum:
    """The member that `value` names, as `fact` or as `MEMORY_KIND_FACT`."""
    known = [member for member in cls if member != "unknown"]
    prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()
    text = value.lower().removeprefix(f"{prefix}_") if isinstance(value, str) else ""
    if text not in known:
        raise _wrong(name, value, f"one of {', '.join(known)}")
    return cls(text)


def _kind(name: str, value: object) -> StrEnum:
    return _member(MemoryKind, name, value)


def _on_duplicate(name: str, value: object) -> StrEnum:
    return _member(OnDuplicate, name, value)


def _novelty_gate(name: str, value: object) -> StrEnum:
    return _member(NoveltyGate, name, value)


def _provenance(name: str, value: object) -> Provenance:
    if not isinstance(value, dict) or not value.keys() <= {"origin", "sources", "agent"}:
        raise _wrong(name, value, "an object with origin, sources and agent")
    return Provenance(
        _member(Origin, f"{name}.origin", value["origin"]) if value.get("origin") else Origin.UNKNOWN,
        _tags(f"{name}.sources", value.get("sources") or []),
        _text(f"{name}.agent", value.get("agent") or ""),
    )


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, value, "true or false")
    return value


def _metadata(name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(name, value, "an object")
    return value


def _tags(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(tag, str) and tag for tag in value):
        raise _wrong(name, value, "a list of texts that are not empty")
    return tuple(value)


def _ordinal(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise _wrong(name, value, "a whole number from 0")
    return value


def _share(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value) or not 0 <= value <= 1:
        raise _wrong(name, value, "a number from 0 to 1")
    return float(value)


def _wrong(name: str, value: object, allowed: str) -> ValueError:
    shown = repr(value)
    return ValueError(f"{name} = {shown if len(shown) <= 60 else shown[:57] + '...'}: allowed is {allowed}")


FIELDS: Final[dict[str, Callable[[str, Any], Any]]] = {
    "content": _content,
    "id": _id,
    "kind": _kind,
    "metadata": _metadata,
    "tags": _tags,
    "actor": _text,
    "session": _text,
    "ordinal": _ordinal,
    "occurred_at": parse_time,
    "importance": _share,
    "confidence": _share,
    "valid_from": parse_time,
    "valid_to": parse_time,
    "expires_at": parse_time,
    "provenance": _provenance,
    "protected": _flag,
    "on_duplicate": _on_duplicate,
    "novelty_gate": _novelty_gate,
}
"""The fields of MemoryInput that have a place in JSON, and what checks each."""
