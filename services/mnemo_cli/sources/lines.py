"""Lines of UTF-8 text from a stream of bytes, in constant memory."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mnemo_cli.sources.record import Place, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

MAX_LINE_BYTES: Final = 8 * 1024 * 1024
"""A longer line is an error: whatever it is, it is no line of text."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line: its number from 1, the offset of its first byte, its bytes without the line break, its whole size."""

    source: str
    number: int
    start: int
    raw: bytes
    size: int

    @property
    def place(self) -> Place:
        """Where it is; the end is that of the line."""
        return Place(self.source, self.number, self.start + self.size)

    @property
    def text(self) -> str:
        """The line as text. Raises SourceError if it is too long, or not UTF-8, with the offset in the source."""
        if len(self.raw) > MAX_LINE_BYTES:
            raise SourceError(self.place, f"line of {self.size} bytes; allowed are at most {MAX_LINE_BYTES}")
        try:
            return self.raw.decode()
        except UnicodeDecodeError as error:
            raise not_utf8(self.place, self.raw[error.start], self.start + error.start) from None


def read_lines(file: BinaryIO, source: str) -> Iterator[Line]:
    """The lines of `file`, which `source` names in messages. A byte order mark at the beginning is left out."""
    number, offset = 0, 0
    while raw := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        size = len(raw) + _skip_rest(file, raw)
        mark = len(codecs.BOM_UTF8) if offset == 0 and raw.startswith(codecs.BOM_UTF8) else 0
        yield Line(source, number, offset + mark, raw[mark:].removesuffix(b"\n").removesuffix(b"\r"), size - mark)
        offset += size


def _skip_rest(file: BinaryIO, beginning: bytes) -> int:
    """Read on to the end of a line that is too long; how many bytes that were."""
    skipped, piece = 0, beginning
    while len(piece) > MAX_LINE_BYTES and not piece.endswith(b"\n"):
        piece = file.readline(MAX_LINE_BYTES + 1)
        skipped += len(piece)
    return skipped


def not_utf8(place: Place, byte: int, offset: int) -> SourceError:
    """The error of a byte that is no UTF-8, at an offset of the source."""
    return SourceError(place, f"not UTF-8: byte 0x{byte:02x} at offset {offset}; convert the file to UTF-8")
