"""The elements of a JSON list, one after another, however long the list is."""

from __future__ import annotations

import codecs
import json
from typing import TYPE_CHECKING, Any, Final

from mnemo_cli.sources.jsonl import parse_object
from mnemo_cli.sources.lines import not_utf8
from mnemo_cli.sources.record import Place, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

MAX_ELEMENT: Final = 64 * 1024 * 1024
"""Characters of one element at most; it is held in memory as a whole."""

_CHUNK: Final = 256 * 1024
_BLANK: Final = " \t\r\n"


def read_elements(file: BinaryIO, source: str) -> Iterator[tuple[Place, dict[str, Any]]]:
    """The objects of a JSON document: those in its list, or the document itself if it is an object.

    Raises SourceError where the document is broken; the elements before are good.
    """
    window = _Window(file, source)
    first = window.peek()
    if first != "[":
        yield window.take_object()
        return
    window.skip(1)
    if window.peek() == "]":
        return
    while True:
        yield window.take_object()
        separator = window.peek()
        window.skip(1)
        if separator == "]":
            return
        if separator != ",":
            raise window.error("the list is cut off" if not separator else f"',' or ']' expected, found {separator!r}")


class _Window:
    """The part of a document between what was taken and what was read."""

    def __init__(self, file: BinaryIO, source: str) -> None:
        self._file = file
        self._source = source
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._decode_json = json.JSONDecoder().raw_decode
        self._text = ""
        self._position = 0
        self._line = 1
        self._bytes = 0
        self._ended = False

    def peek(self) -> str:
        """The next character that is not blank, not taken yet; empty at the end."""
        while True:
            while self._position < len(self._text):
                if self._text[self._position] not in _BLANK:
                    return self._text[self._position]
                self.skip(1)
            if not self._read(_CHUNK):
                return ""

    def skip(self, characters: int) -> None:
        """Take what is known already."""
        end = self._position + characters
        self._line += self._text.count("\n", self._position, end)
        self._position = end

    def take_object(self) -> tuple[Place, dict[str, Any]]:
        """Take the next object."""
        found = self.peek()
        if found != "{":
            raise self.error(
                f"a JSON object expected, found {found!r}" if found else "a JSON object expected, not the end"
            )
        line = self._line
        while True:
            try:
                _, end = self._decode_json(self._text, self._position)
            except ValueError as error:
                broken = self._broken(error)
                if len(self._text) - self._position > MAX_ELEMENT:
                    raise self.error(f"an object of more than {MAX_ELEMENT} characters") from None
                if not self._read(max(_CHUNK, len(self._text) - self._position)):
                    raise broken from None
            else:
                break
        value = self._parsed(self._text[self._position : end])
        self.skip(end - self._position)
        return Place(self._source, line, self._bytes), value

    def error(self, problem: str) -> SourceError:
        """What is wrong at this place."""
        return SourceError(Place(self._source, self._line, self._bytes), problem)

    def _parsed(self, text: str) -> dict[str, Any]:
        return parse_object(text)

    def _broken(self, error: ValueError) -> SourceError:
        if isinstance(error, json.JSONDecodeError):
            line = self._line + error.lineno - 1 - self._text.count("\n", 0, self._position)
            place = Place(self._source, line, self._bytes)
            return SourceError(place, f"not valid JSON: {error.msg} at column {error.colno}")
        return self.error(f"not valid JSON: {error}")

    def _read(self, size: int) -> bool:
        """Read on; False at the end of the file."""
        if self._ended:
            return False
        data = self._file.read(size)
        self._ended = not data
        try:
            more = self._decoder.decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            offset = self._bytes + error.start
            raise not_utf8(Place(self._source, 0), error.object[error.start], offset) from None
        self._bytes += len(data)
        self._text = self._text[self._position :] + more
        self._position = 0
        return not self._ended
