"""The generated world of the recall benchmark: the same for a seed, with every answer in it."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from benchmarks import world_words
from benchmarks.people import Answer, ask_bm25, ask_in_process, ask_product, figures, table
from benchmarks.world import LEAST_MEMORIES, Kind, Question, World, generate

from mnemo_index.domain.words import Stems, words
from mnemocore import connect

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.world_words import Relation

RELATIONS = world_words.PERSON + world_words.PROJECT + world_words.COMPANY


@pytest.fixture(scope="module")
def world() -> World:
    return generate(2_000, 50, seed=3)


def terms(templates: tuple[str, ...]) -> set[str]:
    """The stemmed words of templates, without those that say nothing and without what is filled in."""
    stems = Stems()
    return {term for text in templates for term in stems.terms(words(re.sub(r"\{.*?\}", " ", text)))}


@pytest.mark.parametrize("relation", RELATIONS, ids=lambda relation: relation.name)
def test_a_rephrased_question_shares_no_word_with_any_statement(relation: Relation) -> None:
    assert terms(relation.rephrased) & terms(relation.statements) == set()


@pytest.mark.parametrize("relation", RELATIONS, ids=lambda relation: relation.name)
def test_every_direct_question_shares_a_word_with_some_statement(relation: Relation) -> None:
    assert all(terms((question,)) & terms(relation.statements) for question in relation.direct)


def test_the_same_seed_gives_the_same_world(world: World) -> None:
    assert generate(2_000, 50, seed=3) == world
    assert generate(2_000, 50, seed=4) != world


@pytest.mark.parametrize("memories", [LEAST_MEMORIES, 128, 137, 500, 3_001])
def test_a_world_has_exactly_so_many_facts_each_with_its_own_key_in_the_order_of_time(memories: int) -> None:
    facts = generate(memories, 5, seed=1).facts
    assert len(facts) == len({fact.key for fact in facts}) == memories
    assert all(earlier.at <= later.at for earlier, later in pairwise(facts))


def test_a_world_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="memories is 109; allowed is at least 110"):
        generate(109, 5, seed=1)


def test_there_are_so_many_questions_of_each_kind_and_all_evidence_is_there(world: World) -> None:
    keys = {fact.key for fact in world.facts}
    assert Counter(question.kind for question in world.questions) == dict.fromkeys(Kind, 50)
    for question in world.questions:
        assert question.answer in question.evidence
        assert question.evidence | question.outdated <= keys
        assert not question.evidence & question.outdated
        assert len(question.evidence) == (2 if question.kind is Kind.TWO_HOP else 1)
        assert bool(question.outdated) == (question.kind in (Kind.RECORDED, Kind.UNRECORDED))


def test_the_answer_after_updates_is_the_newest_fact_and_the_others_led_to_it(world: World) -> None:
    facts = {fact.key: fact for fact in world.facts}
    for question in world.questions:
        if not question.outdated:
            continue
        chain = [facts[question.answer]]
        while chain[-1].replaces:
            assert chain[-1].recorded == (question.kind is Kind.RECORDED)
            chain.append(facts[chain[-1].replaces])
        assert {fact.key for fact in chain[1:]} == question.outdated
        assert all(newer.at > older.at for newer, older in pairwise(chain))
        assert question.answer not in {fact.replaces for fact in world.facts}


def test_nothing_but_a_question_after_an_update_is_about_a_fact_that_was_replaced(world: World) -> None:
    replaced = {fact.replaces for fact in world.facts if fact.replaces}
    changed = replaced | {fact.key for fact in world.facts if fact.replaces}
    for question in world.questions:
        assert not question.evidence & replaced
        if not question.outdated:
            assert not question.evidence & changed


def test_an_answer_is_said_once(world: World) -> None:
    said = Counter(fact.text for fact in world.facts)
    texts = {fact.key: fact.text for fact in world.facts}
    assert {said[texts[question.answer]] for question in world.questions} == {1}


def test_a_method_is_measured_by_what_it_found() -> None:
    update = Question(Kind.UNRECORDED, "?", "new", frozenset({"new"}), frozenset({"old"}))
    hops = Question(Kind.TWO_HOP, "?", "second", frozenset({"first", "second"}))
    misled = Answer(update, ("other", "old", "new"))
    lost = Answer(update, ("old",))
    right = Answer(update, ("new", "old"))
    half = Answer(hops, ("first",))

    assert [answer.hit for answer in (misled, lost, right, half)] == [False, False, True, False]
    assert [answer.misled for answer in (misled, lost, right, half)] == [True, True, False, False]
    assert [answer.recall for answer in (misled, lost, right, half)] == [1, 0, 1, 0.5]
    assert Answer(update, ()).misled is False
    assert list(table({"Mine": figures([misled, lost, right, half])})) == [
        "                         questions   hit@1    R@10  outdated above",
        "Mine                             4   0.250   0.625",
        "  update, not recorded           3   0.333   0.667           0.667",
        "  two hops                       1   0.000   0.500",
    ]


async def test_all_methods_answer_and_the_product_never_finds_what_was_superseded(tmp_path: Path) -> None:
    world = generate(200, 5, seed=5)
    async with connect(f"embedded:{tmp_path}") as mnemo:
        product, times = await ask_product(mnemo, world)

    assert len(times) == len(product) == len(world.questions)
    superseded = {fact.replaces for fact in world.facts if fact.recorded}
    assert superseded
    assert not superseded & {key for answer in product for key in answer.found}
    in_process = await asyncio.to_thread(ask_in_process, world)
    for answers in (product, ask_bm25(world), in_process):
        assert [answer.question for answer in answers] == list(world.questions)
        assert figures(answers)["all"]["recall_at_10"] > 0.5
