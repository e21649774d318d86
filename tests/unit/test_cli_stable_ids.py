"""Ids that survive a second ingest."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from mnemo_cli import stable_ids
from mnemo_cli.stable_ids import StableIds
from mnemocore.client import MemoryInput
from mnemocore.ids import is_uuid

CONTENTS = st.lists(st.sampled_from(["a", "b", "c", "\ud800"]), max_size=12)


def ids(contents: list[str], *, space: str = "s", source: str = "f.txt") -> list[str]:
    giver = StableIds(space, source)
    return [giver.assign(MemoryInput(content)).id for content in contents]


@given(CONTENTS)
def test_the_same_file_gets_the_same_different_ids(contents: list[str]) -> None:
    found = ids(contents)

    assert found == ids(contents)
    assert len(set(found)) == len(found)
    assert all(is_uuid(one) and uuid.UUID(one).version == 8 for one in found)


@given(CONTENTS, st.integers(min_value=0, max_value=12))
def test_what_is_inserted_changes_no_other_id(contents: list[str], position: int) -> None:
    changed = [*contents[:position], "new", *contents[position:]]

    assert set(ids(contents)) < set(ids(changed))


def test_other_spaces_sources_and_speakers_have_other_ids() -> None:
    giver = StableIds("s", "f.txt")
    spoken = [giver.assign(MemoryInput("a", actor=actor, session=session)).id for actor, session in ("xy", "x ", " x")]

    assert len({*ids(["a"]), *ids(["a"], space="t"), *ids(["a"], source="g.txt"), *spoken}) == 6


def test_a_chosen_id_is_kept() -> None:
    chosen = MemoryInput("a", id=str(uuid.UUID(int=1)))

    assert StableIds("s", "f").assign(chosen) is chosen


def test_a_large_file_gets_the_same_different_ids_in_bounded_memory() -> None:
    contents = [str(number % 40_000) for number in range(2 * stable_ids.REMEMBERED + 10)]
    contents += [f"{number} once" for number in range(stable_ids.REMEMBERED)]

    found = ids(contents)

    assert len(set(found)) == len(found)
    assert found == ids(contents)
