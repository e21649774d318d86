"""Markdown in sections."""

from __future__ import annotations

import io
import re
from itertools import takewhile
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemo_cli.sources import markdown
from mnemo_cli.sources.lines import read_lines
from mnemo_cli.sources.passages import MAX_CHARACTERS
from mnemo_cli.sources.record import SourceError

if TYPE_CHECKING:
    from mnemocore.client import MemoryInput


def read(content: str) -> list[MemoryInput]:
    lines = read_lines(io.BytesIO(content.encode()), "page.md")
    return [memory for _, memory in markdown.read(lines, "page.md")]


def contents(content: str) -> list[str]:
    return [memory.content for memory in read(dedent(content))]


def test_a_section_is_a_memory_with_its_headings_and_its_text() -> None:
    document = dedent("""\
        Before.

        # Title
        Intro.

        ## First ##
        One.

        Two.

        ### Deeper
        Three.

        ## Second
        Four.
        """)

    found = read(document)

    assert [memory.content for memory in found] == [
        "Before.",
        "Title\n\nIntro.",
        "Title > First\n\nOne.\n\nTwo.",
        "Title > First > Deeper\n\nThree.",
        "Title > Second\n\nFour.",
    ]
    assert [memory.metadata["heading"] for memory in found] == ["", "Title", "First", "Deeper", "Second"]
    assert [memory.metadata["line"] for memory in found] == [1, 4, 7, 12, 15]
    assert [memory.ordinal for memory in found] == [0, 1, 2, 3, 4]
    assert {memory.session for memory in found} == {"page.md"}
    assert found[1].metadata["source"] == "page.md"


def test_a_heading_without_text_stands_alone_only_if_nothing_is_below_it() -> None:
    assert contents("# A\n## B\ntext\n## C\n# D\n") == ["A > B\n\ntext", "A > C", "D"]


def test_a_heading_may_be_underlined() -> None:
    document = "Title\n=====\nOne\n\nSub title\n---\nTwo\n\ntwo lines\nare no title\n---\nThree\n"

    assert contents(document) == [
        "Title\n\nOne",
        "Title > Sub title\n\nTwo\n\ntwo lines\nare no title\n---\nThree",
    ]


@pytest.mark.parametrize("line", ["- item", "1. item", "> quote", "| cell", "    code", "---"])
def test_a_rule_below_other_things_is_no_underline(line: str) -> None:
    assert contents(f"text\n\n{line}\n---\nmore") == [f"text\n\n{line}\n---\nmore"]


def test_nothing_in_code_is_a_heading() -> None:
    code = "```sh\n# comment\n\n~~~\n``` not the end\n# more\n```"

    assert contents(f"# A\n{code}\n# B\n\n~~~~\n~~~\n# c\n~~~~~\nend") == [
        f"A\n\n{code}",
        "B\n\n~~~~\n~~~\n# c\n~~~~~\nend",
    ]


def test_code_without_end_reaches_to_the_end() -> None:
    assert contents("# A\n```\n# b") == ["A\n\n```\n# b"]


def test_front_matter_is_text_and_not_a_heading() -> None:
    front_matter = "---\ntitle: x\n\ntags: [a]\n---"

    assert contents(f"{front_matter}\n# A\ntext") == [front_matter, "A\n\ntext"]
    assert contents("---\nno key\n\n# A") == ["---\nno key", "A"]


@pytest.mark.parametrize("line", ["#no", "####### seven", "    # code", "\\# escaped", "#" * 6 + "x"])
def test_what_only_looks_like_a_heading_is_text(line: str) -> None:
    assert contents(f"text\n\n{line}") == [f"text\n\n{line}"]


def test_a_heading_without_end_is_text() -> None:
    found = read("# " + "word " * 1000)

    assert len(found) > 1
    assert all(memory.metadata["heading"] == "" for memory in found)


def test_a_long_section_is_split_between_its_blocks() -> None:
    blocks = [f"block {number} " + "word " * 100 for number in range(10)]

    found = read("# A\n\n" + "\n\n".join(blocks))

    assert len(found) == 4
    assert all(memory.content.startswith("A\n\nblock") for memory in found)
    assert all(len(memory.content) <= MAX_CHARACTERS + len("A\n\n") for memory in found)


LINES = st.sampled_from(
    [
        *("# One", "## Two ##", "###### six", "#", "word", "other words", "- item", "| cell", "    x", "a: b"),
        *("---", "===", "", " ", "```", "~~~", "``` py", "long " * 300, "endless" * 300),
    ]
)
NUMBERED = st.lists(LINES, max_size=40).map(
    lambda lines: [re.sub(r"(\w+)(\W*)$", rf"\g<1>{number}\2", line, count=1) for number, line in enumerate(lines)]
)
"""Lines whose last words differ, so that no two headings are the same."""


def letters(text: str) -> str:
    return re.sub(r"[\W_]", "", text)


def shared(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """How many headings two paths share from the outermost on."""
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))))


@given(NUMBERED)
def test_splitting_loses_no_text_and_keeps_its_order(document: list[str]) -> None:
    lines = read_lines(io.BytesIO("\n".join(document).encode()), "page.md")
    told: list[str] = []
    path: tuple[str, ...] = ()
    for section in markdown.sections(lines):
        known = shared(path, section.headings)
        path = section.headings
        told += [*path[known:], *(text for _, text in section.pieces())]

    assert letters("".join(told)) == letters("".join(document))


@given(NUMBERED)
def test_the_line_of_a_memory_is_where_its_text_begins(document: list[str]) -> None:
    lines = read_lines(io.BytesIO("\n".join(document).encode()), "page.md")

    for section in markdown.sections(lines):
        for number, text in section.pieces():
            assert text.split("\n")[0].strip() in document[number - 1]


@given(st.lists(LINES, max_size=40))
def test_no_memory_is_empty_or_long(lines: list[str]) -> None:
    for memory in read("\n".join(lines)):
        assert memory.content.strip()
        assert len(memory.content) <= MAX_CHARACTERS + 6 * (markdown.MAX_HEADING + len(markdown.SEPARATOR))


@given(st.lists(LINES, max_size=40))
def test_the_order_is_that_of_the_document(lines: list[str]) -> None:
    found = read("\n".join(lines))

    numbers = [memory.metadata["line"] for memory in found]
    assert numbers == sorted(numbers, key=lambda number: number if isinstance(number, int) else 0)
    assert [memory.ordinal for memory in found] == list(range(len(found)))


def test_what_is_no_text_is_an_error() -> None:
    with pytest.raises(SourceError, match=r"page\.md:2: not UTF-8: byte 0x80 at offset 4"):
        list(markdown.read(read_lines(io.BytesIO(b"# A\n\x80"), "page.md"), "page.md"))
