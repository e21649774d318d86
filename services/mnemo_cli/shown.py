"""How values look on a terminal and as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterable


def print_json(value: object) -> None:
    """Print one JSON document: dataclasses as objects, times as RFC 3339, spans as seconds such as `90s`."""
    text = json.dumps(plain(value), ensure_ascii=False, indent=2)
    click.echo(text.encode("utf-8", "replace"))


def print_json_line(value: object) -> None:
    """Print one JSON document in one line."""
    click.echo(json.dumps(plain(value), ensure_ascii=False).encode("utf-8", "replace"))


def plain(value: object) -> object:
    """`value` in the types of JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, (str, Path, date)):
        return str(value)
    if isinstance(value, timedelta):
        return f"{value.total_seconds():.6f}".rstrip("0").rstrip(".") + "s"
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    return value


def print_columns(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table: each column as wide as its widest cell, the last one as it comes."""
    table = [headers, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(headers) - 1)]
    for row in table:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        click.echo("  ".join([*cells, row[-1]]).rstrip())


def printable(text: str) -> str:
    """`text` without the characters that steer a terminal; line breaks and tabs stay."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)


def moment(time: datetime | None) -> str:
    """`2026-01-31 12:00:05Z`, or `-` for none."""
    return "-" if time is None else f"{time.astimezone(UTC).replace(tzinfo=None).isoformat(' ', 'seconds')}Z"


def shortened(text: str, length: int) -> str:
    """`text` in one line of at most `length` characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 4].rstrip()} ..."


def print_facts(facts: Mapping[str, str]) -> None:
    """Print a line for each fact that is not empty."""
    for label, value in facts.items():
        if value:
            click.echo(f"{label}: {printable(value)}")
