"""Revisions that were just committed: what follows on what is published, without gaps, in bounded memory."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemo_memory.domain.memory import Change, Draft, Kind, Memory, Revision, State
from mnemo_memory.storage.recent_revisions import RecentRevisions
from mnemocore.ids import MemoryId, SpaceUid

SPACE = SpaceUid("s")


def revision(number: int) -> Revision:
    return Revision(number, MemoryId("m"), Change.CREATED, None, datetime(2026, 3, 1, tzinfo=UTC), "alice", "")


def a_memory(draft: Draft) -> Memory:
    at = datetime(2026, 3, 1, tzinfo=UTC)
    fields = (MemoryId("m"), Kind.FACT, draft.content, draft.metadata, (), "", "", None, at, 0.5, 1.0, State.ACTIVE)
    return Memory(*fields, 1, 1, at, at)


@given(st.sets(st.integers(1, 30)), st.integers(0, 30), st.integers(1, 30))
def test_what_follows_without_a_gap_is_taken_once(numbers: set[int], after: int, limit: int) -> None:
    recent = RecentRevisions()
    recent.add(SPACE, [revision(number) for number in numbers])

    expected: list[int] = []
    while len(expected) < limit and after + len(expected) + 1 in numbers:
        expected.append(after + len(expected) + 1)
    assert [each.revision for each in recent.take(SPACE, after, limit)] == expected
    if expected:
        assert recent.take(SPACE, after, limit) == []


def test_the_order_in_which_writers_return_does_not_matter() -> None:
    recent = RecentRevisions()
    recent.add(SPACE, [revision(3)])
    recent.add(SPACE, [revision(1), revision(2)])
    assert [each.revision for each in recent.take(SPACE, 0, 10)] == [1, 2, 3]


def test_too_many_are_forgotten_and_later_ones_are_held_again() -> None:
    recent = RecentRevisions(capacity=4096)
    recent.add(SPACE, [revision(number) for number in range(1, 6)])
    assert recent.take(SPACE, 0, 10) == []
    recent.add(SPACE, [revision(6)])
    assert [each.revision for each in recent.take(SPACE, 5, 10)] == [6]


@pytest.mark.parametrize("large", [Draft("x" * 4000), Draft("x", metadata={"k": "x" * 4000}), Draft("é" * 2000)])
def test_what_a_memory_holds_counts(large: Draft) -> None:
    recent = RecentRevisions(capacity=4096)
    recent.add(SPACE, [replace(revision(1), memory=a_memory(large))])
    assert recent.take(SPACE, 0, 10) == []


def test_spaces_are_apart() -> None:
    recent = RecentRevisions()
    recent.add(SPACE, [revision(1)])
    assert recent.take(SpaceUid("other"), 0, 10) == []
    assert len(recent.take(SPACE, 0, 10)) == 1
