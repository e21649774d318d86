"""Lines of text from bytes: numbers, offsets, and what is no text."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemo_cli.sources import lines
from mnemo_cli.sources.lines import read_lines
from mnemo_cli.sources.record import SourceError


@given(st.binary(max_size=200))
def test_every_byte_belongs_to_one_line(data: bytes) -> None:
    found = list(read_lines(io.BytesIO(data), "f"))

    offset = found[0].start if found else 0
    for line in found:
        assert line.start == offset
        assert data[offset:].startswith(line.raw)
        offset += line.size
    assert offset == len(data)
    assert [line.number for line in found] == list(range(1, len(found) + 1))


def test_a_byte_order_mark_and_windows_line_ends_are_left_out() -> None:
    assert [line.text for line in read_lines(io.BytesIO("\ufeffä\r\nb".encode()), "f")] == ["ä", "b"]


def test_what_is_not_utf8_is_named_with_its_offset() -> None:
    _, second = read_lines(io.BytesIO("ä\nb".encode() + b"\xff"), "f.txt")

    with pytest.raises(SourceError) as caught:
        assert second.text
    assert str(caught.value) == "f.txt:2: not UTF-8: byte 0xff at offset 4; convert the file to UTF-8"


@pytest.mark.parametrize("longer_by", [1, 2, lines.MAX_LINE_BYTES + 5])
def test_a_line_without_end_is_an_error_and_the_next_line_is_read(longer_by: int) -> None:
    data = b"x" * (lines.MAX_LINE_BYTES + longer_by) + b"\nnext"

    first, second = read_lines(io.BytesIO(data), "f")

    with pytest.raises(SourceError, match=r"f:1: line of \d+ bytes; allowed are at most 8388608"):
        assert first.text
    assert (second.number, second.text, second.start + second.size) == (2, "next", len(data))


def test_the_longest_line_is_read() -> None:
    (line,) = read_lines(io.BytesIO(b"x" * lines.MAX_LINE_BYTES + b"\r\n"), "f")

    assert len(line.text) == lines.MAX_LINE_BYTES
