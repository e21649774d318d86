"""Plain text: one memory for each paragraph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnemo_cli.sources.passages import MAX_GATHERED, Passage
from mnemo_cli.sources.record import Place
from mnemocore.client.values import MemoryInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mnemo_cli.sources.lines import Line
    from mnemo_cli.sources.record import Item


def read(lines: Iterable[Line], source: str) -> Iterator[Item]:
    """The paragraphs between empty lines, in order; a long one in several passages.

    The metadata are `source` and `line`; the session is the source, so that neighbours help each other in recall.
    Raises SourceError if a line is not text.
    """
    ordinal = 0
    for paragraph in _paragraphs(lines):
        for line, text in paragraph.pieces():
            memory = MemoryInput(
                content=text, metadata={"source": source, "line": line}, session=source, ordinal=ordinal
            )
            yield Place(source, line, paragraph.end), memory
            ordinal += 1


def _paragraphs(lines: Iterable[Line]) -> Iterator[Passage]:
    paragraph = Passage()
    for line in lines:
        text = line.text
        if text.strip():
            paragraph.add(line, text)
        if paragraph and (not text.strip() or paragraph.characters > MAX_GATHERED):
            yield paragraph
            paragraph = Passage()
    if paragraph:
        yield paragraph
