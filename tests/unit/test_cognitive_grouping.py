"""Which memory of a group is kept."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

from mnemo_cognitive.domain.consolidation import Pair, group_duplicates

if TYPE_CHECKING:
    from mnemo_cognitive.domain.job import DuplicateGroup


def shown(groups: tuple[DuplicateGroup, ...]) -> list[tuple[str, list[str]]]:
    return [(group.kept, [duplicate.name for duplicate in group.duplicates]) for group in groups]


def test_nothing_comes_of_nothing() -> None:
    assert group_duplicates([]) == ()


def test_the_first_of_a_pair_is_kept_with_its_similarity() -> None:
    [group] = group_duplicates([Pair("a", "b", 0.97)])
    assert group.kept == "a"
    [duplicate] = group.duplicates
    assert (duplicate.name, duplicate.similarity, duplicate.archived) == ("b", 0.97, False)


def test_all_that_say_the_same_go_to_the_first() -> None:
    pairs = [Pair("b", "c", 0.99), Pair("a", "c", 0.98), Pair("a", "b", 0.97)]
    assert [(kept, sorted(names)) for kept, names in shown(group_duplicates(pairs))] == [("a", ["b", "c"])]


def test_likeness_is_not_passed_on() -> None:
    chain = [Pair("a", "b", 0.96), Pair("b", "c", 0.96), Pair("c", "d", 0.96)]
    assert shown(group_duplicates(chain)) == [("a", ["b"]), ("c", ["d"])]


def test_a_duplicate_goes_to_the_most_similar_kept_memory() -> None:
    assert shown(group_duplicates([Pair("a", "c", 0.96), Pair("b", "c", 0.97)])) == [("b", ["c"])]
    assert shown(group_duplicates([Pair("b", "c", 0.97), Pair("a", "c", 0.97)])) == [("a", ["c"])]


def test_a_similar_memory_that_is_not_kept_does_not_count() -> None:
    pairs = [Pair("a", "b", 0.95), Pair("b", "d", 0.99), Pair("c", "d", 0.95)]
    assert shown(group_duplicates(pairs)) == [("a", ["b"]), ("c", ["d"])]


def test_groups_come_in_the_order_of_the_pairs() -> None:
    pairs = [Pair("m", "n", 0.99), Pair("a", "b", 0.98), Pair("x", "y", 0.97)]
    assert [kept for kept, _ in shown(group_duplicates(pairs))] == ["m", "a", "x"]


def test_as_many_pairs_as_the_index_returns_are_grouped() -> None:
    names = [f"{number:04}" for number in range(440)]
    pairs = [Pair(first, second, 0.96) for first, second in combinations(names, 2)]
    [group] = group_duplicates(pairs[::-1])
    assert (group.kept, len(group.duplicates)) == ("0000", 439)
