"""What every store of snapshots promises; run on the files."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.index_space import created, document, encoder, filled, found, removed, restored, space

from mnemo_index.domain.documents import Filter, State
from mnemo_index.domain.ports import UnusableSnapshotError
from mnemo_index.domain.share import Share
from mnemo_index.domain.state import Progress
from mnemo_index.storage.generations import GenerationStore
from mnemo_index.storage.snapshots import SnapshotStore
from mnemocore.errors import StoreFullError
from mnemocore.ids import SpaceUid

if TYPE_CHECKING:
    from pathlib import Path

    from mnemo_index.domain.state import SpaceState

ONE = SpaceUid("00000000-0000-7000-8000-00000000000a")
OTHER = SpaceUid("00000000-0000-7000-8000-00000000000b")


def loaded(directory: Path) -> tuple[int, dict[SpaceUid, SpaceState]]:
    """What a new process finds."""
    store, states = SnapshotStore(directory), {}
    kept = store.kept()
    complete = kept.complete
    for space_uid, head in sorted(kept.heads.items()):
        try:
            state = states[space_uid] = store.load(space_uid)
        except UnusableSnapshotError:
            complete = False
        else:
            assert head[:3] == (state.model, state.applied_revision, state.size)
    return kept.progress.position if complete else 0, states


def kept(directory: Path) -> SnapshotStore:
    """A store with two spaces at position 7."""
    store = SnapshotStore(directory)
    store.save(ONE, filled("green tea", "a dog called Biscuit").state())
    store.save(OTHER, filled("chess").state())
    store.save_progress(Progress(7))
    return store


def test_nothing_is_loaded_from_nothing(tmp_path: Path) -> None:
    assert loaded(tmp_path / "new" / "folder") == (0, {})


def test_a_space_comes_back_as_it_was(tmp_path: Path) -> None:
    index = space(exact_rows=2)
    talk = ["Alice: tea?", "Bob: not for 40 euros", "Alice: coffee then", "\u6771\u4eac \U0001f5fc", ""]
    index.apply(
        [
            created(n, document(n, text, actor=text[:5], session="s", ordinal=n, tags=("t",), metadata={"n": n}))
            for n, text in enumerate(talk, 1)
        ]
    )
    index.apply([removed(6, 2), removed(9, 8), created(8, document(9, "ahead of a gap"))])
    SnapshotStore(tmp_path).save(ONE, index.state())
    again = restored(loaded(tmp_path)[1][ONE], exact_rows=2)
    for query in ("tea", "Alice", "euros", "\u6771"):
        assert again.search(query, 10) == index.search(query, 10)
    assert (again.size, again.applied_revision) == (index.size, index.applied_revision)
    for either in (index, again):
        either.apply([created(7, document(8, "removed by revision 9"))])
        assert (either.size, either.applied_revision) == (5, 9)


def test_an_empty_space_comes_back(tmp_path: Path) -> None:
    SnapshotStore(tmp_path).save(ONE, space().state())
    assert restored(loaded(tmp_path)[1][ONE]).search("tea", 1) == []


def test_the_newest_state_of_each_space_is_kept_with_the_position(tmp_path: Path) -> None:
    store = kept(tmp_path)
    store.save(ONE, filled("only this").state())
    store.save_progress(Progress(12))
    position, states = loaded(tmp_path)
    assert position == 12
    assert found(restored(states[ONE]), "only this") == [1]
    assert list(states) == store.spaces() == [ONE, OTHER]


def test_a_later_change_of_the_index_does_not_reach_a_state(tmp_path: Path) -> None:
    index = filled("green tea", "chess")
    state = index.state()
    index.apply([removed(3, 1), created(4, document(4, "added later"))])
    SnapshotStore(tmp_path).save(ONE, state)
    again = restored(loaded(tmp_path)[1][ONE])
    assert (again.size, again.applied_revision) == (2, 2)
    assert found(again, "tea")[0] == 1


@pytest.mark.parametrize(
    "damage", ["truncated", "emptied", "flipped", "flipped header", "extended", "foreign", "unreadable"]
)
def test_a_damaged_snapshot_is_set_aside_and_its_space_is_replayed(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    kept(tmp_path)
    path = tmp_path / f"{ONE}.snapshot"
    content = path.read_bytes()
    middle = len(content) // 2
    if damage == "unreadable":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(
            {
                "truncated": content[:-100],
                "emptied": b"",
                "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
                "flipped header": content[:40] + bytes([content[40] ^ 1]) + content[41:],
                "extended": content + b"\0",
                "foreign": b"SOMETHING ELSE" * 100,
            }[damage]
        )
    with caplog.at_level(logging.ERROR):
        position, states = loaded(tmp_path)
    assert position == 0
    assert list(states) == [OTHER]
    assert (tmp_path / f"{ONE}.snapshot.corrupt-1").exists()
    assert not path.exists()
    assert ONE in caplog.text
    path.write_bytes(b"")
    assert loaded(tmp_path)[0] == 0
    assert (tmp_path / f"{ONE}.snapshot.corrupt-2").exists()


@pytest.mark.parametrize("version", [b"1", b"9"])
def test_what_another_version_wrote_is_built_anew_without_alarm(
    tmp_path: Path, version: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store = kept(tmp_path)
    (tmp_path / f"{ONE}.snapshot").write_bytes(b"MNEMOIX" + version + b"green tea" * 100)
    with caplog.at_level(logging.INFO):
        position, states = loaded(tmp_path)
    assert (position, list(states)) == (0, [OTHER])
    (line,) = caplog.records
    assert line.levelno == logging.INFO
    assert ONE in line.message
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{OTHER}.snapshot", "position"]
    caplog.clear()
    with caplog.at_level(logging.INFO):  # a start that ended before anything was saved
        assert loaded(tmp_path)[0] == 0
    assert caplog.records == []
    store.save(ONE, filled("only this").state())
    store.save_progress(Progress(12))
    position, states = loaded(tmp_path)
    assert (position, list(states)) == (12, [ONE, OTHER])


def test_nothing_is_left_of_a_space_that_is_forgotten(tmp_path: Path) -> None:
    store = kept(tmp_path)
    for name in (f"{ONE}.snapshot.corrupt-1", f"{ONE}.snapshot.tmp"):
        (tmp_path / name).write_bytes(b"green tea")
    for _ in range(2):
        store.forget(ONE)
        assert sorted(path.name for path in tmp_path.iterdir()) == [f"{OTHER}.snapshot", "position"]
        position, states = loaded(tmp_path)
        assert (position, list(states)) == (7, [OTHER])
    SnapshotStore(tmp_path / "new").forget(ONE)


def test_states_and_times_come_back(tmp_path: Path) -> None:
    index = space()
    later = document(9, "").occurred_at
    mortal = replace(document(2, "tea"), expires_at=later, valid_to=later, importance=0.3, modality=2, created_at=later)
    index.apply([created(1, document(1, "tea"), State.ARCHIVED), created(2, mortal), created(3, document(3, "tea"))])
    SnapshotStore(tmp_path).save(ONE, index.state())
    again = restored(loaded(tmp_path)[1][ONE])
    assert (again.size, index.size) == (2, 2)
    for wanted in (
        Filter(),
        Filter(now=later),
        Filter(now=later, states=frozenset({State.EXPIRED, State.ARCHIVED})),
        Filter(valid_at=later),
        Filter(min_importance=0.31),
        Filter(modalities=frozenset({2})),
        Filter(created_from=later),
    ):
        assert again.search("tea", 10, wanted) == index.search("tea", 10, wanted)
    assert found(again, "tea") == [3, 2]


def test_a_lost_snapshot_is_noticed(tmp_path: Path) -> None:
    kept(tmp_path)
    (tmp_path / f"{ONE}.snapshot").unlink()
    position, states = loaded(tmp_path)
    assert (position, list(states)) == (0, [OTHER])


def test_a_snapshot_that_is_older_than_it_has_to_be_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = kept(tmp_path)
    older = (tmp_path / f"{ONE}.snapshot").read_bytes()
    store.save(ONE, filled("green tea", "a dog called Biscuit", "newer").state())
    store.save_progress(Progress(8))
    (tmp_path / f"{ONE}.snapshot").write_bytes(older)
    position, states = loaded(tmp_path)
    assert (position, list(states)) == (0, [OTHER])
    assert ONE in caplog.text


def test_how_far_snapshots_are_comes_back_with_the_share_and_what_is_not_whole(tmp_path: Path) -> None:
    progress = Progress(7, Share("a", frozenset({"a", "b"})), 9, frozenset({OTHER}))
    kept(tmp_path).save_progress(progress)
    again = SnapshotStore(tmp_path).kept()
    assert (again.progress, again.complete, set(again.heads)) == (progress, True, {ONE, OTHER})


def test_a_start_reads_headers_and_notices_the_rest_when_it_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept(tmp_path)
    path = tmp_path / f"{ONE}.snapshot"
    content = bytearray(path.read_bytes())
    content[-60] ^= 1
    path.write_bytes(content)
    store = SnapshotStore(tmp_path)
    assert store.kept().complete
    assert caplog.records == []
    for why in ("damaged", "there is none"):
        with pytest.raises(UnusableSnapshotError, match=why):
            store.load(ONE)
    (line,) = caplog.records
    assert ONE in line.message
    assert store.load(OTHER).applied_revision == 1


@pytest.mark.parametrize("point", ["half written", "written", "in its place"])
def test_after_a_crash_while_saving_there_is_the_old_or_the_new_one(tmp_path: Path, point: str) -> None:
    kept(tmp_path)
    path, left = tmp_path / f"{ONE}.snapshot", tmp_path / f"{ONE}.snapshot.tmp"
    newer = SnapshotStore(tmp_path / "elsewhere")
    newer.save(ONE, filled("green tea", "a dog called Biscuit", "newer").state())
    content = (tmp_path / "elsewhere" / path.name).read_bytes()
    if point == "in its place":
        path.write_bytes(content)
    else:
        left.write_bytes(content[: None if point == "written" else len(content) // 2])
    position, states = loaded(tmp_path)
    assert (position, states[ONE].applied_revision) == (7, 3 if point == "in its place" else 2)
    assert not left.exists()


SAVING = """
import sys
from pathlib import Path
from tests.conformance.test_index_store import ONE, OTHER
from tests.index_space import created, document, space
from mnemo_index.domain.state import Progress
from mnemo_index.storage.snapshots import SnapshotStore

store = SnapshotStore(Path(sys.argv[1]))
index, first = space(), max([0, *(head.applied_revision for head in store.kept().heads.values())])
for revision in range(1, 100_000):
    index.apply([created(revision, document(revision, "green tea"))])
    for uid in (ONE, OTHER):
        if revision > first:
            store.save(uid, index.state())
    if revision == first + 1:
        print("ready", flush=True)
    if revision > first:
        store.save_progress(Progress(revision))
"""


def test_killed_while_it_saves_it_leaves_whole_snapshots(tmp_path: Path) -> None:
    pause = random.Random(7)
    for _ in range(4):
        with subprocess.Popen([sys.executable, "-c", SAVING, str(tmp_path)], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            with suppress(subprocess.TimeoutExpired):
                child.wait(pause.uniform(0.02, 0.4))
            child.kill()
        position, states = loaded(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == [*(f"{uid}.snapshot" for uid in states), "position"]
        assert list(states) == [ONE, OTHER]
        assert all(state.size == state.applied_revision >= position for state in states.values())


DAMAGED = [b"", b"7", b"garbage\n{}\n", b"\xff\xfe\n\n", b'0123456789abcdef\n{"position": 7}\n']


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_position_means_a_replay(tmp_path: Path, content: bytes) -> None:
    kept(tmp_path)
    (tmp_path / "position").write_bytes(content)
    position, states = loaded(tmp_path)
    assert (position, list(states)) == (0, [ONE, OTHER])
    assert (tmp_path / "position.corrupt-1").exists()


def test_what_an_interrupted_save_leaves_is_swept(tmp_path: Path) -> None:
    kept(tmp_path)
    (tmp_path / f"{ONE}.snapshot.tmp").write_bytes(b"half")
    assert loaded(tmp_path)[0] == 7
    assert list(tmp_path.glob("*.tmp")) == []


def test_a_full_disk_keeps_the_old_snapshot(tmp_path: Path) -> None:
    kept(tmp_path)
    (tmp_path / f"{ONE}.snapshot.tmp").symlink_to("/dev/full")
    with pytest.raises(StoreFullError):
        SnapshotStore(tmp_path).save(ONE, filled("newer").state())
    position, states = loaded(tmp_path)
    assert position == 7
    assert found(restored(states[ONE]), "Biscuit")[0] == 2


def test_only_uuids_name_snapshots(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a UUID"):
        SnapshotStore(tmp_path).save(SpaceUid("../escape"), space().state())
    (tmp_path / "notes.snapshot").write_text("somebody's")
    assert loaded(tmp_path) == (0, {})
    assert (tmp_path / "notes.snapshot").exists()


def test_vectors_are_stored_as_the_index_holds_them(tmp_path: Path) -> None:
    index = filled("green tea", "chess")
    SnapshotStore(tmp_path).save(ONE, index.state())
    stored = loaded(tmp_path)[1][ONE].arrays["vectors"]
    assert stored.dtype == np.float16
    assert np.array_equal(stored.astype(np.float32), index.state().arrays["vectors"])
    assert stored.shape == (2, encoder().dimension)


def test_another_language_leaves_no_snapshot(tmp_path: Path) -> None:
    store = GenerationStore(tmp_path)
    store.save(ONE, filled("green tea").state())
    store.replaced.save(ONE, filled("green tea").state())
    store.save_progress(Progress(7))
    assert GenerationStore(tmp_path, "english").kept().progress.position == 7
    for _ in range(2):
        german = GenerationStore(tmp_path, "german")
        kept = german.kept()
        assert (kept.progress.position, kept.heads, kept.complete) == (0, {}, True)
        assert not german.replaced.kept()
    german.save(ONE, filled("green tea").state())
    assert set(GenerationStore(tmp_path, "german").kept().heads) == {ONE}
    assert not GenerationStore(tmp_path).kept().heads
