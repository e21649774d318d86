"""The laws of grouping duplicates, for any pairs an index may find."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from mnemo_cognitive.domain.consolidation import Pair, group_duplicates

if TYPE_CHECKING:
    from mnemo_cognitive.domain.job import DuplicateGroup

AGES = st.permutations(range(9))
EDGES = st.dictionaries(
    st.tuples(st.integers(0, 8), st.integers(0, 8)).filter(lambda edge: edge[0] < edge[1]),
    st.sampled_from([0.95, 0.96, 0.97, 1.0]),
    max_size=30,
)


@st.composite
def found_pairs(draw: st.DrawFn) -> list[Pair]:
    """Pairs from older to newer, each once, in any order; names say nothing of age."""
    names = [f"spaces/s/memories/{number}" for number in draw(AGES)]
    edges = draw(EDGES)
    pairs = [Pair(names[older], names[newer], similarity) for (older, newer), similarity in edges.items()]
    return draw(st.permutations(pairs))


def as_sets(groups: tuple[DuplicateGroup, ...]) -> dict[str, frozenset[tuple[str, float]]]:
    return {
        group.kept: frozenset((duplicate.name, duplicate.similarity) for duplicate in group.duplicates)
        for group in groups
    }


@given(found_pairs())
def test_every_duplicate_is_like_the_memory_that_is_kept_for_it(pairs: list[Pair]) -> None:
    given = {(pair.first, pair.second): pair.similarity for pair in pairs}
    for group in group_duplicates(pairs):
        assert group.duplicates
        for duplicate in group.duplicates:
            assert given[group.kept, duplicate.name] == duplicate.similarity
            assert not duplicate.archived


@given(found_pairs())
def test_every_memory_has_one_place(pairs: list[Pair]) -> None:
    groups = group_duplicates(pairs)
    kept = [group.kept for group in groups]
    duplicates = [duplicate.name for group in groups for duplicate in group.duplicates]
    assert len(set(kept)) == len(kept)
    assert len(set(duplicates)) == len(duplicates)
    assert not set(kept) & set(duplicates)


@given(found_pairs())
def test_no_two_memories_that_stay_say_the_same(pairs: list[Pair]) -> None:
    duplicates = {duplicate.name for group in group_duplicates(pairs) for duplicate in group.duplicates}
    for pair in pairs:
        assert pair.first in duplicates or pair.second in duplicates


@given(found_pairs())
def test_a_duplicate_has_no_kept_memory_that_is_more_like_it(pairs: list[Pair]) -> None:
    groups = group_duplicates(pairs)
    duplicates = {duplicate.name: duplicate.similarity for group in groups for duplicate in group.duplicates}
    for pair in pairs:
        if pair.first not in duplicates and pair.second in duplicates:
            assert pair.similarity <= duplicates[pair.second]


@given(found_pairs())
def test_the_same_pairs_make_the_same_groups(pairs: list[Pair]) -> None:
    groups = group_duplicates(pairs)
    assert group_duplicates(list(pairs)) == groups
    mentioned = [name for pair in pairs for name in (pair.first, pair.second)]
    places = [mentioned.index(group.kept) for group in groups]
    assert places == sorted(places)


@given(st.data())
def test_the_order_of_the_pairs_changes_no_group(data: st.DataObject) -> None:
    pairs = data.draw(found_pairs())
    shuffled = data.draw(st.permutations(pairs))
    assert as_sets(group_duplicates(shuffled)) == as_sets(group_duplicates(pairs))
