"""Sealing, blinding, and where master keys come from."""

from __future__ import annotations

import base64
import logging
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemocore.errors import InternalError, InvalidSettingError, KeyUnavailableError
from mnemocore.ids import SpaceUid
from mnemocore.master_keys import MasterKeyFile, from_environment, parse, source
from mnemocore.sealing import KEY_BYTES, DataKey, MasterKey, MasterKeys, Purpose, SpaceCipher, key_id_of, new_key_id

if TYPE_CHECKING:
    from pathlib import Path

SPACE = SpaceUid("01890000-0000-7000-8000-000000000001")
OTHER = SpaceUid("01890000-0000-7000-8000-000000000002")


def a_key(number: int) -> DataKey:
    return DataKey(f"00000000-0000-4000-8000-{number:012d}", bytes([number]) * KEY_BYTES)


def a_cipher(*numbers: int, space: SpaceUid = SPACE) -> SpaceCipher:
    return SpaceCipher(space, [a_key(number) for number in numbers], b"b" * KEY_BYTES)


def text_of(number: int) -> str:
    return base64.b64encode(bytes([number]) * KEY_BYTES).decode()


# Sealing


@given(st.text(), st.binary())
def test_what_was_sealed_opens_for_its_subject(subject: str, plain: bytes) -> None:
    cipher = a_cipher(1)
    sealed = cipher.seal(subject, plain)
    assert cipher.open(subject, sealed) == plain
    assert len(sealed) == len(plain) + 45
    assert key_id_of(sealed) == cipher.key_id == a_key(1).id


def test_the_same_seals_differently_every_time() -> None:
    assert a_cipher(1).seal("a", b"x") != a_cipher(1).seal("a", b"x")


@given(st.integers(0, 60), st.integers(1, 255))
def test_one_changed_byte_keeps_it_shut(place: int, change: int) -> None:
    sealed = bytearray(a_cipher(1).seal("a", b"sixteen bytes ok"))
    sealed[place] ^= change
    with pytest.raises((InternalError, KeyUnavailableError)):
        a_cipher(1).open("a", bytes(sealed))


@pytest.mark.parametrize("length", [0, 1, 16, 28, 44])
def test_what_is_too_short_is_damaged(length: int) -> None:
    with pytest.raises((InternalError, KeyUnavailableError)):
        a_cipher(1).open("a", a_cipher(1).seal("a", b"")[:length])


def test_it_opens_for_no_other_subject_space_or_key() -> None:
    sealed = a_cipher(1).seal("a", b"x")
    with pytest.raises(InternalError, match="belong elsewhere"):
        a_cipher(1).open("b", sealed)
    with pytest.raises(InternalError, match="belong elsewhere"):
        a_cipher(1, space=OTHER).open("a", sealed)
    with pytest.raises(KeyUnavailableError) as caught:
        a_cipher(2).open("a", sealed)
    assert caught.value.metadata["key"] == a_key(1).id


def test_the_first_key_seals_and_all_open() -> None:
    older, newer = a_cipher(1).seal("a", b"x"), a_cipher(2, 1)
    assert newer.open("a", older) == b"x"
    assert key_id_of(newer.seal("a", b"x")) == a_key(2).id


def test_a_cipher_remembers_that_it_met_an_unknown_key() -> None:
    cipher = a_cipher(2)
    assert not cipher.outdated
    with pytest.raises(KeyUnavailableError):
        cipher.open("a", a_cipher(1).seal("a", b"x"))
    assert cipher.outdated


# Blinding


@given(st.text(), st.text())
def test_blinded_texts_are_equal_if_the_texts_are(one: str, other: str) -> None:
    cipher = a_cipher(1)
    assert (cipher.blind(one) == cipher.blind(other)) == (one == other)


def test_blinding_depends_on_the_blinding_key_alone() -> None:
    assert a_cipher(1).blind("Ada") == a_cipher(2, 1).blind("Ada")
    assert a_cipher(1).digest(b"Ada") == a_cipher(2).digest(b"Ada")
    assert a_cipher(1).blind("Ada") != SpaceCipher(SPACE, [a_key(1)], b"c" * KEY_BYTES).blind("Ada")
    assert not a_cipher(1).blind("")


def test_who_has_no_blinding_key_cannot_blind() -> None:
    with pytest.raises(InternalError, match="blinding key"):
        SpaceCipher(SPACE, [a_key(1)]).blind("Ada")


# Master keys


def test_a_wrapped_key_opens_for_its_space_id_and_purpose_alone() -> None:
    master, key_id = MasterKey("m", b"m" * KEY_BYTES), new_key_id()
    wrapped = master.wrap(SPACE, Purpose.DATA, key_id)
    key = master.unwrap(SPACE, Purpose.DATA, key_id, wrapped)
    assert len(key) == KEY_BYTES
    assert key != master.unwrap(SPACE, Purpose.DATA, key_id, master.wrap(SPACE, Purpose.DATA, key_id))
    for space, purpose, id, opener in (
        (OTHER, Purpose.DATA, key_id, master),
        (SPACE, Purpose.BLINDING, key_id, master),
        (SPACE, Purpose.DATA, new_key_id(), master),
        (SPACE, Purpose.DATA, key_id, MasterKey("m", b"n" * KEY_BYTES)),
    ):
        with pytest.raises(KeyUnavailableError, match="master key 'm' has other bytes") as caught:
            opener.unwrap(space, purpose, id, wrapped)
        assert caught.value.metadata["key"] == "m"


def test_the_first_master_key_is_the_current_one() -> None:
    keys = parse(["# ours", "", f"  new {text_of(2)}", f"old\t{text_of(1)}  "], "keys.txt")
    assert keys.ids == ("new", "old")
    assert keys.current is keys.get("new")
    with pytest.raises(KeyUnavailableError, match="'gone' is not configured; configured: new, old") as caught:
        keys.get("gone")
    assert caught.value.metadata["key"] == "gone"
    with pytest.raises(KeyUnavailableError, match="no master key is configured"):
        _ = MasterKeys().current


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("justone", "is not an id and a key"),
        (f"a b {text_of(7)}", "is not an id and a key"),
        (f"a/b {text_of(7)}", "no id; allowed are 1 to 64 letters"),
        (f"{'a' * 65} {text_of(7)}", "no id; allowed are 1 to 64 letters"),
        (f"{text_of(7)} id", "no id; allowed are 1 to 64 letters"),
        ("a c2VjcmV0!", "not base64; allowed are 32 bytes"),
        ("a c2VjcmV0", "has a key of 6 bytes; allowed are 32 bytes"),
        (f"first {text_of(7)}", "has the id 'first' of an earlier one"),
    ],
)
def test_a_wrong_line_is_named_and_no_key_is_shown(line: str, reason: str) -> None:
    with pytest.raises(InvalidSettingError, match=f"keys.txt, line 3 .*{reason}") as caught:
        parse([f"first {text_of(9)}", "", line], "keys.txt")
    for secret in (text_of(7), text_of(9), "c2VjcmV0"):
        assert secret not in str(caught.value)


async def test_the_variable_holds_keys_separated_by_commas() -> None:
    keys = await source(f"new:{text_of(2)}, old:{text_of(1)}", "", "X_KEYS").keys()
    assert keys.ids == ("new", "old")
    assert (await source("", "", "X_KEYS").keys()).ids == ()
    with pytest.raises(InvalidSettingError, match="X_KEYS, item 2 has a key that is not base64"):
        source(f"new:{text_of(2)},old:!", "", "X_KEYS")
    with pytest.raises(InvalidSettingError, match="both set: allowed is one"):
        source(f"new:{text_of(2)}", "keys.txt", "X_KEYS")


async def test_the_environment_gives_the_keys_or_names_their_file(tmp_path: Path) -> None:
    write(tmp_path / "master.keys", f"filed {text_of(1)}")
    given = from_environment({"MNEMO_MEMORY_MASTER_KEYS": f"given:{text_of(1)}"})
    named = from_environment({"MNEMO_MEMORY_MASTER_KEYS_FILE": str(tmp_path / "master.keys")})
    assert (await given.keys()).ids == ("given",)
    assert (await named.keys()).ids == ("filed",)
    assert (await from_environment({}).keys()).ids == ()


def test_nothing_that_holds_a_key_shows_it() -> None:
    secret = bytes([7]) * KEY_BYTES
    master = MasterKey("m", secret)
    shown = [repr(each) for each in (a_key(7), a_cipher(7), master, MasterKeys([master]))]
    for text in shown:
        assert repr(secret) not in text
        assert secret.hex() not in text


# The file


def write(path: Path, *lines: str, mode: int = 0o600) -> None:
    """Put a file in the place of another, as careful editors do."""
    draft = path.with_suffix(".new")
    draft.write_text("\n".join(lines))
    draft.chmod(mode)
    draft.rename(path)


async def test_the_file_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "master.keys"
    write(path, f"old {text_of(1)}")
    file = MasterKeyFile(path, "X_FILE")
    before = await file.keys()
    assert before.ids == ("old",)
    assert await file.keys() is before
    write(path, f"new {text_of(2)}", f"old {text_of(1)}")
    assert (await file.keys()).ids == ("new", "old")


async def test_a_file_written_over_in_place_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "master.keys"
    write(path, f"old {text_of(1)}")
    file = MasterKeyFile(path, "X_FILE")
    assert (await file.keys()).ids == ("old",)
    path.write_text(f"new {text_of(2)}")
    os.utime(path, ns=(1, 1))
    assert (await file.keys()).ids == ("new",)


async def test_keys_stay_in_use_while_the_file_is_broken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "master.keys"
    write(path, f"old {text_of(1)}")
    file = MasterKeyFile(path, "X_FILE")
    before = await file.keys()
    for broken in (["nonsense"], [], ["old c2VjcmV0"]):
        caplog.clear()
        write(path, *broken)
        assert await file.keys() is before
        assert await file.keys() is before
        assert [record.levelno for record in caplog.records] == [logging.ERROR], "said once"
        assert "c2VjcmV0" not in caplog.text
    path.unlink()
    assert await file.keys() is before
    assert "No such file" in caplog.text
    write(path, f"new {text_of(2)}")
    assert (await file.keys()).ids == ("new",)


@pytest.mark.parametrize(("lines", "reason"), [(["x"], "line 1"), ([], "holds no key"), (["\x00\xff"], "line 1")])
async def test_a_file_that_was_never_good_is_refused(tmp_path: Path, lines: list[str], reason: str) -> None:
    write(tmp_path / "master.keys", *lines)
    with pytest.raises(InvalidSettingError, match=reason):
        await MasterKeyFile(tmp_path / "master.keys", "X_FILE").keys()


async def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettingError, match=r"X_FILE: cannot read .*none: No such file"):
        await MasterKeyFile(tmp_path / "none", "X_FILE").keys()
    with pytest.raises(InvalidSettingError, match="Is a directory"):
        await MasterKeyFile(tmp_path, "X_FILE").keys()


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o604, 0o700 | 0o001])
async def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    write(tmp_path / "master.keys", f"a {text_of(1)}", mode=mode)
    with pytest.raises(InvalidSettingError, match=f"has mode {mode:04o}; allowed is at most 06[04]0"):
        await MasterKeyFile(tmp_path / "master.keys", "X_FILE").keys()


@pytest.mark.parametrize("mode", [0o600, 0o400])
async def test_a_file_of_its_owner_alone_is_read(tmp_path: Path, mode: int) -> None:
    write(tmp_path / "master.keys", f"a {text_of(1)}", mode=mode)
    assert (await MasterKeyFile(tmp_path / "master.keys", "X_FILE").keys()).ids == ("a",)
