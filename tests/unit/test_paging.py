"""Page sizes and page tokens."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemocore.errors import PageTokenMismatchError
from mnemocore.paging import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, decode, encode, page_size

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(("asked", "given_"), [(0, 100), (1, 1), (999, 999), (1000, 1000), (1001, 1000), (2**31, 1000)])
def test_a_page_has_a_bounded_size(asked: int, given_: int) -> None:
    assert page_size(asked) == given_
    assert (DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE) == (100, 1000)


@given(JSON, st.lists(JSON, max_size=4))
def test_a_position_comes_back(query: Any, position: list[Any]) -> None:
    assert decode(query, encode(query, position)) == position


@given(JSON, st.lists(JSON, max_size=2))
def test_a_token_is_plain_text(query: Any, position: list[Any]) -> None:
    token = encode(query, position)
    assert token.isascii()
    assert all(character.isalnum() or character in "-_" for character in token)


def test_without_a_token_a_listing_starts_at_its_beginning() -> None:
    assert decode(["memories"], "") is None


@given(JSON, JSON)
def test_a_token_belongs_to_its_query(query: Any, other: Any) -> None:
    token = encode(query, [1])
    if json.dumps(query, sort_keys=True) == json.dumps(other, sort_keys=True):
        assert decode(other, token) == [1]
    else:
        with pytest.raises(PageTokenMismatchError):
            decode(other, token)


def test_the_order_of_keys_makes_no_other_query() -> None:
    assert decode({"a": 1, "b": 2}, encode({"b": 2, "a": 1}, [7])) == [7]


@given(st.text(alphabet=st.characters(), min_size=1) | st.binary(min_size=1).map(lambda raw: text_of(raw)))
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(PageTokenMismatchError):
        decode(["query"], text)


@pytest.mark.parametrize("content", [b"", b"[", b"{}", b"[1]", b"[1,2,3]", b'["x",[1]]', b"null", b"7", b"[" * 700])
def test_what_is_no_token_inside_is_refused(content: bytes) -> None:
    with pytest.raises(PageTokenMismatchError):
        decode(["query"], text_of(content) or "=")


def text_of(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
