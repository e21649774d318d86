"""The checker of histories finds each kind of broken promise, and nothing in a history that keeps them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.event_history import Delivered, History, Published, Settled, violations

if TYPE_CHECKING:
    from collections.abc import Callable


def whole() -> History:
    """Two tenants, a key of three events each, one event whose publisher never heard, one that nobody can do."""
    history = History(poison=frozenset({"poison"}))
    for offset, tenant in ((0, "acme"), (10, "other")):
        history.published += [
            Published(id, tenant, "k", f"content of {id}", offset + place, offset + place + 0.5, offset + place)
            for place, id in enumerate(("a", "b", "c"), 1)
        ]
        history.delivered += [given(tenant, offset + place, id) for place, id in enumerate(("a", "b", "c"), 1)]
        history.settled += [Settled(tenant, offset + place, 1) for place in (1, 2, 3)]
        history.effects[tenant] = ["a", "b", "c"]
    history.published.append(Published("poison", "acme", "k", "content of poison", 3.1, 3.2, 4))
    history.delivered += [replace(given("acme", 4, "poison"), attempt=attempt) for attempt in (1, 2)]
    history.dead["acme"] = [4]
    history.published.append(Published("unheard", "acme", "k", "content of unheard", 3.3, 9.0, None))
    return history


def given(tenant: str, position: int, id: str, member: str = "m1") -> Delivered:
    return Delivered(member, tenant, position, id, tenant, f"content of {id}", attempt=1)


def test_a_history_that_keeps_every_promise_has_no_violations() -> None:
    assert violations(whole()) == []
    assert violations(History()) == []


def test_what_is_allowed_is_no_violation() -> None:
    history = whole()
    history.delivered.append(given("acme", 5, "unheard"))  # it was stored after all
    history.effects["acme"].append("unheard")
    history.delivered.append(replace(given("acme", 1, "a", "m2"), attempt=1))  # the same attempt, from before
    history.settled.remove(Settled("acme", 2, 1))
    history.delivered.append(replace(given("acme", 2, "b", "m2"), attempt=2))  # its lease was over
    assert violations(history) == []


def test_a_dead_letter_that_is_replayed_and_done_is_no_violation() -> None:
    history = whole()
    history.poison = frozenset()
    history.dead = {}
    history.published.append(Published("d", "acme", "k", "content of d", 4.0, 4.5, 6))
    history.delivered += [given("acme", 6, "d"), replace(given("acme", 4, "poison"), attempt=3, replayed=True)]
    history.effects["acme"] += ["d", "poison"]
    assert violations(history) == []


def lost(history: History) -> None:
    history.effects["acme"].remove("b")


def doubled(history: History) -> None:
    history.effects["acme"].append("c")


def stored_twice(history: History) -> None:
    history.delivered.append(given("acme", 7, "a"))


def one_position_for_two(history: History) -> None:
    history.delivered.append(replace(given("other", 12, "a"), id="b", content="content of b", position=11))


def before_its_cause(history: History) -> None:
    history.published[0] = replace(history.published[0], began=2.6, ended=2.9)


def never_published(history: History) -> None:
    history.delivered.append(given("acme", 8, "ghost"))


def another_content(history: History) -> None:
    history.delivered.append(replace(given("acme", 1, "a"), content="something else"))


def foreign_delivery(history: History) -> None:
    history.delivered.append(replace(given("acme", 11, "a"), event_tenant="other"))


def foreign_effect(history: History) -> None:
    history.effects["other"].append("unheard")


def out_of_order(history: History) -> None:
    history.effects["other"] = ["b", "a", "c"]


def out_of_order_at_the_end(history: History) -> None:
    history.effects["other"] = ["a", "c", "b"]


def done_again(history: History) -> None:
    history.delivered.append(replace(given("acme", 3, "c", "m2"), attempt=2))


def dead_without_cause(history: History) -> None:
    history.dead["other"] = [12]


def dead_and_never_delivered(history: History) -> None:
    history.dead["other"] = [19]


def dead_twice(history: History) -> None:
    history.dead["acme"] = [4, 4]


def poison_lost(history: History) -> None:
    history.dead = {}


def poison_done(history: History) -> None:
    history.effects["acme"].append("poison")


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lost, "event b of acme was acknowledged and never done"),
        (doubled, "event c of acme was done more than once"),
        (stored_twice, "event a of acme has several positions: [1, 7]"),
        (one_position_for_two, "position 11 is of several events: [('other', 'a'), ('other', 'b')]"),
        (before_its_cause, "event a lies before one that was in the log before it was published"),
        (never_published, "event ghost of acme was delivered and never published"),
        (another_content, "event a of acme was delivered with another content"),
        (foreign_delivery, "m1 of acme was given event a of other"),
        (foreign_effect, "other did event unheard, which it never published"),
        (out_of_order, "of key k of other event b was done before a, which lies before it"),
        (out_of_order_at_the_end, "of key k of other event c was done before b, which lies before it"),
        (done_again, "event c of acme was settled as attempt 1 and given to m2 as attempt 2"),
        (dead_without_cause, "event b of other is a dead letter and could be done"),
        (dead_and_never_delivered, "position 19 of other is a dead letter and was never delivered"),
        (dead_twice, "position 4 of acme is a dead letter more than once"),
        (poison_lost, "event poison of acme cannot be done and is no dead letter"),
        (poison_done, "event poison of acme cannot be done and was"),
    ],
)
def test_a_broken_promise_is_found(broken: Callable[[History], None], said: str) -> None:
    history = whole()
    broken(history)
    assert said in violations(history)
