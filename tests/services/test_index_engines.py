"""What every engine of the index promises: one suite, run on each of them.

Milvus stands here as milvus-lite. An engine that cannot be started is an error.
"""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.index_engines import Engines, LocalEngines, MilvusEngines
from tests.index_space import START, created, document, encoder, memory_id, removed, space
from tests.property.test_index_space_model import active, filters, histories, matches, modelled

from mnemo_index.domain.documents import Change, Filter, State
from mnemo_index.domain.words import Stems
from mnemo_index.storage.milvus_rows import LONGEST_TEXT, fitting, term_of, token, tokens
from mnemo_index.storage.milvus_store import MilvusStore
from mnemocore.errors import IndexRebuildingError, InvalidFieldError, InvalidSettingError, PeerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mnemo_index.domain.engine import SpaceEngine

ENGINES: dict[str, Callable[[Path], Engines]] = {"local": lambda folder: LocalEngines(), "milvus": MilvusEngines}
TEXTS = (
    "green tea in the morning",
    "a dog called Biscuit",
    "chess on Sundays",
    "the train to Lisbon leaves at 9",
    "not 40 but 50 euros",
    "tea is for the morning",
    "the dog ate the chess board",
)
QUERIES = ("tea", "What did Alice say about the dog?", "chess", "Lisbon", "50 euros", "!", "nothing in common")


@pytest.fixture(scope="module", params=ENGINES)
def engines(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    made = ENGINES[request.param](tmp_path_factory.mktemp(request.param))
    yield made
    made.close()


def written(*texts: str, first: int = 1) -> list[Change]:
    """Changes that bring texts, as turns of one session, spoken by two in turn."""
    return [
        created(number, document(number, text, actor=("Alice", "Bob")[number % 2], session="s", ordinal=number))
        for number, text in enumerate(texts, first)
    ]


def numbers(index: SpaceEngine, query: str, limit: int = 10, wanted: Filter | None = None) -> list[int]:
    """The numbers of the memories found, best first."""
    return [int(hit.memory_id[-12:], 16) for hit in index.search(query, limit, wanted or Filter())]


def answers(index: SpaceEngine) -> list[list[tuple[int, float]]]:
    """What is found for several queries: numbers and relevances."""
    return [
        [(int(hit.memory_id[-12:], 16), round(hit.relevance, 5)) for hit in index.search(query, 20)]
        for query in QUERIES
    ]


def filled(engines: Engines, *texts: str) -> SpaceEngine:
    """A space with these texts."""
    _, index = engines.new()
    index.apply(written(*texts))
    return index


def test_a_write_is_found_by_the_next_search(engines: Engines) -> None:
    _, index = engines.new()
    assert numbers(index, "tea") == []
    for number, text in enumerate(TEXTS, 1):
        index.apply(written(text, first=number))
        assert numbers(index, text)[0] == number
        assert (index.applied_revision, index.size) == (number, number)
    assert index.memory_bytes > 0


def test_changes_have_an_effect_once_and_in_order(engines: Engines) -> None:
    history = [
        *written(*TEXTS),
        created(8, document(1, "a boat called Kestrel", session="s", ordinal=1)),
        removed(9, 2),
        created(10, document(2, "a dog called Crumb")),
        removed(11, 3),
    ]
    _, plain = engines.new()
    plain.apply(history)
    _, disturbed = engines.new()
    disturbed.apply(history[3:8])
    disturbed.apply(history[:5])
    disturbed.apply(history[2:])
    disturbed.apply(history)
    disturbed.apply([history[0], history[2]])
    assert disturbed.applied_revision == plain.applied_revision == 11
    assert answers(disturbed) == answers(plain)
    assert disturbed.size == plain.size == 6
    assert disturbed.fingerprint() == plain.fingerprint()


def test_an_update_takes_the_place_of_what_was(engines: Engines) -> None:
    index = filled(engines, *TEXTS)
    index.apply([created(8, document(1, "a boat called Kestrel"))])
    assert numbers(index, "Kestrel")[0] == 1
    assert index.search("green", 10)[0].relevance < 0.2
    assert index.size == len(TEXTS)


def test_what_was_removed_is_not_found(engines: Engines) -> None:
    index = filled(engines, *TEXTS)
    index.apply([removed(8, 3), removed(9, 99)])
    assert 3 not in numbers(index, "chess")
    assert index.size == 6
    assert {each.memory_id for each in index.similar("chess", 10, 0.0)}.isdisjoint({memory_id(3)})


def test_states_and_expiry_decide_at_once_and_keep_the_place(engines: Engines) -> None:
    index = filled(engines, *TEXTS)
    before = answers(index)
    tea = replace(written(TEXTS[0])[0].document or document(1, ""), expires_at=START + timedelta(days=1))
    index.apply([created(8, tea, State.ARCHIVED), created(9, replace(tea, memory_id=memory_id(50)))])
    now = START + timedelta(days=2)
    assert 1 not in numbers(index, "tea")
    assert numbers(index, "tea", 9, Filter(states=frozenset({State.ARCHIVED}), now=now)) == [1]
    assert 50 in numbers(index, "tea", 9, Filter(now=START))
    assert 50 not in numbers(index, "tea", 9, Filter(now=now))
    assert numbers(index, "tea", 9, Filter(states=frozenset({State.EXPIRED}), now=now)) == [50]
    index.apply([removed(10, 50), created(11, replace(tea, expires_at=None))])
    assert answers(index) == before


@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(histories(), st.lists(st.integers(1, 9), min_size=1, max_size=4), filters, st.integers(1, 8))
def test_it_holds_filters_and_ranks_what_the_model_does(
    engines: Engines, history: list[Change], sizes: list[int], wanted: Filter, limit: int
) -> None:
    _, index = engines.new()
    start = turn = 0
    while start < len(history):
        size = sizes[turn % len(sizes)]
        index.apply(history[start : start + size])
        start, turn = start + size, turn + 1
    held = modelled(history)
    assert index.applied_revision == len(history)
    assert index.size == len(active(held))
    expected = {name for name, each in held.items() if matches(each, wanted)}
    hits = index.search("What did Alice say about tea?", 100, wanted)
    assert {hit.memory_id for hit in hits} == expected
    assert index.search("What did Alice say about tea?", limit, wanted) == hits[:limit]
    assert {each.memory_id for each in index.similar("tea", 100, 0.0, wanted)} <= expected
    pairs, _ = index.near_duplicates(0.5, 100, wanted)
    assert {each for pair in pairs for each in (pair.first, pair.second)} <= expected
    reference = space()
    reference.apply(history)
    assert index.fingerprint() == reference.fingerprint()
    same = reference.search("What did Alice say about tea?", 100, wanted)
    assert [hit.memory_id for hit in hits] == [hit.memory_id for hit in same]
    assert all(abs(hit.relevance - other.relevance) < 1e-5 for hit, other in zip(hits, same, strict=True))


FILTERS: dict[str, tuple[Filter, set[int]]] = {
    "kinds": (Filter(kinds=frozenset({"fact"})), {1, 4}),
    "tags": (Filter(tags=frozenset({"x", "y"})), {2}),
    "actors": (Filter(actors=frozenset({'O"Neill \\ \u6771', "Bob"})), {2, 3}),
    "sessions": (Filter(sessions=frozenset({"s' or 1 == 1"})), {3}),
    "occurred_from": (Filter(occurred_from=START + timedelta(hours=3)), {3, 4}),
    "occurred_to": (Filter(occurred_to=START + timedelta(hours=3)), {1, 2}),
    "metadata": (Filter(metadata={"place": {"city": "Porto"}, "n": 1.0}), {4}),
    "valid_at": (Filter(valid_at=START), {1, 3, 4}),
    "created_from": (Filter(created_from=START - timedelta(days=40_000)), {1, 2, 3, 4}),
    "created_to": (Filter(created_to=START), {1, 2, 3}),
    "min_importance": (Filter(min_importance=0.500000001), {4}),
    "modalities": (Filter(modalities=frozenset({2, 3})), {3}),
    "states": (Filter(states=frozenset({State.ARCHIVED, State.SUPERSEDED})), {5}),
    "now": (Filter(now=START + timedelta(days=9)), {1, 2, 4}),
    "several": (Filter(kinds=frozenset({"fact"}), tags=frozenset({"x"}), min_importance=0.1), {4}),
    "none": (Filter(actors=frozenset({"nobody"})), set()),
}


def one_of_everything() -> list[Change]:
    """Memories of which every filter chooses some."""
    documents = [
        document(1, "tea", kind="fact", actor="Alice"),
        replace(document(2, "tea", actor="Bob", tags=("x", "y")), valid_from=START + timedelta(days=1)),
        replace(
            document(3, "tea", actor='O"Neill \\ \u6771', session="s' or 1 == 1"),
            modality=3,
            expires_at=START + timedelta(days=8),
        ),
        replace(
            document(4, "tea", kind="fact", tags=("x",), metadata={"place": {"city": "Porto"}, "n": 1, "m": None}),
            importance=0.75,
            created_at=START,
        ),
        replace(document(5, "tea"), state=State.ARCHIVED),
    ]
    return [created(number, each) for number, each in enumerate(documents, 1)]


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_chooses_before_the_ranking(engines: Engines, name: str) -> None:
    _, index = engines.new()
    index.apply(one_of_everything())
    wanted, expected = FILTERS[name]
    assert set(numbers(index, "tea", 10, wanted)) == expected
    assert set(numbers(index, "tea", 1, wanted)) <= expected
    assert {int(each.memory_id[-12:], 16) for each in index.similar("tea", 10, 0.9, wanted)} == expected


def test_as_many_are_found_as_match_whatever_they_say(engines: Engines) -> None:
    _, index = engines.new()
    turns = ["???", "", *(f"word{number}" for number in range(400))]
    documents = [document(number, text, actor=str(number % 40)) for number, text in enumerate(turns, 1)]
    index.apply([created(number, each) for number, each in enumerate(documents, 1)])
    for limit, wanted, expected in (
        (1, Filter(), 1),
        (400, Filter(), 400),
        (1000, Filter(), 402),
        (5, Filter(actors=frozenset({"7"})), 5),
        (50, Filter(actors=frozenset({"7"})), 10),
    ):
        for query in ("Lisbon", "", "word7"):
            hits = index.search(query, limit, wanted)
            assert len({hit.memory_id for hit in hits}) == len(hits) == expected


def test_relevance_is_bounded_ordered_and_the_sum_of_its_parts(engines: Engines) -> None:
    index = filled(engines, *TEXTS)
    for query in QUERIES:
        hits = index.search(query, 10)
        assert all(0 <= hit.relevance <= 1 for hit in hits)
        assert all(first.relevance >= second.relevance - 2e-6 for first, second in pairwise(hits))
        for hit in hits:
            assert abs(sum(part.contribution for part in hit.components) - hit.relevance) < 1e-9
            assert all(abs(part.value * part.weight - part.contribution) < 1e-9 for part in hit.components)


def test_neighbours_and_the_named_speaker_count(engines: Engines) -> None:
    index = filled(engines, "what shall we do on Friday", "chess", "I like it", "the moon", "a map of Peru")
    parts = {hit.memory_id: {part.name for part in hit.components} for hit in index.search("Did Alice play chess?", 9)}
    assert {"lexical", "semantic"} <= parts[memory_id(2)]
    assert "neighbours" in parts[memory_id(1)]
    assert "neighbours" in parts[memory_id(3)]
    assert "speaker" in parts[memory_id(2)]
    assert "speaker" not in parts[memory_id(3)]


def test_the_days_that_are_named_count(engines: Engines) -> None:
    _, index = engines.new()
    changes = [created(number, document(number, f"note {number % 7}")) for number in range(1, 961)]
    for start in range(0, len(changes), 320):
        index.apply(changes[start : start + 320])
    hits = index.search("What happened on 20 January 2024?", 20)
    assert {int(hit.memory_id[-12:], 16) // 24 for hit in hits} <= {18, 19, 20}
    assert all("date" in {part.name for part in hit.components} for hit in hits)


def test_no_limit_is_refused(engines: Engines) -> None:
    with pytest.raises(InvalidFieldError, match="limit"):
        filled(engines, *TEXTS).search("tea", 0)


def test_spaces_do_not_meet(engines: Engines) -> None:
    _, mine = engines.new()
    _, theirs = engines.new()
    mine.apply([created(1, document(1, "green tea")), created(2, document(2, "a dog"))])
    theirs.apply([created(1, document(1, "black coffee", actor="Alice"))])
    assert numbers(mine, "tea") == [1, 2]
    assert numbers(theirs, "tea") == [1]
    theirs.apply([removed(2, 1)])
    assert numbers(theirs, "tea") == []
    assert numbers(mine, "tea") == [1, 2]
    _, alone = engines.new()
    alone.apply([created(1, document(1, "green tea")), created(2, document(2, "a dog"))])
    assert [hit.relevance for hit in mine.search("tea", 1)] == [hit.relevance for hit in alone.search("tea", 1)]


def test_of_a_forgotten_space_nothing_is_left(engines: Engines) -> None:
    kept = filled(engines, *TEXTS)
    uid, index = engines.new()
    index.apply(written(*TEXTS))
    state = index.state()
    engines.forget(uid)
    fresh = engines.again(uid)
    assert (fresh.size, fresh.applied_revision, numbers(fresh, "tea")) == (0, 0, [])
    if isinstance(engines, MilvusEngines):
        with pytest.raises(ValueError, match="up to revision 0"):
            engines.restored(uid, state)
    assert len(numbers(kept, "tea")) == len(TEXTS)


def test_a_space_that_is_built_anew_keeps_nothing_of_what_was(engines: Engines) -> None:
    uid, index = engines.new()
    index.apply(written(*TEXTS))
    anew = engines.again(uid)
    anew.apply(written("a boat called Kestrel"))
    assert numbers(anew, "tea") == [1]
    assert (anew.size, anew.applied_revision) == (1, 1)


def test_words_of_every_script_are_found(engines: Engines) -> None:
    texts = (
        "\u6771\u4eac\u30bf\u30ef\u30fc",
        "\u043c\u043e\u0441\u043a\u0432\u0430",
        "caf\u00e9 au lait",
        "\U0001f436 bark",
    )
    index = filled(engines, *texts, "3.14 is pi", "user_name@host", 'quo"te \\ back')
    for query, best in (
        ("\u4eac", 1),
        ("\u041c\u043e\u0441\u043a\u0432\u0430", 2),
        ("cafe", 3),
        ("\U0001f436", 4),
        ("3.14", 5),
        ("host", 6),
        ('"te', 7),
    ):
        hit = index.search(query, 1)[0]
        assert hit.memory_id == memory_id(best), query
        assert "lexical" in {part.name for part in hit.components}


def signals(index: SpaceEngine, query: str) -> dict[int, dict[str, float]]:
    """The values of the signals of each memory found, by its number."""
    hits = index.search(query, 50)
    return {int(hit.memory_id[-12:], 16): {part.name: part.value for part in hit.components} for hit in hits}


def apart(engines: Engines, *texts: str) -> SpaceEngine:
    """A space with these texts, in no session."""
    _, index = engines.new()
    index.apply([created(number, document(number, text)) for number, text in enumerate(texts, 1)])
    return index


def test_a_quoted_phrase_brings_those_that_have_it_first(engines: Engines) -> None:
    index = apart(
        engines,
        "a hole in the black fence, and the night was black, a small hole, black as coal",
        "the telescope showed us and the others at the table a black hole last night",
        "the hole was black and the second hole was blacker",
        "nothing of the kind",
        "black is the colour of the hole",
    )
    query = 'Who spoke of a "black hole"?'
    found = signals(index, query)
    assert numbers(index, query)[0] == 2
    assert {number: values["phrase"] for number, values in found.items() if "phrase" in values} == {2: 1.0}
    assert all("phrase" not in values for values in signals(index, "Who spoke of a black hole?").values())
    typographic = signals(
        index, "\u201eBlack holes\u201c or \u00abthe second hole\u00bb or \u201cthe colour of that hole\u201d"
    )
    third = pytest.approx(1 / 3)
    having = {number: values["phrase"] for number, values in typographic.items() if "phrase" in values}
    assert having == {2: third, 3: third, 5: third}


def test_a_star_stands_for_all_words_that_begin_so(engines: Engines) -> None:
    index = apart(
        engines,
        "she repaired the computer",
        "a computation that takes days",
        "the company moved to Porto",
        "a happy end, happiness all around",
        "nothing of the kind",
    )

    def worded(query: str) -> set[int]:
        return {number for number, values in signals(index, query).items() if "lexical" in values}

    assert worded("comput*") == {1, 2}
    assert worded("COMP*") == {1, 2, 3}
    assert worded("computers*") == {1, 2}
    assert worded("happiness*") == {4}
    assert worded("porto comput*") == {1, 2, 3}
    assert worded("zz*") == worded("c*") == set()
    assert signals(index, "comput*")[1]["lexical"] == pytest.approx(signals(index, "comput*")[2]["lexical"], rel=0.2)


@pytest.mark.parametrize(
    ("name", "partial"),
    [
        ("GPT-4", ("GPT in 4 weeks", "version 4 of GPT", "GPT-3 and 4 others", "4 and 4, GPT", "GPT")),
        ("B-52", ("B and 52", "52 B", "bus 52 to plan B", "B-1 for 52", "52")),
        ("v2.3.1", ("v2 and 3.1", "3.1 after v2", "v2.3.2", "v2", "2.3.1")),
        ("COVID-19", ("19 cases of COVID", "COVID in 19 towns", "COVID", "19")),
        ("x86_64", ("64 or x86", "x86 with 64", "x86", "64")),
        ("error 0x1F", ("error 0x1E", "error 1", "error", "1F")),
        ("RTX4090", ("RTX 3090", "4090", "RTX", "RTX4080")),
        ("I-95", ("95 people", "I am 95", "95", "I")),
        ("A-10", ("10 people", "a 10", "10", "A-1")),
        ("10.5mm", ("10 or 5mm", "5mm by 10", "5mm", "10")),
    ],
)
def test_a_name_with_digits_stands_before_what_has_its_parts(
    engines: Engines, name: str, partial: tuple[str, ...]
) -> None:
    texts = [f"they spoke about {each} for a while" for each in (*partial, name, *reversed(partial))]
    index = apart(engines, *texts)
    for query in (name, f"What was said about {name}?", name.lower()):
        first, second, *_ = index.search(query, 2)
        assert first.memory_id == memory_id(len(partial) + 1)
        assert first.relevance > second.relevance + 0.02


def test_a_name_is_found_with_and_without_its_sign(engines: Engines) -> None:
    index = apart(engines, "we bought a GPT4 licence", "GPT-4 is expensive", "4 licences", "nothing")
    for query in ("GPT4", "GPT-4", "gpt_4"):
        assert set(numbers(index, query, 2)) == {1, 2}


@pytest.mark.parametrize(
    ("language", "texts", "questions"),
    [
        (
            "german",
            ("Die Katzen schlafen im Haus", "Wir kauften drei H\u00fcte", "Der Zug nach Bremen ist versp\u00e4tet"),
            {"Katze": 1, "In welchen H\u00e4usern?": 1, "Wer kaufte einen Hut?": 2, "versp\u00e4tete Z\u00fcge": 3},
        ),
        (
            "russian",
            (
                "\u043a\u0443\u043f\u0438\u043b\u0438 \u043d\u043e\u0432\u0443\u044e \u043a\u043d\u0438\u0433\u0443",
                "\u043a\u043e\u0448\u043a\u0430 \u0441\u043f\u0438\u0442 \u043d\u0430 \u043e\u043a\u043d\u0435",
            ),
            {
                "\u043d\u043e\u0432\u044b\u0435 \u043a\u043d\u0438\u0433\u0438": 1,
                "\u043a\u043e\u0448\u043a\u0438": 2,
                "\u043e\u043a\u043d\u0430": 2,
            },
        ),
        (
            "none",
            (
                "\u6211\u5728\u5317\u4eac\u5927\u5b66\u5b66\u4e60",
                "\u5979\u559c\u6b22\u5927\u8c61\u548c\u5b66\u6821",
                "\u4ed6\u7684\u5c0f\u732b\u5728\u7761\u89c9",
                "\u4e0a\u6d77\u4eca\u5929\u4e0b\u96e8",
            ),
            {"\u5317\u4eac\u5927\u5b66\u5728\u54ea\u91cc": 1, "\u732b": 3, "\u4e0a\u6d77": 4, "\u5927\u8c61": 2},
        ),
    ],
)
def test_words_of_other_languages(
    engines: Engines, language: str, texts: tuple[str, ...], questions: dict[str, int]
) -> None:
    former, engines.stems = engines.stems, Stems(language)
    try:
        index = apart(engines, *texts)
    finally:
        engines.stems = former
    for question, expected in questions.items():
        values = {number: each.get("lexical", 0.0) for number, each in signals(index, question).items()}
        assert max(values, key=values.__getitem__) == expected
        assert values[expected] > 0


def test_a_long_text_is_found_by_any_of_its_words(engines: Engines) -> None:
    words = [f"w{number}" for number in range(9_000)]
    long = " ".join([*words, *words, "needle"])
    index = filled(engines, long, "something else", "needles are thin")
    for query in ("w0", "w8999", "needle"):
        hits = index.search(query, 3)
        assert "lexical" in {part.name for hit in hits if hit.memory_id == memory_id(1) for part in hit.components}


def test_a_long_text_that_leaves_takes_its_words_along(engines: Engines) -> None:
    index = filled(engines, "tea", " ".join(f"w{number % 20_000}" for number in range(25_000)))
    index.apply([removed(3, 2)])
    assert answers(index) == answers(filled(engines, "tea"))


def test_near_duplicates_say_the_same(engines: Engines) -> None:
    index = filled(engines, "the dog is asleep", "the dog is asleep now")
    assert index.near_duplicates(0.7, 10) == ([], False)  # they are of two speakers
    _, same = engines.new()
    texts = ("the dog is asleep", "tea at 4", "the dog is asleep now", "tea at 5", "the dog is not asleep")
    same.apply([created(number, document(number, text)) for number, text in enumerate(texts, 1)])
    pairs, more = same.near_duplicates(0.7, 10)
    assert [(pair.first, pair.second) for pair in pairs] == [(memory_id(1), memory_id(3))]
    assert not more


def test_a_restart_goes_on_where_it_was(engines: Engines) -> None:
    uid, index = engines.new()
    history = [*written(*TEXTS), removed(8, 3), created(9, document(1, "a boat called Kestrel"))]
    index.apply(history[:7])
    early, late = index.state(), index
    index.apply(history[7:])
    before, fingerprint = answers(index), index.fingerprint()
    late = index
    engines.restart()
    for state in (late.state(), early):
        again = engines.restored(uid, state)
        again.apply(history)
        assert (again.applied_revision, again.size) == (9, 6)
        assert answers(again) == before
        assert again.fingerprint() == fingerprint
    again.apply([created(10, document(10, "a tea house"))])
    assert 10 in numbers(again, "tea")


STRATEGIES: dict[str, Callable[[Path], Engines]] = {
    "local": lambda folder: LocalEngines(),
    "local by sketches": lambda folder: LocalEngines(exact_rows=500),
    "milvus": MilvusEngines,
}


SYLLABLES = ("gar", "den", "ri", "ver", "en", "gine", "let", "ter", "win", "dow", "mar", "ket", "sil", "plan", "cop")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_ten_best_are_those_of_an_exact_search(strategy: str, tmp_path: Path) -> None:
    chosen = random.Random(7)
    vocabulary = ["".join(chosen.choices(SYLLABLES, k=3)) for _ in range(1_500)]
    texts = [" ".join(chosen.choices(vocabulary, k=9)) for _ in range(1_200)]
    changes = [
        created(number, document(number, text, session=f"s{number // 30}", ordinal=number % 30))
        for number, text in enumerate(texts, 1)
    ]
    exact = space()
    exact.apply(changes)
    engines = STRATEGIES[strategy](tmp_path)
    try:
        _, index = engines.new()
        for start in range(0, len(changes), 500):
            index.apply(changes[start : start + 500])
        queries = [" ".join(chosen.sample(text.split(), 4)) for text in chosen.sample(texts, 12)]
        recalled = [
            len({hit.memory_id for hit in index.search(query, 10)} & {hit.memory_id for hit in exact.search(query, 10)})
            for query in queries
        ]
        similar = [
            len(
                {each.memory_id for each in index.similar(text, 10, 0.0)}
                & {each.memory_id for each in exact.similar(text, 10, 0.0)}
            )
            for text in queries
        ]
    finally:
        engines.close()
    assert np.mean(recalled) / 10 >= 0.95
    assert np.mean(similar) / 10 >= 0.95


def test_a_store_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    engines = MilvusEngines(tmp_path)
    _, index = engines.new()
    index.apply(written(*TEXTS))
    engines.close()
    for question in (
        lambda: index.search("tea", 3),
        lambda: index.similar("tea", 3, 0.0),
        lambda: index.near_duplicates(0.5, 3),
        lambda: index.apply(written("more", first=8)),
    ):
        with pytest.raises(PeerUnavailableError, match=r"milvus at .* does not answer"):
            question()
    assert (index.applied_revision, index.size) == (7, 7)


def test_a_failed_write_is_made_good_by_the_same_changes(tmp_path: Path) -> None:
    engines = MilvusEngines(tmp_path)
    try:
        uid, index = engines.new()
        history = [*written(*TEXTS), removed(8, 3)]
        index.apply(history[:4])
        book = engines.store.book(uid)
        index.apply(history[4:])
        expected = answers(index)
        assert book is not None
        # As if the process had ended between the rows and the note on how far they are.
        engines.store.write(uid, [], [], book)
        again = engines.restored(uid, replace(index.state(), applied_revision=4))
        assert again.applied_revision == 4
        again.apply(history)
        assert answers(again) == expected
        assert again.size == 6
        with pytest.raises(IndexRebuildingError):
            index.search("tea", 1)
    finally:
        engines.close()


def test_vectors_of_another_model_are_not_kept(tmp_path: Path) -> None:
    engines = MilvusEngines(tmp_path)
    uid, index = engines.new()
    index.apply(written(*TEXTS))
    engines.close()
    for model, left in ((encoder().model, True), ("another", False)):
        store = MilvusStore.open(str(tmp_path / "milvus.db"), "", model, encoder().dimension)
        assert (store.book(uid) is not None) == left
        store.close()


@pytest.mark.parametrize("uri", ["", "localhost", "ftp://host", "/data/milvus", "https://me:secret@host:19530"])
def test_an_address_that_is_none_is_refused(uri: str) -> None:
    with pytest.raises(InvalidSettingError, match="milvus_uri") as refused:
        MilvusStore.open(uri, "", "model", 8)
    assert "secret" not in str(refused.value)


def test_nothing_that_answers_is_said_so() -> None:
    with pytest.raises(PeerUnavailableError, match="does not answer"):
        MilvusStore.open("http://127.0.0.1:1", "", "model", 8)


@given(st.lists(st.text(min_size=1, max_size=70), max_size=30))
def test_tokens_are_whole_for_every_analyzer_and_told_apart(terms: list[str]) -> None:
    made = [token(term) for term in terms]
    assert all(each.isascii() and each.isalnum() and each.islower() | each.isdigit() for each in made)
    assert len(set(made)) == len(set(terms))
    assert tokens(map(term_of, made)) == made
    assert all(term_of(each) == term for each, term in zip(made, terms, strict=True) if len(term.encode()) <= 6)
    assert fitting(made) == made


@given(st.integers(1, 20_000))
def test_a_long_text_keeps_every_word_once_before_any_twice(size: int) -> None:
    made = [f"w{number}" for number in range(size)] * 2
    kept = fitting(made)
    assert len(" ".join(kept)) <= LONGEST_TEXT
    assert len(set(kept)) == min(size, len(kept))
    assert set(kept) <= set(made)
    assert [int(each[1:]) for each in kept] == [*range(len(set(kept))), *range(len(kept) - len(set(kept)))]
