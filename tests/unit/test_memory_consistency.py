"""Consistency tokens: only the store that issued one, for the space it was issued for, believes it."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemo_memory.domain.consistency import decode_token, encode_token
from mnemocore.errors import ForeignTokenError
from mnemocore.ids import SpaceUid

STORE = "00000000-0000-4000-8000-000000000001"
SPACE = SpaceUid("018f0000-0000-7000-8000-00000000000a")
UUIDS = st.uuids().map(str)
REVISIONS = st.integers(0, 2**63 - 1)
TOKEN = encode_token(STORE, SPACE, 123_456)


@given(UUIDS, UUIDS, REVISIONS)
def test_a_token_comes_back(store: str, space: str, revision: int) -> None:
    token = encode_token(store, SpaceUid(space), revision)
    assert decode_token(token, store, SpaceUid(space)) == revision
    assert token.isascii()
    assert len(token) <= 64


@given(REVISIONS, UUIDS.filter(lambda other: other not in (STORE, SPACE)))
def test_another_store_or_space_refuses_it(revision: int, other: str) -> None:
    token = encode_token(STORE, SPACE, revision)
    for store, space in ((other, SPACE), (STORE, other), (SPACE, STORE)):
        with pytest.raises(ForeignTokenError):
            decode_token(token, store, SpaceUid(space))


@given(REVISIONS, st.integers(0, 44 * 8 - 1))
def test_any_flipped_bit_is_noticed(revision: int, bit: int) -> None:
    raw = bytearray(base64.urlsafe_b64decode(encode_token(STORE, SPACE, revision)))
    raw[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(ForeignTokenError):
        decode_token(base64.urlsafe_b64encode(raw).decode(), STORE, SPACE)


def test_any_flipped_bit_of_the_text_is_noticed() -> None:
    for place in range(len(TOKEN)):
        for bit in range(8):
            damaged = TOKEN[:place] + chr(ord(TOKEN[place]) ^ 1 << bit) + TOKEN[place + 1 :]
            with pytest.raises(ForeignTokenError):
                decode_token(damaged, STORE, SPACE)


@given(st.text(alphabet=st.characters()) | st.binary().map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(ForeignTokenError):
        decode_token(text, STORE, SPACE)


@pytest.mark.parametrize(
    "damaged", [TOKEN[:-4], TOKEN + "AAAA", TOKEN[4:], f" {TOKEN}", f"{TOKEN}\n", TOKEN.rstrip("=")]
)
def test_a_token_is_whole_or_nothing(damaged: str) -> None:
    with pytest.raises(ForeignTokenError):
        decode_token(damaged, STORE, SPACE)
