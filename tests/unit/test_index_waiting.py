"""Memories that wait for their vectors; questions that are remembered; models that are never mixed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.index_space import STEMS, created, document, encoder, memory_id, removed

from mnemo_index.domain.documents import State
from mnemo_index.domain.encoder import AbsentEncoder
from mnemo_index.domain.models import Encoders, Model, parse
from mnemo_index.domain.query_cache import QueryCache, cached
from mnemo_index.domain.space_index import SpaceIndex
from mnemo_index.domain.waiting_texts import WaitingTexts
from mnemo_index.storage.hamming_scan import hamming_distances
from mnemocore.errors import InvalidSettingError, PeerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mnemo_index.domain.documents import Change

TEXTS = ["green tea", "not 40 but 50 euros", "a dog called Biscuit", "tea for the dog", "chess", ""]
QUERIES = ("tea", "the dog", "What is 50 euros?", "!", "nothing in common")


def index(exact_rows: int = 50_000, *, deferred: bool = True, most_bytes: int = 1 << 20) -> SpaceIndex:
    waiting = WaitingTexts(most_bytes)
    return SpaceIndex(encoder(), STEMS, hamming_distances, exact_rows, deferred=deferred, waiting=waiting)


def encode_all(space: SpaceIndex) -> None:
    while space.encode_some():
        pass


changes = st.lists(
    st.tuples(st.integers(1, 8), st.sampled_from(TEXTS), st.sampled_from([State.ACTIVE, State.ARCHIVED, None])),
    min_size=1,
    max_size=30,
)


def history(drawn: list[tuple[int, str, State | None]]) -> list[Change]:
    return [
        removed(revision, number)
        if state is None
        else created(revision, document(number, text, session="s", ordinal=number), state)
        for revision, (number, text, state) in enumerate(drawn, 1)
    ]


@settings(max_examples=60)
@given(changes, st.sets(st.integers(0, 30)), st.sampled_from([2, 50_000]))
def test_it_makes_no_difference_when_memories_are_encoded(
    drawn: list[tuple[int, str, State | None]], steps: set[int], exact_rows: int
) -> None:
    at_once, later = index(exact_rows, deferred=False), index(exact_rows)
    for step, change in enumerate(history(drawn)):
        at_once.apply([change])
        later.apply([change])
        if step in steps:
            encode_all(later)
        if step % 7 == 0:
            state = later.state()
            waiting = WaitingTexts()
            later = SpaceIndex.restored(
                state, encoder(), STEMS, hamming_distances, exact_rows, deferred=True, waiting=waiting
            )
            later.supply(history(drawn))
    encode_all(later)
    assert later.waiting == 0
    for query in QUERIES:
        expected, found = at_once.search(query, 10), later.search(query, 10)
        assert [hit.memory_id for hit in found] == [hit.memory_id for hit in expected]
        assert [hit.relevance for hit in found] == pytest.approx([hit.relevance for hit in expected], abs=1e-5)
    assert [each.memory_id for each in later.similar("green tea", 5, 0.0)] == [
        each.memory_id for each in at_once.similar("green tea", 5, 0.0)
    ]


def test_what_waits_is_found_by_words_and_near_nothing() -> None:
    space = index()
    space.apply([created(n, document(n, text)) for n, text in enumerate(TEXTS, 1)])
    assert (space.waiting, space.waiting_texts, space.size) == (6, 6, 6)
    assert space.search("Biscuit", 1)[0].memory_id == memory_id(3)
    assert {part.name for hit in space.search("tea dog", 9) for part in hit.components} == {"lexical"}
    assert space.similar("green tea", 9, 0.0) == []
    assert space.near_duplicates(0.5, 9) == ([], False)


def test_only_so_many_texts_are_kept_and_the_others_can_be_brought() -> None:
    space = index(most_bytes=30)
    written = [created(n, document(n, text)) for n, text in enumerate(TEXTS, 1)]
    space.apply(written)
    assert (space.waiting, space.has_texts_enough) == (6, True)
    while space.waiting:
        assert space.encode_some() or space.supply(written) > 0
    assert {each.memory_id for each in space.similar("chess", 1, 0.9)} == {memory_id(5)}


def test_a_vector_that_comes_too_late_is_not_given() -> None:
    space = index()
    space.apply([created(1, document(1, "green tea")), created(2, document(2, "chess"))])
    made = space.made_vectors()
    assert made is not None
    space.apply([created(3, document(1, "a dog")), removed(4, 2)])
    space.give_vectors(made)
    assert (space.waiting, space.similar("green tea", 9, 0.5)) == (1, [])
    encode_all(space)
    assert [each.memory_id for each in space.similar("a dog", 9, 0.9)] == [memory_id(1)]


class Renamed:
    """The encoder of the product under another name."""

    model = "another"
    dimension = 256

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return encoder().encode(texts)

    def encode_weighted(self, words: Sequence[str], weights: Sequence[float]) -> NDArray[np.float32]:
        return encoder().encode_weighted(words, weights)


def test_vectors_of_two_models_are_never_compared() -> None:
    one, other = index(), SpaceIndex(Renamed(), STEMS, hamming_distances)
    one.apply([created(1, document(1, "green tea"))])
    other.apply([created(1, document(1, "green tea"))])
    made = one.made_vectors()
    assert made is not None
    with pytest.raises(ValueError, match="'another'"):
        other.give_vectors(made)
    with pytest.raises(ValueError, match="'another'"):
        other.answer(one.ask("tea"), 1)
    with pytest.raises(ValueError, match="'another'"):
        SpaceIndex.restored(other.state(), encoder(), STEMS, hamming_distances)


def test_without_its_encoder_a_space_is_searched_by_words() -> None:
    written = index(deferred=False)
    written.apply([created(1, document(1, "green tea")), created(2, document(2, "black coffee"))])
    absent = AbsentEncoder(encoder().model, 256, "it was removed")
    space = SpaceIndex.restored(written.state(), absent, STEMS, hamming_distances, deferred=True)
    space.apply([created(3, document(3, "tea again"))])
    assert space.ask("tea").by_words_only
    assert {hit.memory_id for hit in space.search("tea", 2)} == {memory_id(1), memory_id(3)}
    assert (space.waiting, space.waiting_texts, space.encodable) == (1, 0, False)
    with pytest.raises(PeerUnavailableError, match="it was removed"):
        space.similar("tea", 1, 0.0)
    assert absent.encode([]).shape == (0, 256)


def test_questions_are_remembered_up_to_a_bound() -> None:
    outcomes: list[bool] = []
    cache = QueryCache(2, outcomes.append)
    remembering = cached(encoder(), cache)
    for words, weights in (
        (["tea"], [1.0]),
        (["tea"], [1.0]),
        (["tea", "dog"], [1.0, 2.0]),
        (["tea", "dog"], [2.0, 1.0]),
    ):
        found = remembering.encode_weighted(words, weights)
        assert np.array_equal(found, encoder().encode_weighted(words, weights))
    assert outcomes == [False, True, False, False]
    assert len(cache) == 2
    remembering.encode_weighted(["tea"], [1.0])
    assert (cache.hits, cache.misses, len(cache)) == (1, 4, 2)
    other = cached(Renamed(), cache)
    other.encode_weighted(["tea"], [1.0])
    assert cache.misses == 5


def test_a_failure_is_not_remembered() -> None:
    cache = QueryCache()
    absent = cached(AbsentEncoder("gone", 4, "gone"), cache)
    for _ in range(2):
        with pytest.raises(PeerUnavailableError):
            absent.encode_weighted(["tea"], [1.0])
    assert (cache.misses, len(cache)) == (2, 0)


def test_many_threads_share_the_cache() -> None:
    cache = QueryCache(8)
    remembering, started = cached(encoder(), cache), threading.Barrier(4)

    def ask(seed: int) -> None:
        started.wait(20)
        for number in range(200):
            word = str((number * seed) % 12)
            assert np.array_equal(remembering.encode_weighted([word], [1.0]), encoder().encode([word])[0])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(ask, (1, 5, 7, 11)))
    assert cache.hits + cache.misses == 800
    assert len(cache) <= 8


def test_an_encoder_is_opened_again_only_if_it_is_still_the_same() -> None:
    def model(name: str) -> Model:
        return Model(name, "id", "v", 256, "0" * 64, "wordllama")

    encoders = Encoders(encoder(), known=[model("older"), model(encoder().model)], reopen=lambda known: encoder())
    assert encoders.of(encoder().model, 256) is encoders.chosen
    assert isinstance(encoders.of("older", 256), AbsentEncoder)
    assert isinstance(encoders.of("never heard of", 3), AbsentEncoder)
    assert (encoders.knows("older"), encoders.openable("older"), encoders.openable(encoder().model)) == (
        True,
        False,
        True,
    )


@pytest.mark.parametrize(
    "setting", ["", "openai", "openai:", "sentence-transformers:", "openai:https:///v1#m", "WordLlama"]
)
def test_a_setting_that_names_no_encoder_is_refused(setting: str) -> None:
    with pytest.raises(InvalidSettingError, match="allowed is"):
        parse(setting)


@pytest.mark.parametrize("exact_rows", [0, 50_000])
def test_an_index_from_a_state_has_nothing_in_common_with_the_one_it_was_taken_of(exact_rows: int) -> None:
    written = [created(number, document(number, text)) for number, text in enumerate(TEXTS, 1)]
    space = index(exact_rows)
    space.apply(written)
    before = space.search("tea", 10)
    waiting = WaitingTexts(1 << 20)
    other = SpaceIndex.restored(
        space.state(), encoder(), STEMS, hamming_distances, exact_rows, deferred=True, waiting=waiting
    )
    other.supply(written)
    encode_all(other)
    assert other.waiting < space.waiting
    assert space.search("tea", 10) == before
    assert not space.state().arrays["vectors"].any()
