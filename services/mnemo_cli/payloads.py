"""Payloads of events and tasks: from what was typed, and as they are shown."""

from __future__ import annotations

import base64
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from mnemo_cli.shown import plain, shortened

if TYPE_CHECKING:
    from mnemocore.client import Event, Task

JSON: Final = "application/json"
SHOWN: Final = 80
"""Characters of a payload in a line."""


def payload_of(argument: str | None, content_type: str) -> tuple[bytes | None, str]:
    """The bytes that `JSON`, `@FILE` or `-` (standard input) stand for, and what they are; none for None.

    JSON unless `content_type` says otherwise. Raises click.BadParameter, click.UsageError.
    """
    if argument is None:
        return None, content_type
    data = bytes_of(argument)
    if not content_type:
        try:
            json.loads(data)
        except ValueError as error:
            problem = f"is not JSON: {error}; give --content-type for anything else, such as text/plain"
            raise click.BadParameter(problem, param_hint="--data") from None
    return data, content_type or JSON


def bytes_of(argument: str) -> bytes:
    """What was typed, the content of `@FILE`, or for `-` what standard input holds."""
    if argument == "-":
        return sys.stdin.buffer.read()
    if argument.startswith("@"):
        return Path(argument[1:]).read_bytes()
    return argument.encode(errors="surrogateescape")


def document_of(event: Event) -> dict[str, Any]:
    """An event in the types of JSON, its payload as `data`, or as `data_base64` if it is neither JSON nor text."""
    shown: dict[str, Any] = {
        field.name: plain(getattr(event, field.name)) for field in dataclasses.fields(event) if field.name != "data"
    }
    return shown | payload_document("data", event.data, event.datacontenttype)


def payload_document(name: str, data: bytes, content_type: str) -> dict[str, Any]:
    """A payload under its name in the types of JSON; nothing if there is none."""
    if not data:
        return {}
    try:
        if _says_json(content_type) or not content_type:
            return {name: json.loads(data)}
        return {name: data.decode()}
    except ValueError:
        return {f"{name}_base64": base64.b64encode(data).decode()}


def task_document(task: Task) -> dict[str, Any]:
    """A task in the types of JSON."""
    shown: dict[str, Any] = {
        field.name: plain(getattr(task, field.name))
        for field in dataclasses.fields(task)
        if field.name not in ("payload", "result")
    }
    return (
        shown
        | payload_document("payload", task.payload, task.content_type)
        | payload_document("result", task.result, "")
    )


def in_a_line(data: bytes) -> str:
    """The beginning of a payload for people; how long it is if it is no text."""
    if not data:
        return ""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return f"({len(data)} bytes)"
    return shortened(text, SHOWN) if text.isprintable() or "\0" not in text else f"({len(data)} bytes)"


def _says_json(content_type: str) -> bool:
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == JSON or media_type.endswith("+json")
