"""Plain text in paragraphs, and long texts in passages."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from mnemo_cli.sources import text
from mnemo_cli.sources.lines import read_lines
from mnemo_cli.sources.passages import MAX_CHARACTERS, cut

if TYPE_CHECKING:
    from mnemocore.client import MemoryInput

WORDS = st.lists(
    st.sampled_from(["fish", "tree", "end.", "\n", "\n\n", " ", "Where?", "ä" * 30, "語" * 400]), max_size=80
)


def read(content: str) -> list[tuple[int, MemoryInput]]:
    lines = read_lines(io.BytesIO(content.encode()), "diary.txt")
    return [(place.line, memory) for place, memory in text.read(lines, "diary.txt")]


def test_a_paragraph_is_a_memory() -> None:
    (first_line, first), (second_line, second) = read("One\ntwo.\n\n \n\nThree.\n")

    assert (first_line, first.content, first.ordinal) == (1, "One\ntwo.", 0)
    assert (second_line, second.content, second.ordinal) == (6, "Three.", 1)
    assert second.session == "diary.txt"
    assert second.metadata == {"source": "diary.txt", "line": 6}


def test_nothing_is_no_memory() -> None:
    assert read("") == read("\n \n\t\n") == []


@given(WORDS)
def test_splitting_loses_no_text_and_makes_nothing_long_or_empty(words: list[str]) -> None:
    content = "".join(words)

    found = [memory.content for _, memory in read(content)]

    assert "".join("".join(found).split()) == "".join(content.split())
    assert all(0 < len(piece) <= MAX_CHARACTERS for piece in found)


@given(WORDS)
def test_the_line_of_a_piece_is_where_it_begins(words: list[str]) -> None:
    content = "".join(words)

    for number, memory in read(content):
        assert memory.content.split("\n")[0].strip() in content.split("\n")[number - 1]


@given(st.text(max_size=300), st.integers(min_value=2, max_value=60))
def test_pieces_together_are_the_text(content: str, limit: int) -> None:
    pieces = list(cut(content, limit))

    assert "".join(pieces) == content
    assert all(0 < len(piece) <= limit for piece in pieces)


def test_a_long_text_is_cut_at_the_best_pause() -> None:
    assert list(cut("aaaa bbbb. cccc dddd", 16)) == ["aaaa bbbb. ", "cccc dddd"]
    assert list(cut("aaaa bbbb\n\ncccc\ndd", 17)) == ["aaaa bbbb\n\n", "cccc\ndd"]
    assert list(cut("aaaaaaaaaaaa", 5)) == ["aaaaa", "aaaaa", "aa"]


def test_a_paragraph_without_end_is_read_in_bounded_memory() -> None:
    lines = read_lines(io.BytesIO(b"word word word\n" * 100_000), "big.txt")

    first = next(iter(text.read(lines, "big.txt")))

    assert first[0].end < 100_000
