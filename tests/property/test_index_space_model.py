"""An index against a model: whatever is applied, in whatever batches, it holds and filters what a dictionary would."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.index_space import START, created, document, memory_id, removed, restored, space

from mnemo_index.domain.documents import Change, ChangeType, Document, Filter, microseconds

if TYPE_CHECKING:
    from mnemo_index.domain.space_index import SpaceIndex

NUMBERS = st.integers(1, 6)
TEXTS = st.sampled_from(
    ["green tea", "a dog called Biscuit", "", "???", "\u6771\u4eac", "not 40 but 50", "tea tea tea"]
)
ACTORS = st.sampled_from(["", "Alice", "Bob"])


@st.composite
def histories(draw: st.DrawFn) -> list[Change]:
    """Changes with revisions 1, 2, 3 ... as memory-core commits them."""
    changes = []
    for revision in range(1, draw(st.integers(1, 25)) + 1):
        number = draw(NUMBERS)
        if draw(st.booleans()):
            written = document(
                number,
                draw(TEXTS),
                kind=draw(st.sampled_from(["fact", "observation"])),
                actor=draw(ACTORS),
                session=draw(st.sampled_from(["", "s1", "s2"])),
                ordinal=draw(st.none() | st.integers(0, 3)),
                tags=tuple(draw(st.sets(st.sampled_from(["x", "y"])))),
                metadata=draw(st.dictionaries(st.sampled_from(["k", "l"]), st.sampled_from([1, "1", None, [1]]))),
            )
            changes.append(created(revision, written, draw(st.sampled_from([ChangeType.CREATED, ChangeType.RESTORED]))))
        else:
            changes.append(removed(revision, number, draw(st.sampled_from([ChangeType.ARCHIVED, ChangeType.ERASED]))))
    return changes


filters = st.builds(
    Filter,
    kinds=st.frozensets(st.sampled_from(["fact", "observation"])),
    tags=st.frozensets(st.sampled_from(["x", "y"])),
    actors=st.frozensets(st.sampled_from(["Alice", "Bob"])),
    sessions=st.frozensets(st.sampled_from(["s1", "s2"])),
    occurred_from=st.none() | st.just(document(3, "").occurred_at),
    occurred_to=st.none() | st.just(document(5, "").occurred_at),
    metadata=st.dictionaries(st.just("k"), st.sampled_from([1, "1", None]), max_size=1),
)


def modelled(history: list[Change]) -> dict[str, Document]:
    """What is active after all changes."""
    active: dict[str, Document] = {}
    for change in history:
        if change.document is None:
            active.pop(change.memory_id, None)
        else:
            active[change.memory_id] = change.document
    return active


def matches(document: Document, wanted: Filter) -> bool:
    """The meaning of a filter, one document at a time."""
    return (
        (not wanted.kinds or document.kind in wanted.kinds)
        and wanted.tags <= set(document.tags)
        and (not wanted.actors or document.actor in wanted.actors)
        and (not wanted.sessions or document.session in wanted.sessions)
        and (wanted.occurred_from is None or document.occurred_at >= wanted.occurred_from)
        and (wanted.occurred_to is None or document.occurred_at < wanted.occurred_to)
        and all(key in document.metadata and document.metadata[key] == value for key, value in wanted.metadata.items())
    )


def applied(history: list[Change], sizes: list[int]) -> SpaceIndex:
    """An index to which the history came in batches of these sizes, the last one repeated."""
    index, start, turn = space(), 0, 0
    while start < len(history):
        size = sizes[turn % len(sizes)]
        index.apply(history[start : start + size])
        start, turn = start + size, turn + 1
    return index


@settings(deadline=None, max_examples=60)
@given(histories(), st.lists(st.integers(1, 9), min_size=1, max_size=4), filters)
def test_it_holds_and_filters_what_the_model_does(history: list[Change], sizes: list[int], wanted: Filter) -> None:
    index, active = applied(history, sizes), modelled(history)
    assert index.applied_revision == len(history)
    assert index.size == len(active)
    assert {hit.memory_id for hit in index.search("tea", 100)} == set(active)
    expected = {name for name, written in active.items() if matches(written, wanted)}
    assert {hit.memory_id for hit in index.search("What did Alice say about tea?", 100, wanted)} == expected


@settings(deadline=None, max_examples=40)
@given(histories(), st.lists(st.integers(1, 9), min_size=1, max_size=4), st.data())
def test_replays_batches_and_restarts_make_no_difference(
    history: list[Change], sizes: list[int], data: st.DataObject
) -> None:
    plain, disturbed = applied(history, [100]), applied(history, sizes)
    disturbed.apply(history[: data.draw(st.integers(0, len(history)))])
    restarted = restored(disturbed.state())
    restarted.apply(history)
    for query in ("tea", "What did Alice say?", "Biscuit 40", "!"):
        expected = plain.search(query, 100)
        for other in (disturbed, restarted):
            hits = other.search(query, 100)
            assert [hit.memory_id for hit in hits] == [hit.memory_id for hit in expected]
            assert all(abs(hit.relevance - same.relevance) < 1e-5 for hit, same in zip(hits, expected, strict=True))


@settings(deadline=None, max_examples=40)
@given(histories(), st.integers(1, 8), filters, TEXTS)
def test_results_are_ordered_bounded_explained_and_as_many_as_there_can_be(
    history: list[Change], limit: int, wanted: Filter, query: str
) -> None:
    index, active = applied(history, [7]), modelled(history)
    hits = index.search(query, limit, wanted)
    assert len(hits) == min(limit, sum(matches(written, wanted) for written in active.values()))
    assert [hit.memory_id for hit in hits] == [hit.memory_id for hit in index.search(query, 100, wanted)][:limit]
    for hit in hits:
        assert 0 <= hit.relevance <= 1
        assert abs(sum(part.contribution for part in hit.components) - hit.relevance) < 1e-9
    assert all(first.relevance >= second.relevance - 2e-6 for first, second in pairwise(hits))


@given(st.integers(0, 10**6))
def test_time_is_kept_to_the_microsecond(number: int) -> None:
    happened = document(number, "").occurred_at
    assert microseconds(happened) - microseconds(START) == number * 3_600_000_000
    assert memory_id(number) != memory_id(number + 1)
