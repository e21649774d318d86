"""JSONL: one memory for each line, with the fields of MemoryInput."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mnemo_cli.sources.fields import memory_from_fields
from mnemo_cli.sources.record import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mnemo_cli.sources.lines import Line
    from mnemo_cli.sources.record import Record


def read(lines: Iterable[Line]) -> Iterator[Record]:
    """The memory of each line that is not empty, or what is wrong with the line; one says nothing of the others."""
    for line in lines:
        if not line.raw.strip():
            continue
        try:
            yield line.place, memory_from_fields(parse_object(line.text))
        except SourceError as error:
            yield line.place, error
        except ValueError as error:
            yield line.place, SourceError(line.place, str(error))


def parse_object(text: str) -> dict[str, Any]:
    """The JSON object that `text` is. Raises ValueError."""
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON: {error.msg} at column {error.colno}") from None
    except (RecursionError, ValueError) as error:
        raise ValueError(f"not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"not a JSON object but {_KINDS.get(type(value), 'null')}")
    return value


_KINDS = {list: "a list", str: "a text", int: "a number", float: "a number", bool: "true or false"}


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")
