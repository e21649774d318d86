"""Which files an ingest reads, what they are called, and how each is read."""

from __future__ import annotations

import itertools
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from mnemo_cli.sources import chat, jsonl, markdown, text
from mnemo_cli.sources.lines import read_lines
from mnemo_cli.sources.record import Place, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

    from mnemo_cli.sources.lines import Line
    from mnemo_cli.sources.record import Record

STDIN: Final = "-"
STDIN_NAME: Final = "stdin"
FORMATS: Final = ("auto", "jsonl", "markdown", "text", "chat")

_BY_ENDING: Final = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".md": "markdown",
    ".markdown": "markdown",
    ".txt": "text",
    ".json": "chat",
}
_WALKED: Final = (".md", ".txt", ".jsonl")
"""Endings of the files that are read when a directory is given."""


@dataclass(frozen=True, slots=True)
class File:
    """One file to read: its path (None: standard input), its name in messages and metadata, format, and bytes."""

    path: Path | None
    name: str
    format: str
    size: int | None

    def records(self) -> Iterator[Record]:
        """What the file holds, in order. What makes the rest unreadable is the last record."""
        place = Place(self.name, 0)
        try:
            with _open_stdin() if self.path is None else self.path.open("rb") as stream:
                yield from self._read(stream)
        except SourceError as error:
            yield error.place, error
        except OSError as error:
            yield place, SourceError(place, f"cannot be read: {error.strerror}")

    def _read(self, stream: BinaryIO) -> Iterator[Record]:
        if self.format == "chat" and self.name.lower().endswith(".json"):
            return chat.read_document(stream, self.name)
        lines = read_lines(stream, self.name)
        if self.format == "markdown":
            return markdown.read(lines, self.name)
        if self.format == "text":
            return text.read(lines, self.name)
        if self.format == "chat":
            return chat.read_lines_of_chat(lines, self.name)
        return _read_jsonl(lines, self.name)


def find(arguments: Iterable[str], format_name: str) -> list[File]:
    """The files that `arguments` name: files, directories (all files in them of the endings in _WALKED), or `-`.

    Raises click.UsageError if one does not exist, a directory holds nothing to read, or the ending of a file says
    nothing and no format is given.
    """
    found: dict[str, File] = {}
    for argument in arguments:
        for file in _files_of(argument, format_name):
            found.setdefault(file.name, file)
    return list(found.values())


def _files_of(argument: str, format_name: str) -> list[File]:
    if argument == STDIN:
        return [File(None, STDIN_NAME, "jsonl" if format_name == "auto" else format_name, None)]
    path = Path(argument)
    if not path.exists():
        raise click.UsageError(f"{argument} does not exist")
    if not path.is_dir():
        return [_file(path, format_name)]
    files = [_file(inner, format_name) for inner in _walk(path)]
    if not files:
        raise click.UsageError(f"directory {argument} holds no {', '.join('*' + ending for ending in _WALKED)}")
    return files


def _walk(directory: Path) -> Iterator[Path]:
    """The files to read, by name; hidden ones are left out."""
    for folder, folders, names in os.walk(directory):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(_WALKED) and not name.startswith("."):
                yield Path(folder, name)


def _file(path: Path, format_name: str) -> File:
    chosen = _BY_ENDING.get(path.suffix.lower()) if format_name == "auto" else format_name
    if chosen is None:
        raise click.UsageError(
            f"{path}: the ending {path.suffix!r} says nothing of the format; give --format {'|'.join(FORMATS[1:])}"
        )
    status = path.stat()
    return File(path, _name(path), chosen, status.st_size if stat.S_ISREG(status.st_mode) else None)


def _name(path: Path) -> str:
    """The path below the working directory, or the whole path: the same however it was typed."""
    whole = Path(os.path.abspath(path))  # noqa: PTH100 - links stay as they are named
    working = Path.cwd()
    name = whole.relative_to(working) if whole.is_relative_to(working) else whole
    return os.fsencode(name.as_posix()).decode(errors="replace")


def _open_stdin() -> BinaryIO:
    """Standard input with a buffer of its own: Python cannot end while a thread waits in the one of `sys.stdin`."""
    return open(sys.stdin.fileno(), "rb", closefd=False)


def _read_jsonl(lines: Iterator[Line], name: str) -> Iterator[Record]:
    """JSONL with the fields of MemoryInput, unless its first line is a message of a chat."""
    first = next((line for line in lines if line.raw.strip()), None)
    if first is None:
        return iter(())
    everything = itertools.chain([first], lines)
    try:
        is_chat = chat.looks_like_chat(jsonl.parse_object(first.text))
    except (SourceError, ValueError):
        is_chat = False
    return chat.read_lines_of_chat(everything, name) if is_chat else jsonl.read(everything)
