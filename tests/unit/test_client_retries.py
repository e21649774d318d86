"""The pauses and the budget of retries."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mnemocore.client.freshness import Freshness
from mnemocore.client.retries import RetryBudget, pause_after, worth_retrying
from mnemocore.errors import (
    CircuitOpenError,
    DeadlineExceededError,
    IndexLaggingError,
    NotFoundError,
    PeerUnavailableError,
)


@given(attempts=st.integers(1, 50))
def test_pauses_double_up_to_two_seconds(attempts: int) -> None:
    assert 0 <= pause_after(PeerUnavailableError(target="t"), attempts) <= min(2.0, 0.1 * 2 ** (attempts - 1))


def test_the_server_may_name_the_pause() -> None:
    assert pause_after(PeerUnavailableError(target="t", retry_after=7), 1) == 7


def test_only_what_may_pass_is_tried_again() -> None:
    assert worth_retrying(PeerUnavailableError(target="t"))
    assert worth_retrying(IndexLaggingError(space="s", wanted="2", applied="1"))
    assert not worth_retrying(CircuitOpenError(target="t"))
    assert not worth_retrying(DeadlineExceededError())
    assert not worth_retrying(NotFoundError("x"))


@given(st.lists(st.booleans(), max_size=400))
def test_retries_stay_below_a_tenth_of_the_calls_and_the_reserve(wanted: list[bool]) -> None:
    budget = RetryBudget()
    retries = 0
    for calls, wants_retry in enumerate(wanted, start=1):
        budget.deposit()
        if wants_retry:
            retries += budget.withdraw()
        assert retries <= 10 + calls * 0.1 + 1e-6
        assert 0 <= budget.tokens <= 100


@given(st.data())
def test_a_read_always_asks_for_every_write_that_was_answered(data: st.DataObject) -> None:
    """Writes overlap in any way; the store numbers them in any order in which each falls between begin and answer."""
    freshness = Freshness()
    revision = 0
    newest_answered = 0
    under_way: list[tuple[object, int]] = []
    for step in data.draw(st.lists(st.sampled_from(["begin", "answer", "read"]), max_size=40)):
        if step == "begin":
            revision += 1  # committed as soon as it is sent; answered whenever
            under_way.append((freshness.begin_write(), revision))
        elif step == "answer" and under_way:
            write, number = under_way.pop(data.draw(st.integers(0, len(under_way) - 1)))
            write.answered(str(number))  # type: ignore[attr-defined]
            newest_answered = max(newest_answered, number)
        elif step == "read":
            requirement = freshness.requirement()
            if requirement is None:
                assert newest_answered == 0
            elif not requirement.fully_consistent:
                assert int(requirement.at_least_as_fresh.value) >= newest_answered
            freshness.note_read(str(revision), freshness.answered)
