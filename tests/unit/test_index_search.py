"""What a search of one space finds, in which order, and why."""

from __future__ import annotations

import math
import random
import threading
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.index_space import (
    START,
    STEMS,
    created,
    document,
    encoder,
    filled,
    found,
    memory_id,
    removed,
    restored,
    space,
)

from mnemo_index.domain.documents import Change, Filter, State
from mnemo_index.domain.space_index import SpaceIndex
from mnemo_index.storage.hamming_scan import hamming_distances
from mnemocore.errors import InvalidFieldError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from mnemo_index.domain.search import Hit

FACTS = (
    "I moved to Lisbon in March",
    "My sister plays the violin in an orchestra",
    "The invoice of the plumber was paid",
    "We adopted a dog called Biscuit from the shelter",
    "The quarterly report is due on Friday",
)


def parts(hit: Hit) -> dict[str, float]:
    return {part.name: part.contribution for part in hit.components}


@pytest.mark.parametrize(
    ("query", "best"),
    [
        ("Where do I live since I moved?", 1),
        ("Which musical instrument does my sister play?", 2),
        ("puppy", 4),
        ("when do I have to hand in the report", 5),
    ],
)
def test_it_finds_by_words_and_by_meaning(query: str, best: int) -> None:
    assert found(filled(*FACTS), query)[0] == best


def test_contributions_sum_to_a_relevance_between_0_and_1() -> None:
    index = space()
    turns = ["Alice: I bought a telescope", "Bob: what did you see?", "Alice: Saturn through my telescope"]
    index.apply(
        [
            created(n, document(n, text, actor=text.split(":")[0], session="s", ordinal=n))
            for n, text in enumerate(turns, 1)
        ]
    )
    hits = index.search("What did Alice see through the telescope?", 10)
    for hit in hits:
        assert 0 <= hit.relevance <= 1
        assert sum(part.contribution for part in hit.components) == pytest.approx(hit.relevance, abs=1e-9)
        assert all(part.weight * part.value == pytest.approx(part.contribution, abs=1e-9) for part in hit.components)
    assert set(parts(hits[0])) == {"semantic", "lexical", "speaker", "neighbours", "answer"}


@pytest.mark.parametrize("now", [None, START + timedelta(days=60)])
def test_contributions_sum_to_the_relevance_also_of_a_question_that_names_days(now: datetime | None) -> None:
    index = space()
    turns = ["Where to in January?", "To Oslo [a photo of a fjord]", "And the day after? [a map]", "Home by train"]
    index.apply([created(n, document(n, text, session="s", ordinal=n)) for n, text in enumerate(turns, 1)])
    hits = index.search("Where did they go in January 2024, by train?", 10, Filter(now=now))
    assert {name for hit in hits for name in parts(hit)} == {"semantic", "lexical", "neighbours", "answer", "date"}
    for hit in hits:
        assert math.fsum(part.contribution for part in hit.components) == pytest.approx(hit.relevance, abs=1e-9)
        assert all(part.weight * part.value == pytest.approx(part.contribution, abs=1e-9) for part in hit.components)


def happened(*days: int) -> SpaceIndex:
    """Memories with one text, each so many days after the start of 2024."""
    index = space()
    index.apply(
        [
            created(n, replace(document(n, "We had tea"), occurred_at=START + timedelta(days=day)))
            for n, day in enumerate(days, 1)
        ]
    )
    return index


@pytest.mark.parametrize(
    ("query", "order"),
    [
        ("What did we have on 2 February 2024?", [2, 3]),
        ("What did we have on 3 February 2024?", [3, 2]),
        ("What did we have in March?", [5, 4]),
        ("What did we have a week after 25 January 2024?", [2]),
        ("What did we have last month?", [3, 2]),
        ("What did we have yesterday?", [5]),
        ("What did we have?", [5, 4, 3, 2, 1]),
    ],
)
def test_what_happened_when_the_question_says_comes_first(query: str, order: list[int]) -> None:
    index = happened(0, 32, 33, 65, 75)
    for either in (index, restored(index.state())):
        hits = either.search(query, 10, Filter(now=START + timedelta(days=76)))
        assert [int(hit.memory_id[-12:], 16) for hit in hits][: len(order)] == order


def test_without_a_now_the_latest_memory_is_today() -> None:
    hits = happened(0, 10, 11).search("What did we have yesterday?", 1)
    assert [hit.memory_id for hit in hits] == [memory_id(2)]


def test_days_that_all_memories_are_of_say_little() -> None:
    few, many_days = happened(*[1] * 100, 40), happened(*range(0, 1000, 10), 40)
    common = parts(few.search("tea on 2 January 2024", 1)[0])["date"]
    rare = parts(many_days.search("tea on 10 February 2024", 1)[0])["date"]
    assert rare > 4 * common > 0


def test_what_follows_a_question_is_its_answer() -> None:
    index = space()
    talk = ["Fine.", "Where is the telescope?", "In the shed", "Which telescope", "In the attic"]
    index.apply([created(n, document(n, text, session=f"s{n > 3}", ordinal=n)) for n, text in enumerate(talk, 1)])
    hits = {hit.memory_id: parts(hit) for hit in index.search("telescope", 10)}
    assert [n for n in range(1, 6) if "answer" in hits[memory_id(n)]] == [3]


def test_a_question_counts_a_little_less_than_a_statement() -> None:
    index = filled("My telescope is blue!", "My telescope is blue?", "My telescope is blue? [a photo]")
    first, *others = index.search("telescope blue", 3)
    assert first.memory_id == memory_id(1)
    assert [hit.memory_id for hit in others] == [memory_id(2), memory_id(3)]
    assert 0.9 < others[0].relevance / first.relevance < 1


def test_an_unrelated_question_gets_little_relevance() -> None:
    index = filled(*FACTS)
    related = index.search("Where did I move in March?", 1)[0].relevance
    unrelated = index.search("chromosome replication enzymes", 1)[0].relevance
    assert related > 0.5
    assert unrelated < 0.2


def test_a_word_for_word_question_is_nearly_certain() -> None:
    assert filled(*FACTS).search(FACTS[1], 1)[0].relevance > 0.7


def test_there_are_limit_results_whenever_so_many_memories_match() -> None:
    index = filled(*FACTS)
    assert len(index.search("zzz qqq", 3)) == 3
    assert len(index.search("???", 10)) == 5
    assert len(index.search("moved", 1)) == 1
    assert space().search("anything", 5) == []
    with pytest.raises(InvalidFieldError, match="limit: is 0"):
        index.search("anything", 0)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40, 63, 64, 65])
def test_equal_texts_come_newest_first(count: int) -> None:
    index = filled(*["Alice said the same words again"] * count)
    assert found(index, "which words were the same?", count) == list(range(count, 0, -1))
    assert found(index, "which words were the same?", 2) == list(range(count, 0, -1))[:2]


def test_neighbours_in_the_session_help_and_strangers_do_not() -> None:
    index = space()
    talk = ["Did you get the telescope?", "Yes, last week!", "Great", "Lovely", "Fine"]
    index.apply(
        [created(n, document(n, text, session="s", ordinal=n)) for n, text in enumerate(talk, 1)]
        + [created(n, document(n, "Yes, last week!", session="other", ordinal=1)) for n in (6,)]
    )
    hits = {hit.memory_id: hit for hit in index.search("telescope", 10)}
    shares = [parts(hits[memory_id(n)]).get("neighbours", 0.0) for n in (2, 3, 4, 5, 6)]
    assert shares[0] > shares[1] > shares[2] > 0
    assert shares[3] < 0.01
    assert shares[4] == 0.0


def test_neighbours_close_the_gap_when_one_between_them_goes() -> None:
    index = space()
    talk = ["the telescope", "mm", "nn", "oo", "pp"]
    index.apply([created(n, document(n, text, session="s", ordinal=n * 10)) for n, text in enumerate(talk, 1)])
    before = parts(index.search("telescope", 5, Filter())[1])["neighbours"]
    index.apply([removed(6, 2)])
    hits = {hit.memory_id: hit for hit in index.search("telescope", 5)}
    assert parts(hits[memory_id(3)])["neighbours"] == pytest.approx(before, abs=0.02)
    index.apply([created(7, document(2, "mm", session="s", ordinal=20))])
    hits = {hit.memory_id: hit for hit in index.search("telescope", 5)}
    assert parts(hits[memory_id(2)])["neighbours"] > parts(hits[memory_id(3)])["neighbours"]


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("What does Alice like?", {1}),
        ("What does alice's friend like?", {1}),
        ("What do Alice and Bob like?", set()),
        ("What does Smith like?", set()),
        ("What does Carol Smith like?", {3}),
        ("What does anybody like?", set()),
        ("Will it rain?", set()),
    ],
)
def test_the_one_actor_whom_the_question_names_gets_a_bonus(query: str, named: set[int]) -> None:
    index = space()
    actors = ["Alice", "Bob", "Carol Smith", "Dan Smith", "Will"]
    index.apply([created(n, document(n, "I like tea", actor=actor)) for n, actor in enumerate(actors, 1)])
    rewarded = {int(hit.memory_id[-12:], 16) for hit in index.search(query, 10) if "speaker" in parts(hit)}
    assert rewarded == named


def test_filters() -> None:
    index = space()
    index.apply(
        [
            created(
                1, document(1, "tea", kind="fact", actor="Alice", session="s1", tags=("a", "b"), metadata={"n": 1})
            ),
            created(2, document(2, "tea", kind="fact", actor="Bob", session="s1", tags=("a",), metadata={"n": 1.0})),
            created(3, document(3, "tea", kind="preference", actor="Bob", session="s2", metadata={"n": True})),
            created(4, document(4, "tea", session="s2", tags=("b",), metadata={"n": "1", "deep": {"x": [1, None]}})),
        ]
    )

    def matching(wanted: Filter) -> set[int]:
        return {int(hit.memory_id[-12:], 16) for hit in index.search("tea", 10, wanted)}

    hour = timedelta(hours=1)
    assert matching(Filter()) == {1, 2, 3, 4}
    assert matching(Filter(kinds=frozenset({"fact"}))) == {1, 2}
    assert matching(Filter(kinds=frozenset({"summary"}))) == set()
    assert matching(Filter(tags=frozenset({"a", "b"}))) == {1}
    assert matching(Filter(actors=frozenset({"Bob", "Nobody"}))) == {2, 3}
    assert matching(Filter(actors=frozenset({"bob"}))) == set()
    assert matching(Filter(sessions=frozenset({"s1"}), actors=frozenset({"Bob"}))) == {2}
    assert matching(Filter(occurred_from=START + 2 * hour, occurred_to=START + 4 * hour)) == {2, 3}
    assert matching(Filter(metadata={"n": 1})) == {1, 2}
    assert matching(Filter(metadata={"n": True})) == {3}
    assert matching(Filter(metadata={"n": "1", "deep": {"x": [1.0, None]}})) == {4}
    assert matching(Filter(metadata={"deep": {"x": [1]}})) == set()
    assert matching(Filter(tags=frozenset({"n"}))) == set()


def test_relevance_does_not_depend_on_the_filter_without_sessions() -> None:
    index = space()
    index.apply([created(n, document(n, text, tags=(f"t{n}",))) for n, text in enumerate(FACTS, 1)])
    everywhere = {hit.memory_id: hit.relevance for hit in index.search("the dog Biscuit", 5)}
    (alone,) = index.search("the dog Biscuit", 5, Filter(tags=frozenset({"t4"})))
    assert alone.relevance == pytest.approx(everywhere[memory_id(4)], abs=1e-6)


def test_changes_are_applied_once_and_never_backwards() -> None:
    index = space()
    first, second = created(1, document(1, "old text")), created(2, document(1, "new text"))
    index.apply([first])
    assert index.applied_revision == 1
    index.apply([second])
    index.apply([first, second])
    assert (index.applied_revision, index.size) == (2, 1)
    assert index.search("new", 1)[0].components != index.search("old", 1)[0].components
    index.apply([removed(3, 1)])
    index.apply([first, second])
    assert (index.applied_revision, index.size) == (3, 0)
    index.apply([created(4, document(1, "back"))])
    assert found(index, "back") == [1]
    index.apply([removed(5, 1)])
    assert index.search("back", 1) == []


def test_revisions_ahead_of_a_gap_count_when_it_closes() -> None:
    index = space()
    index.apply([removed(3, 1), created(4, document(2, "tea"))])
    assert index.applied_revision == 0
    index.apply([created(1, document(1, "late")), created(2, document(2, "older tea"))])
    assert index.applied_revision == 4
    assert found(index, "tea") == [2]
    assert index.search("tea", 1)[0].relevance > 0.5


def test_publishing_again_changes_nothing_but_the_revision() -> None:
    index = filled(*FACTS)
    before = index.search("violin", 5)
    index.apply([created(5 + n, document(n, text)) for n, text in enumerate(FACTS, 1)])
    assert index.search("violin", 5) == before
    assert index.applied_revision == 10
    assert len(index.state().lists["ids"]) == 5


def test_dead_rows_leave() -> None:
    index = space()
    revision = 0
    for turn in range(8):
        index.apply(
            [created(revision + n, document(n, f"text {n} of turn {turn}", tags=("t",))) for n in range(1, 301)]
        )
        revision += 300
    assert index.size == 300
    assert len(index.state().lists["ids"]) < 1700
    assert found(index, "text 7 of turn 7")[0] == 7
    assert len(index.search("text", 1000, Filter(tags=frozenset({"t"})))) == 300


class EncoderThatFailsOnce:
    """The encoder of the product behind a connection that breaks at the first batch."""

    def __init__(self) -> None:
        self.calls = 0
        self.model, self.dimension = encoder().model, encoder().dimension
        self.encode_weighted = encoder().encode_weighted

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.calls += 1
        if self.calls == 1:
            raise ConnectionError
        return encoder().encode(texts)


def test_a_failing_encoder_applies_nothing() -> None:
    index = SpaceIndex(EncoderThatFailsOnce(), STEMS, hamming_distances)
    with pytest.raises(ConnectionError):
        index.apply([created(1, document(1, "tea"))])
    assert (index.applied_revision, index.size) == (0, 0)
    index.apply([created(1, document(1, "tea"))])
    assert found(index, "tea") == [1]


def test_a_document_that_cannot_be_read_applies_nothing() -> None:
    index = filled("green tea")
    wrong = replace(document(2, "chess"), occurred_at=START.replace(tzinfo=None))
    with pytest.raises(TypeError):
        index.apply([removed(2, 1), created(3, wrong)])
    assert (index.applied_revision, found(index, "tea")) == (1, [1])


def many(count: int) -> list[Change]:
    draw = random.Random(11)
    vocabulary = [f"{a}{b}{c}" for a in "bdfglmnprst" for b in "aeiou" for c in ("ck", "nd", "rm", "st", "lly", "ver")]
    weights = [1 / rank for rank in range(1, len(vocabulary) + 1)]
    changes = []
    for number in range(1, count + 1):
        content = " ".join(draw.choices(vocabulary, weights, k=draw.randrange(4, 20)))
        session, ordinal = divmod(number, 25)
        actor = draw.choice(["Alice", "Bob", "Carol"])
        changes.append(created(number, document(number, content, actor=actor, session=f"s{session}", ordinal=ordinal)))
    return changes


@pytest.mark.parametrize("state", [State.ARCHIVED, State.SUPERSEDED, State.EXPIRED, State.UNKNOWN])
def test_active_memories_rank_as_if_the_others_were_not_there(state: State) -> None:
    index, alone = space(), space()
    changes = many(400)
    left = [
        each for each in changes if each.document and (each.revision % 5 in (1, 3) or each.document.actor == "Carol")
    ]
    index.apply(changes)
    index.apply([replace(change, revision=400 + n) for n, change in enumerate(rested(left, state), 1)])
    alone.apply([change for change in changes if change not in left])
    queries = [change.document.content[:30] for change in changes[::20] if change.document]
    for query in [*queries, "What did Alice say to Carol?", "What did Carol say?"]:
        assert index.search(query, 20) == alone.search(query, 20)
    again = restored(index.state())
    assert again.search(queries[0], 20) == alone.search(queries[0], 20)
    index.apply([replace(change, revision=1000 + n) for n, change in enumerate(left, 1)])
    whole = space()
    newest = {change.memory_id: change for change in changes}
    newest |= {change.memory_id: replace(change, revision=1000 + n) for n, change in enumerate(left, 1)}
    whole.apply(list(newest.values()))
    for query in queries:
        assert index.search(query, 20) == whole.search(query, 20)


def rested(changes: Sequence[Change], state: State) -> list[Change]:
    """The changes, each with its document in another state."""
    return [created(change.revision, change.document, state) for change in changes if change.document]


def test_memories_that_are_not_active_are_found_by_who_asks_for_them() -> None:
    index = filled(*FACTS)
    index.apply([created(6, document(4, FACTS[3]), State.ARCHIVED)])
    archived = Filter(states=frozenset({State.ARCHIVED}))
    assert 4 not in found(index, "the dog Biscuit")
    (hit,) = index.search("the dog Biscuit", 10, archived)
    assert hit.memory_id == memory_id(4)
    assert hit.relevance > 0.5
    assert {part.name for part in hit.components} == {"semantic", "lexical"}


def test_a_memory_expires_by_the_hour() -> None:
    index = filled(*FACTS)
    mortal = replace(document(4, FACTS[3]), expires_at=START)
    index.apply([created(6, mortal)])
    before, then = Filter(now=START - timedelta(microseconds=1)), Filter(now=START)
    expired = frozenset({State.EXPIRED})
    assert len(index.search("dog", 10, before)) == 5
    assert len(index.search("dog", 10, then)) == 4
    assert [hit.memory_id for hit in index.search("dog", 10, replace(then, states=expired))] == [memory_id(4)]
    assert index.search("dog", 10, replace(before, states=expired)) == []
    index.apply([created(7, replace(mortal, expires_at=None))])
    assert len(index.search("dog", 10, then)) == 5


def test_an_actor_without_active_memories_does_not_hide_another() -> None:
    index = space()
    index.apply([created(1, document(1, "tea", actor="Alice")), created(2, document(2, "tea", actor="Alice Smith"))])
    assert [hit.memory_id for hit in index.search("Alice Smith", 2) if "speaker" in parts(hit)] == [memory_id(2)]
    index.apply([created(3, document(2, "tea", actor="Alice Smith"), State.ARCHIVED)])
    for either in (index, restored(index.state())):
        assert [hit.memory_id for hit in either.search("Alice Smith", 2) if "speaker" in parts(hit)] == [memory_id(1)]


def test_sketches_lose_next_to_nothing() -> None:
    changes = many(12_000)
    exact, sketched = space(), space(exact_rows=2000)
    for start in range(0, len(changes), 1000):
        exact.apply(changes[start : start + 1000])
        sketched.apply(changes[start : start + 1000])
    assert len(sketched.state().arrays["sketches"]) == 12_000
    assert len(exact.state().arrays["sketches"]) == 0
    queries = [change.document.content[:40] for change in changes[::200] if change.document]
    shares = []
    for query in [*queries, "What did Alice say about barm?"]:
        best = {hit.memory_id for hit in exact.search(query, 10)}
        shares.append(len(best & {hit.memory_id for hit in sketched.search(query, 10)}) / 10)
    assert np.mean(shares) >= 0.95
    wanted = Filter(actors=frozenset({"Bob"}))
    assert len(sketched.search("barm", 500, wanted)) == 500
    assert {hit.memory_id for hit in sketched.search("barm", 10, wanted)} == {
        hit.memory_id for hit in exact.search("barm", 10, wanted)
    }


def test_readers_and_a_writer_together() -> None:
    index, changes, failures = space(), many(3000), list[Exception]()
    done = threading.Event()

    def read() -> None:
        try:
            while not done.is_set():
                size = index.size
                hits = index.search("What did Alice say about barm?", 20)
                assert len(hits) >= min(size, 20)
                assert len({hit.memory_id for hit in hits}) == len(hits)
        except Exception as error:  # noqa: BLE001 - reported by the test
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for start in range(0, len(changes), 100):
        index.apply(changes[start : start + 100])
    for turn in range(2):  # new rows for all, so that dead ones pile up and leave
        for start in range(0, 3000, 300):
            batch = changes[start : start + 300]
            index.apply(
                [
                    created(change.revision + 3000 * (turn + 1), document(change.revision, f"turn {turn}"))
                    for change in batch
                ]
            )
    done.set()
    for reader in readers:
        reader.join()
    assert failures == []
    assert index.size == 3000


def test_a_state_of_another_model_is_refused() -> None:
    state = filled("tea").state()
    foreign = type(state)("other/model", state.applied_revision, (), {}, state.lists, state.arrays)
    with pytest.raises(ValueError, match="'other/model'"):
        restored(foreign)
    assert found(restored(state), "tea") == [1]


def test_a_phrase_is_a_bonus_and_no_filter() -> None:
    index = filled("the sky is green today and blue", "blue sky over the green sea", "an invoice", "sky, deep, blue")
    plain, quoted = index.search("green sky", 4), index.search('green sky "blue sky"', 4)
    assert {hit.memory_id for hit in plain} == {hit.memory_id for hit in quoted}
    assert quoted[0].memory_id == memory_id(2)
    (phrase,) = (part for part in quoted[0].components if part.name == "phrase")
    assert phrase.value == 1
    assert quoted[0].relevance == pytest.approx(sum(part.contribution for part in quoted[0].components))
    assert all(part.name != "phrase" for hit in quoted[1:] for part in hit.components)


def test_phrases_of_one_word_of_stop_words_or_with_one_mark_are_none() -> None:
    index = filled(*FACTS)
    for query in ('"Lisbon"', 'what "is it"', 'a 5" disk in Lisbon', '"" Lisbon', '"', '"\u201c"'):
        assert all(part.name != "phrase" for hit in index.search(query, 5) for part in hit.components)


def test_phrases_are_found_beyond_what_sketches_and_words_choose() -> None:
    draw = random.Random(5)
    texts = [" ".join(draw.choices(["amber", "birch", "cedar", "delta"], k=9)) for _ in range(3000)]
    texts.append(" ".join(["birch amber ember"] + ["fern"] * 40))
    index = space(exact_rows=200)
    for start in range(0, len(texts), 500):
        changes = [created(number + 1, document(number + 1, texts[number])) for number in range(start, len(texts))][
            :500
        ]
        index.apply(changes)
    (best,) = index.search('"birch amber ember" delta cedar', 1)
    assert best.memory_id == memory_id(3001)


def test_phrases_survive_a_snapshot_and_updates() -> None:
    index = filled("green tea with honey", "tea that is green", "coffee")
    index.apply([created(4, document(2, "honey tea")), removed(5, 1), created(6, document(9, "green tea again"))])
    for each in (index, restored(index.state())):
        hits = each.search('"green tea"', 5)
        assert [hit.memory_id for hit in hits if "phrase" in parts(hit)] == [memory_id(9)]
