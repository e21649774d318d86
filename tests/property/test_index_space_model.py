"""An index against a model: whatever is applied, in whatever batches, it holds and filters what a dictionary would."""

from __future__ import annotations

import asyncio
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.index_space import START, created, document, encoder, memory_id, removed, restored, space
from tests.services.test_index_projection import CountingEncoder, Log, Spaces

from mnemo_index.domain.documents import ACTIVE, Change, Document, Filter, State, microseconds
from mnemo_index.domain.projection import Projection
from mnemo_index.domain.space_index import SpaceIndex
from mnemo_index.storage.snapshots import SnapshotStore
from mnemocore.ids import MemoryId, SpaceUid
from mnemocore.testing.clock import ManualClock
from mnemocore.testing.waiting import until

NUMBERS = st.integers(1, 6)
TEXTS = st.sampled_from(
    ["green tea", "a dog called Biscuit", "", "???", "\u6771\u4eac", "not 40 but 50", "tea tea tea"]
)
ACTORS = st.sampled_from(["", "Alice", "Bob"])


MOMENTS = st.sampled_from([START + timedelta(hours=hour) for hour in range(5)])
STATES = (State.ACTIVE, State.ARCHIVED, State.SUPERSEDED, State.EXPIRED, State.UNKNOWN)


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """A document in any state; its place in a session is its number."""
    number = draw(NUMBERS)
    written = document(
        number,
        draw(TEXTS),
        kind=draw(st.sampled_from(["fact", "observation"])),
        actor=draw(ACTORS),
        session=draw(st.sampled_from(["", "s1", "s2"])),
        ordinal=number,
        tags=tuple(draw(st.sets(st.sampled_from(["x", "y"])))),
        metadata=draw(st.dictionaries(st.sampled_from(["k", "l"]), st.sampled_from([1, "1", None, [1]]))),
    )
    return replace(
        written,
        state=draw(st.sampled_from((State.ACTIVE, *STATES))),
        created_at=draw(MOMENTS),
        valid_from=draw(st.none() | MOMENTS),
        valid_to=draw(st.none() | MOMENTS),
        expires_at=draw(st.none() | st.none() | MOMENTS),
        importance=draw(st.sampled_from([0.0, 0.3, 0.5, 1.0])),
        modality=draw(st.integers(1, 3)),
    )


@st.composite
def histories(draw: st.DrawFn) -> list[Change]:
    """Changes with revisions 1, 2, 3 ... as memory-core commits them."""
    changes: list[Change] = []
    for revision in range(1, draw(st.integers(1, 25)) + 1):
        turn = draw(st.integers(0, 3))
        before = draw(st.sampled_from(changes)).document if changes else None
        if turn == 0:
            changes.append(removed(revision, draw(NUMBERS)))
        elif turn == 1 and before is not None:  # it changes its state and nothing else
            changes.append(created(revision, before, draw(st.sampled_from(STATES))))
        else:
            changes.append(created(revision, draw(documents())))
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
    valid_at=st.none() | MOMENTS,
    created_from=st.none() | MOMENTS,
    created_to=st.none() | MOMENTS,
    min_importance=st.none() | st.sampled_from([0.0, 0.3, 0.31, 1.0]),
    modalities=st.frozensets(st.integers(1, 4)),
    states=st.just(ACTIVE) | st.frozensets(st.sampled_from([*STATES, State.ERASED]), min_size=1),
    now=st.none() | MOMENTS,
)


def modelled(history: list[Change]) -> dict[str, Document]:
    """What is held after all changes."""
    held: dict[str, Document] = {}
    for change in history:
        if change.document is None:
            held.pop(change.memory_id, None)
        else:
            held[change.memory_id] = change.document
    return held


def active(held: dict[str, Document]) -> set[str]:
    """Those that are found by who asks for nothing in particular."""
    return {name for name, written in held.items() if written.state is State.ACTIVE}


def state_at(written: Document, wanted: Filter) -> State:
    """The state at the time a filter is about."""
    over = written.expires_at is not None and wanted.now is not None and written.expires_at <= wanted.now
    return State.EXPIRED if over and written.state is not State.ARCHIVED else written.state


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
        and (wanted.created_from is None or document.created_at >= wanted.created_from)
        and (wanted.created_to is None or document.created_at < wanted.created_to)
        and (wanted.valid_at is None or document.valid_from is None or document.valid_from <= wanted.valid_at)
        and (wanted.valid_at is None or document.valid_to is None or wanted.valid_at < document.valid_to)
        and (wanted.min_importance is None or document.importance >= wanted.min_importance)
        and (not wanted.modalities or document.modality in wanted.modalities)
        and state_at(document, wanted) in wanted.states
    )


def applied(history: list[Change], sizes: list[int]) -> SpaceIndex:
    """An index to which the history came in batches of these sizes, the last one repeated."""
    index, start, turn = space(), 0, 0
    while start < len(history):
        size = sizes[turn % len(sizes)]
        index.apply(history[start : start + size])
        start, turn = start + size, turn + 1
    return index


@settings(max_examples=60)
@given(histories(), st.lists(st.integers(1, 9), min_size=1, max_size=4), filters)
def test_it_holds_and_filters_what_the_model_does(history: list[Change], sizes: list[int], wanted: Filter) -> None:
    index, held = applied(history, sizes), modelled(history)
    assert index.applied_revision == len(history)
    assert index.size == len(active(held))
    assert {hit.memory_id for hit in index.search("tea", 100)} == active(held)
    expected = {name for name, written in held.items() if matches(written, wanted)}
    assert {hit.memory_id for hit in index.search("What did Alice say about tea?", 100, wanted)} == expected
    assert {each.memory_id for each in index.similar("tea", 100, 0.0, wanted)} <= expected
    pairs, _ = index.near_duplicates(0.5, 100, wanted)
    assert {each for pair in pairs for each in (pair.first, pair.second)} <= expected


STEPS = st.lists(st.sampled_from(["apply", "apply", "look", "save", "crash", "restart"]), min_size=3, max_size=10)


@settings(max_examples=25)
@given(st.lists(histories(), min_size=2, max_size=3), STEPS, filters, st.data())
def test_nothing_else_is_found_across_evictions_saves_and_restarts(
    several: list[list[Change]], steps: list[str], wanted: Filter, data: st.DataObject
) -> None:
    ends = [
        data.draw(st.lists(st.integers(0, len(each)), min_size=len(steps), max_size=len(steps))) for each in several
    ]
    encoder()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as executor:
        asyncio.run(_live(several, steps, ends, wanted, Path(folder), executor))


async def _live(
    several: list[list[Change]],
    steps: list[str],
    ends: list[list[int]],
    wanted: Filter,
    folder: Path,
    executor: ThreadPoolExecutor,
) -> None:
    """The life of an index with room for one space at most: each step is done, then some space is asked."""
    spaces, log, done = [SpaceUid(memory_id(n)) for n in range(len(several))], Log(4), [0] * len(several)
    projection, follower = await _started(log, folder, executor)
    for turn, step in enumerate([*steps, "look"]):
        if step == "apply":
            for number, history in enumerate(several):
                end = max(done[number], ends[number][turn])
                await log.append(spaces[number], *history[done[number] : end])
                done[number] = end
        elif step == "save":
            await projection.save()
        elif step in ("crash", "restart"):
            if step == "restart":
                await projection.save()
            await _ended(follower)
            projection, follower = await _started(log, folder, executor)
        await until(lambda projection=projection: projection.applied_position == len(log.changes_kept))
        for number, history in enumerate(several):
            if step == "apply" and number == turn % 2:
                continue  # its changes wait
            held = modelled(history[: done[number]])
            index = await projection.at_revision(spaces[number], done[number])
            assert index is None or isinstance(index, SpaceIndex)
            expected = {name for name, each in held.items() if matches(each, wanted)}
            assert {hit.memory_id for hit in (index.search("tea", 100, wanted) if index else [])} == expected
    await _ended(follower)


async def _ended(follower: asyncio.Task[None]) -> None:
    follower.cancel()
    await asyncio.wait([follower])


async def _started(log: Log, folder: Path, executor: ThreadPoolExecutor) -> tuple[Projection, asyncio.Task[None]]:
    store = await asyncio.to_thread(SnapshotStore, folder)
    clock = ManualClock()
    projection = Projection(Spaces(CountingEncoder()), store, log, clock, executor, lambda _: None, budget=1)
    await projection.load()
    return projection, asyncio.create_task(projection.follow())


@settings(max_examples=60)
@given(histories(), st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_active_memories_rank_as_if_the_others_were_not_there(history: list[Change], sizes: list[int]) -> None:
    index, alone = applied(history, sizes), space()
    newest = {change.memory_id: change for change in history}
    alone.apply([newest[MemoryId(name)] for name in sorted(active(modelled(history)))])
    for query in ("tea", "What did Alice say?", "Biscuit 40", "!"):
        assert index.search(query, 100) == alone.search(query, 100)


@settings(max_examples=60)
@given(histories(), filters, TEXTS, st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]), st.integers(1, 8))
def test_similar_ones_are_those_with_the_greatest_cosines(
    history: list[Change], wanted: Filter, text: str, least: float, limit: int
) -> None:
    index, held = applied(history, [5]), modelled(history)
    matching = {name: written.content for name, written in held.items() if matches(written, wanted)}
    query, *vectors = encoder().encode([text, *matching.values()])
    cosines = {name: float(query @ vector) for name, vector in zip(matching, vectors, strict=True)}
    found = index.similar(text, limit, least, wanted)
    assert all(abs(each.similarity - max(0.0, cosines[each.memory_id])) < 1e-3 for each in found)
    assert all(first.similarity >= second.similarity for first, second in pairwise(found))
    certain = [name for name, cosine in cosines.items() if cosine >= least + 1e-3]
    possible = [name for name, cosine in cosines.items() if cosine >= least - 1e-3]
    assert {each.memory_id for each in found} <= set(possible)
    assert min(limit, len(certain)) <= len(found) <= limit
    if len(possible) <= limit:
        assert set(certain) <= {each.memory_id for each in found}


@settings(max_examples=40)
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


@settings(max_examples=40)
@given(histories(), st.integers(1, 8), filters, TEXTS)
def test_results_are_ordered_bounded_explained_and_as_many_as_there_can_be(
    history: list[Change], limit: int, wanted: Filter, query: str
) -> None:
    index, held = applied(history, [7]), modelled(history)
    hits = index.search(query, limit, wanted)
    assert len(hits) == min(limit, sum(matches(written, wanted) for written in held.values()))
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
