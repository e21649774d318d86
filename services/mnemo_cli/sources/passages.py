"""Long texts in passages: cut where a reader would pause, losing nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mnemo_cli.sources.lines import Line

MAX_CHARACTERS: Final = 2000
"""Characters of a passage at most: more than a page says too many things for one vector to tell them all."""

MAX_GATHERED: Final = 16 * MAX_CHARACTERS
"""Characters after which a paragraph without end is handed on as it is, so that memory stays bounded."""

_PAUSES: Final = tuple(re.compile(pattern) for pattern in (r"\n\s*\n", r"\n", r"[.!?。]['\")\]]*\s", r"\s"))
"""Ends of paragraphs, lines, sentences and words, the best pause first."""


def cut(text: str, limit: int = MAX_CHARACTERS) -> Iterator[str]:
    """Pieces of at most `limit` characters that together are `text`.

    A piece ends with the best pause in its second half; where there is none, in the middle of a word.
    """
    start = 0
    while len(text) - start > limit:
        end = _last_pause(text, start + limit // 2, start + limit)
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def _last_pause(text: str, low: int, high: int) -> int:
    """The end of the last of the best pauses between `low` and `high`; `high` if there is none."""
    for pause in _PAUSES:
        ends = [match.end() for match in pause.finditer(text, low, high)]
        if ends:
            return ends[-1]
    return high


@dataclass(slots=True)
class Passage:
    """Consecutive lines of a source: the number of the first, and the bytes read by the end of the last."""

    line: int = 0
    end: int = 0
    texts: list[str] = field(default_factory=list)
    characters: int = 0

    def __bool__(self) -> bool:
        return bool(self.texts)

    def add(self, line: Line, text: str) -> None:
        """Append the next line."""
        if not self.texts:
            self.line = line.number
        self.texts.append(text)
        self.characters += len(text) + 1
        self.end = line.place.end

    def gap(self, other: Passage) -> int:
        """Number of lines between this and a later passage."""
        return other.line - self.line - len(self.texts)

    def extend(self, other: Passage) -> None:
        """Append a later passage, with empty lines for those in between."""
        if not self.texts:
            self.line = other.line
        gap = self.gap(other)
        self.texts += [""] * gap + other.texts
        self.characters += gap + other.characters
        self.end = other.end

    def pieces(self) -> Iterator[tuple[int, str]]:
        """The text in pieces of at most MAX_CHARACTERS, each with the number of its first line. None is blank."""
        line = self.line
        for piece in cut("\n".join(self.texts)):
            if text := piece.strip():
                yield line + piece[: piece.index(text)].count("\n"), text
            line += piece.count("\n")
