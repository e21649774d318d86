"""Encrypted spaces: locked until the keys come, searched in RAM, sealed on the disk."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.index_space import created, document, memory_id, removed, space

from mnemo_index.domain.documents import Change
from mnemo_index.domain.revisions import Revisions
from mnemo_index.domain.sealed_space import AT_ONCE, SealedSpace
from mnemo_index.storage.snapshots import SnapshotStore
from mnemocore.errors import InternalError, KeyUnavailableError
from mnemocore.ids import SpaceUid
from mnemocore.sealing import DataKey, SpaceCipher

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mnemo_index.domain.documents import Document
    from mnemo_index.domain.space_index import SpaceIndex
    from mnemocore.ids import MemoryId

UID = SpaceUid("00000000-0000-7000-8000-0000000000ee")
KEY = DataKey("00000000-0000-4000-8000-000000000001", b"1" * 32)
NEWER = DataKey("00000000-0000-4000-8000-000000000002", b"2" * 32)
WRONG = DataKey(KEY.id, b"x" * 32)
TEXTS = ("green tea with lemon", "my password is zyzzyva", "chess on Sundays")


def read(memory_id: MemoryId, opened: bytes) -> Document:
    """A document of which content and actor were sealed."""
    try:
        content, _, actor = opened.decode().partition("|")
    except UnicodeDecodeError:
        raise InternalError("not a document") from None
    number = int(memory_id[-12:], 16)
    return document(number, content, actor=actor, session="s", ordinal=number)


def sealed(revision: int, number: int, text: str, key: DataKey = KEY) -> Change:
    """A change as the event of an encrypted space brings it."""
    subject = f"{memory_id(number)}@{revision}"
    data = SpaceCipher(UID, [key]).seal(subject, text.encode())
    return Change(revision, memory_id(number), sealed=data)


def locked(*changes: Change) -> SealedSpace:
    """An encrypted space after some changes."""
    held = SealedSpace(UID, space(), read, Revisions())
    held.apply(changes)
    return held


def filled() -> SealedSpace:
    """A locked space with TEXTS."""
    return locked(*(sealed(number, number, f"{text}|Xavier") for number, text in enumerate(TEXTS, 1)))


def opened(held: SealedSpace, *keys: DataKey) -> SpaceIndex:
    """The index, opened as a request does it."""
    while (index := held.opened(keys)) is None:
        held.open_some(keys)
    return index


def numbers(index: SpaceIndex, query: str) -> list[int]:
    return [int(hit.memory_id[-12:], 16) for hit in index.search(query, 10)]


def test_it_takes_changes_while_it_is_locked_and_answers_once_the_key_comes() -> None:
    held = filled()
    assert (held.locked, held.applied_revision, held.size) == (True, 3, 3)
    with pytest.raises(KeyUnavailableError):
        held.unlocked()
    index = opened(held, KEY)
    assert (held.locked, held.size, held.unlocked()) == (False, 3, index)
    assert numbers(index, "password")[0] == 2
    assert {part.name for part in index.search("Xavier", 1)[0].components} >= {"speaker"}
    assert held.memory_bytes > index.memory_bytes


def test_every_question_needs_the_keys() -> None:
    held = filled()
    for _ in range(2):  # locked, then open
        for keys in ([], [NEWER], [WRONG]):
            with pytest.raises(KeyUnavailableError):
                opened(held, *keys)
        opened(held, KEY)
        opened(held, NEWER, KEY)


@pytest.mark.parametrize("key", [WRONG, NEWER])
def test_with_a_wrong_key_it_stays_locked_and_says_nothing_of_the_content(
    key: DataKey, caplog: pytest.LogCaptureFixture
) -> None:
    held = filled()
    with caplog.at_level(logging.DEBUG), pytest.raises(KeyUnavailableError) as caught:
        opened(held, key)
    assert caught.value.metadata == {"key": KEY.id}
    assert held.locked
    assert "zyzzyva" not in caplog.text
    assert str(key.key) not in caplog.text
    assert numbers(opened(held, KEY), "tea")[0] == 1


def test_what_comes_later_is_opened_as_it_comes() -> None:
    held = filled()
    index = opened(held, KEY)
    held.apply([sealed(4, 4, "a dog called Biscuit"), sealed(5, 1, "black coffee"), removed(6, 2)])
    assert (held.locked, held.applied_revision, held.size) == (False, 6, 3)
    assert opened(held, KEY) is index
    assert numbers(index, "Biscuit")[0] == 4
    assert numbers(index, "coffee")[0] == 1
    assert sorted(numbers(index, "password")) == [1, 3, 4]
    held.apply([sealed(5, 1, "older again"), removed(6, 2), sealed(2, 2, "older too")])
    assert sorted(numbers(index, "older")) == [1, 3, 4]


def test_a_new_key_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    held = filled()
    opened(held, KEY)
    with caplog.at_level(logging.INFO):
        held.apply([sealed(4, 4, "a dog called Biscuit", NEWER)])
    assert NEWER.id in caplog.text
    assert held.locked
    with pytest.raises(KeyUnavailableError) as caught:
        opened(held, KEY)
    assert caught.value.metadata == {"key": NEWER.id}
    assert numbers(opened(held, NEWER, KEY), "Biscuit")[0] == 4
    held.apply([sealed(4 + number, number, f"{text} again", NEWER) for number, text in enumerate(TEXTS, 1)])
    assert numbers(opened(held, NEWER), "password again")[0] == 2  # nothing is sealed with the old one any more


@pytest.mark.parametrize("data", [b"", b"short", b"\x01" * 40, b"\x02" * 200])
def test_what_is_damaged_keeps_the_space_locked(data: bytes) -> None:
    held = filled()
    opened(held, KEY)
    held.apply([Change(4, memory_id(9), sealed=data)])
    if data:
        with pytest.raises(KeyUnavailableError):
            opened(held, KEY)
        held.apply([removed(5, 9)])
    assert len(numbers(opened(held, KEY), "tea")) == 3


def test_a_payload_opens_in_its_own_place_only() -> None:
    elsewhere = Change(1, memory_id(2), sealed=sealed(1, 1, "tea").sealed)
    later = Change(2, memory_id(1), sealed=sealed(1, 1, "tea").sealed)
    unreadable = locked(Change(1, memory_id(1), sealed=SpaceCipher(UID, [KEY]).seal(f"{memory_id(1)}@1", b"\xff")))
    for held in (locked(elsewhere), locked(later), unreadable):
        with pytest.raises(KeyUnavailableError):
            opened(held, KEY)


def test_it_opens_step_by_step_and_goes_on_where_it_stopped() -> None:
    count = 2 * AT_ONCE + 1
    held = locked(*(sealed(number, number, f"text number {number}") for number in range(1, count + 1)))
    for _ in range(2):
        assert held.opened([KEY]) is None
        held.open_some([KEY])
    assert held.locked
    held.open_some([KEY])
    index = held.opened([KEY])
    assert index is not None
    assert index.size == count


def kept(held: SealedSpace, directory: Path) -> SealedSpace:
    """The space after a restart."""
    SnapshotStore(directory).save(UID, held.state())
    state = SnapshotStore(directory).load(UID)
    assert state.sealed
    return SealedSpace.restored(UID, state, space(), read)


@pytest.mark.parametrize("unlock", [False, True])
def test_after_a_restart_it_is_locked_and_nothing_on_the_disk_can_be_read(tmp_path: Path, unlock: bool) -> None:
    held = filled()
    if unlock:
        opened(held, KEY)
    held.apply([removed(4, 3), sealed(6, 4, "ahead of a gap|Yolanda"), removed(8, 7)])
    again = kept(held, tmp_path)
    everything = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for word in ("zyzzyva", "password", "zyzzyv", "lemon", "chess", "Xavier", "xavier", "Yolanda", "wordllama"):
        assert word.encode() not in everything
    assert KEY.key not in everything
    assert b"vectors" not in everything
    assert again.locked
    assert (again.applied_revision, again.size) == (4, 3)
    with pytest.raises(KeyUnavailableError):
        opened(again, WRONG)
    assert numbers(opened(again, KEY), "password")[0] == 2
    again.apply([sealed(5, 5, "it closes"), sealed(7, 7, "removed by revision 8")])
    assert (again.applied_revision, again.size) == (8, 4)
    assert opened(again, KEY).search("gap", 10) == opened(locked(*changes_of(again)), KEY).search("gap", 10)


def changes_of(held: SealedSpace) -> list[Change]:
    """Changes that lead to what is held."""
    state = held.state()
    payloads, start, changes = state.arrays["payloads"].tobytes(), 0, []
    rows = zip(state.lists["ids"], state.arrays["revisions"].tolist(), state.arrays["sizes"].tolist(), strict=True)
    for name, revision, size in rows:
        number = int(name[-12:], 16)
        changes.append(Change(revision, memory_id(number), sealed=payloads[start : start + size]))
        start += size
    return changes


def test_an_empty_one_comes_back_too(tmp_path: Path) -> None:
    held = kept(locked(sealed(1, 1, "tea"), removed(2, 1)), tmp_path)
    assert (held.applied_revision, held.size, held.locked) == (2, 0, False)
    assert opened(held, KEY).search("tea", 3) == []
    with pytest.raises(KeyUnavailableError):
        opened(held)


STEPS = st.lists(
    st.tuples(st.integers(1, 4), st.sampled_from(["green tea", "a dog", "chess", ""]), st.booleans(), st.booleans()),
    min_size=1,
    max_size=15,
)


@settings(max_examples=40)
@given(STEPS, st.integers(1, 5))
def test_opened_whenever_it_may_be_it_holds_what_an_open_space_would(
    steps: Sequence[tuple[int, str, bool, bool]], size: int
) -> None:
    held, plain, batch = locked(), space(), []
    for revision, (number, text, removes, opens) in enumerate(steps, 1):
        written = read(memory_id(number), text.encode())
        plain.apply([removed(revision, number) if removes else created(revision, written)])
        batch.append(removed(revision, number) if removes else sealed(revision, number, text))
        if len(batch) == size:
            held.apply(batch)
            batch = []
        if opens:
            opened(held, KEY)
    held.apply(batch)
    assert held.applied_revision == plain.applied_revision
    assert opened(held, KEY).search("tea", 10) == plain.search("tea", 10)
    assert held.size == plain.size
