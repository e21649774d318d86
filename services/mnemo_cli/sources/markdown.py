"""Markdown: one memory for each section, its headings and the text below them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from mnemo_cli.sources.passages import MAX_CHARACTERS, MAX_GATHERED, Passage
from mnemo_cli.sources.record import Place
from mnemocore.client.values import MemoryInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mnemo_cli.sources.lines import Line
    from mnemo_cli.sources.record import Item

SEPARATOR: Final = " > "
"""Stands between the headings that lead to a section."""

MAX_HEADING: Final = 300
"""Characters of a heading at most; a longer one is text."""

_ATX: Final = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*))?")
_ATX_END: Final = re.compile(r"(?:^|[ \t]+)#+[ \t]*$")
_SETEXT: Final = re.compile(r" {0,3}(=+|-+)[ \t]*")
_NOT_A_TITLE: Final = re.compile(r" {4}|\t| {0,3}(?:[>|]|[-*+][ \t]|\d{1,9}[.)][ \t])")
"""Beginnings of lines that an underline does not make a heading: code, quotes, tables and lists."""
_FENCE: Final = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})(.*)")
_FRONT_MATTER_KEY: Final = re.compile(r"[A-Za-z_][\w-]*[ \t]*:")

_TEXT: Final = 0
_BLANK: Final = -1


@dataclass(frozen=True, slots=True)
class _Element:
    """A line and what it is: a heading of `level` 1 to 6, text, or a blank line between blocks."""

    level: int
    line: Line
    text: str


@dataclass(slots=True)
class Section:
    """Text under one path of headings, the outermost first; a long section comes in several parts.

    `line` is that of the heading, `end` the bytes read by its end. Without text it is a heading that stands alone.
    """

    headings: tuple[str, ...] = ()
    line: int = 1
    end: int = 0
    passage: Passage = field(default_factory=Passage)

    def pieces(self) -> Iterator[tuple[int, str]]:
        """The text in pieces, each with the number of its first line; one empty piece if there is no text."""
        if self.passage:
            yield from self.passage.pieces()
        else:
            yield self.line, ""


def read(lines: Iterable[Line], source: str) -> Iterator[Item]:
    """The sections of a document, in order; a long one in several passages.

    A memory's content is the path of headings, an empty line, and the text. Its metadata are `source`, `heading` (the
    innermost) and `line`; its session is the source, so that neighbours help each other in recall. Raises SourceError
    if a line is not text.
    """
    ordinal = 0
    for section in sections(lines):
        path = SEPARATOR.join(section.headings)
        heading = section.headings[-1] if section.headings else ""
        for line, text in section.pieces():
            memory = MemoryInput(
                content="\n\n".join(filter(None, (path, text))),
                metadata={"source": source, "heading": heading, "line": line},
                session=source,
                ordinal=ordinal,
            )
            yield Place(source, line, max(section.end, section.passage.end)), memory
            ordinal += 1


def sections(lines: Iterable[Line]) -> Iterator[Section]:
    """The sections in order. Every word of the document is in the text or in the headings of at least one.

    The blocks of a section (paragraphs, lists, blocks of code) stay whole where they fit into MAX_CHARACTERS.
    """
    gatherer = _Gatherer()
    for element in _elements(lines):
        if element.level == _TEXT:
            yield from gatherer.add_text(element)
        elif element.level == _BLANK:
            yield from gatherer.end_block()
        else:
            yield from gatherer.begin_section(element)
    yield from gatherer.end_section(next_level=0)


class _Gatherer:
    """Puts lines into blocks and blocks into sections, and hands on what is complete."""

    def __init__(self) -> None:
        self._outline: list[tuple[int, str]] = []  # levels and texts of the headings that lead here
        self._section = Section()
        self._block = Passage()
        self._heading_unseen = False  # whether nothing that was handed on names the newest heading

    def add_text(self, element: _Element) -> Iterator[Section]:
        """Take a line of a block."""
        self._block.add(element.line, element.text)
        if self._block.characters > MAX_GATHERED:
            yield from self.end_block()

    def end_block(self) -> Iterator[Section]:
        """Put the block into the section, or into a new part of it if this one would be too long."""
        if not self._block:
            return
        passage = self._section.passage
        if passage and passage.characters + passage.gap(self._block) + self._block.characters > MAX_CHARACTERS:
            yield self._hand_on()
        self._section.passage.extend(self._block)
        self._block = Passage()

    def begin_section(self, heading: _Element) -> Iterator[Section]:
        """End the section before, and begin one below `heading`."""
        yield from self.end_section(next_level=heading.level)
        while self._outline and self._outline[-1][0] >= heading.level:
            self._outline.pop()
        self._outline.append((heading.level, heading.text))
        self._section = self._new_part(heading.line.number, heading.line.place.end)
        self._heading_unseen = True

    def end_section(self, *, next_level: int) -> Iterator[Section]:
        """Hand on what is left of the section; a heading without text only if none of a deeper level follows it."""
        yield from self.end_block()
        stands_alone = self._heading_unseen and next_level <= self._outline[-1][0] and any(self._section.headings)
        if self._section.passage or stands_alone:
            yield self._hand_on()

    def _hand_on(self) -> Section:
        done = self._section
        self._section = self._new_part(done.line, done.end)
        self._heading_unseen = False
        return done

    def _new_part(self, line: int, end: int) -> Section:
        return Section(tuple(text for _, text in self._outline if text), line, end)


def _elements(lines: Iterable[Line]) -> Iterator[_Element]:
    """The lines and what they are. A heading and its underline are one element; in code nothing is a heading."""
    title: _Element | None = None  # the only line of a paragraph so far: a heading if an underline follows
    in_paragraph = False
    for line, text, literal in _with_literals(lines):
        underline = _SETEXT.fullmatch(text)
        if title is not None:
            if underline and not literal:
                yield _Element(1 if underline[1][0] == "=" else 2, title.line, title.text.strip())
                title, in_paragraph = None, False
                continue
            yield title
            title = None
        element = _Element(_TEXT, line, text) if literal else _classified(line, text)
        if element.level == _TEXT and not literal and not in_paragraph and _can_be_title(text):
            title = element
        else:
            yield element
        in_paragraph = element.level == _TEXT and not literal
    if title is not None:
        yield title


def _classified(line: Line, text: str) -> _Element:
    if not text.strip():
        return _Element(_BLANK, line, "")
    match = _ATX.fullmatch(text)
    if match is None:
        return _Element(_TEXT, line, text)
    title = _ATX_END.sub("", match[2] or "").strip()
    return _Element(len(match[1]), line, title) if len(title) <= MAX_HEADING else _Element(_TEXT, line, text)


def _can_be_title(text: str) -> bool:
    return len(text.strip()) <= MAX_HEADING and not _NOT_A_TITLE.match(text) and not _SETEXT.fullmatch(text)


def _with_literals(lines: Iterable[Line]) -> Iterator[tuple[Line, str, bool]]:
    """Each line, its text, and whether it belongs to fenced code or to front matter, where marks mean nothing."""
    fence = ""
    in_front_matter = False
    opened_by_rule = False  # whether the first line could begin front matter
    for line in lines:
        text = line.text
        if in_front_matter:
            in_front_matter = text.rstrip() not in ("---", "...")
            yield line, text, True
            continue
        in_front_matter = opened_by_rule and _FRONT_MATTER_KEY.match(text) is not None
        opened_by_rule = line.number == 1 and text.rstrip() == "---"
        mark = _FENCE.fullmatch(text)
        literal = bool(fence) or mark is not None or in_front_matter or opened_by_rule
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1].startswith(fence) and not mark[2].strip():
            fence = ""
        yield line, text, literal
