"""The circuit breaker against its rules, with a clock that is turned by hand."""

from __future__ import annotations

import asyncio
import gc
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mnemocore.client.breaker import BreakerRule, BreakerState, CircuitBreaker, Outcome, Permit
from mnemocore.errors import CircuitOpenError


class HandClock:
    """A clock that goes only when it is told to."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.time, UTC)

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds
        await asyncio.sleep(0)


def breaker_of(clock: HandClock, **rule: Any) -> tuple[CircuitBreaker, list[BreakerState]]:
    changes: list[BreakerState] = []
    return CircuitBreaker("db:1", clock, BreakerRule(**rule), changes.append), changes


def state_of(breaker: CircuitBreaker) -> BreakerState:
    return breaker.state  # through a function, so that the type checker does not take it for a constant


def admitted(breaker: CircuitBreaker) -> Permit:
    permit = breaker.admit()
    assert permit is not None
    return permit


def fail(breaker: CircuitBreaker, times: int) -> None:
    for _ in range(times):
        admitted(breaker).settle(Outcome.FAILURE)


def test_it_opens_after_five_failures_in_a_row_and_says_when_to_come_back() -> None:
    clock = HandClock()
    breaker, changes = breaker_of(clock)
    fail(breaker, 4)
    admitted(breaker).settle(Outcome.SUCCESS)
    fail(breaker, 4)
    assert state_of(breaker) is BreakerState.CLOSED
    fail(breaker, 1)
    assert state_of(breaker) is BreakerState.OPEN
    clock.time += 12
    with pytest.raises(CircuitOpenError) as caught:
        breaker.admit()
    assert caught.value.retry_after == pytest.approx(18)
    assert caught.value.metadata == {"target": "db:1"}
    assert changes == [BreakerState.OPEN]


def test_one_probe_at_a_time_and_two_successes_close_it() -> None:
    clock = HandClock()
    breaker, changes = breaker_of(clock)
    fail(breaker, 5)
    clock.time += 30
    probe = admitted(breaker)
    for _ in range(10):
        with pytest.raises(CircuitOpenError):
            breaker.admit()
    probe.settle(Outcome.SUCCESS)
    assert state_of(breaker) is BreakerState.HALF_OPEN
    admitted(breaker).settle(Outcome.SUCCESS)
    assert state_of(breaker) is BreakerState.CLOSED
    assert changes == [BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED]


def test_a_failed_probe_opens_it_for_the_whole_time_again() -> None:
    clock = HandClock()
    breaker, _ = breaker_of(clock)
    fail(breaker, 5)
    clock.time += 30
    admitted(breaker).settle(Outcome.SUCCESS)
    admitted(breaker).settle(Outcome.FAILURE)
    assert state_of(breaker) is BreakerState.OPEN
    clock.time += 29.9
    with pytest.raises(CircuitOpenError):
        breaker.admit()
    clock.time += 0.1
    admitted(breaker)


def test_a_probe_without_an_outcome_gives_its_place_back() -> None:
    clock = HandClock()
    breaker, _ = breaker_of(clock)
    fail(breaker, 5)
    clock.time += 30
    admitted(breaker).settle(Outcome.NEUTRAL)
    forgotten: Permit | None = admitted(breaker)
    with pytest.raises(CircuitOpenError):
        breaker.admit()
    assert forgotten is not None
    forgotten = None
    gc.collect()
    admitted(breaker).settle(Outcome.SUCCESS)


def test_outcomes_of_calls_from_before_the_change_say_nothing() -> None:
    clock = HandClock()
    breaker, _ = breaker_of(clock)
    admitted(breaker).settle(Outcome.SUCCESS)
    slow = [admitted(breaker) for _ in range(20)]
    fail(breaker, 5)
    for permit in slow[:10]:
        permit.settle(Outcome.SUCCESS)
    assert state_of(breaker) is BreakerState.OPEN
    clock.time += 30
    probe = admitted(breaker)
    for permit in slow[10:]:
        permit.settle(Outcome.FAILURE)
    assert state_of(breaker) is BreakerState.HALF_OPEN
    probe.settle(Outcome.SUCCESS)
    admitted(breaker).settle(Outcome.SUCCESS)
    assert state_of(breaker) is BreakerState.CLOSED


def test_a_permit_counts_once() -> None:
    breaker, _ = breaker_of(HandClock())
    permit = admitted(breaker)
    for _ in range(10):
        permit.settle(Outcome.FAILURE)
    assert state_of(breaker) is BreakerState.CLOSED


async def test_a_crowd_waits_for_the_first_outcomes_and_is_refused_with_them() -> None:
    breaker, _ = breaker_of(HandClock(), patience=60)
    first = [admitted(breaker) for _ in range(5)]
    assert breaker.admit() is None
    crowd = [asyncio.create_task(breaker.acquire(60)) for _ in range(45)]
    for permit in first:
        permit.settle(Outcome.FAILURE)
    results = await asyncio.gather(*crowd, return_exceptions=True)
    assert all(isinstance(result, CircuitOpenError) for result in results)


async def test_one_success_lets_the_crowd_pass() -> None:
    breaker, _ = breaker_of(HandClock(), patience=60)
    first = [admitted(breaker) for _ in range(5)]
    crowd = [asyncio.create_task(breaker.acquire(60)) for _ in range(45)]
    first[0].settle(Outcome.SUCCESS)
    assert all(isinstance(permit, Permit) for permit in await asyncio.gather(*crowd))


async def test_a_slow_service_is_not_a_dead_one() -> None:
    breaker, _ = breaker_of(HandClock(), patience=0.01)
    under_way = [admitted(breaker) for _ in range(5)]
    assert isinstance(await breaker.acquire(60), Permit)
    assert len(under_way) == 5


async def test_a_caller_that_gives_up_waiting_leaves_nothing_behind() -> None:
    breaker, _ = breaker_of(HandClock(), patience=60)
    first = [admitted(breaker) for _ in range(5)]
    waiting = asyncio.create_task(breaker.acquire(60))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    for permit in first:
        permit.settle(Outcome.NEUTRAL)
    assert len([admitted(breaker) for _ in range(5)]) == 5


class BreakerMachine(RuleBasedStateMachine):
    """Any order of calls, outcomes and time, checked against what the rules say from the outside."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = HandClock()
        self.changes: list[BreakerState] = []
        self.under_way: list[tuple[Permit, int]] = []
        self.failures = 0
        self.successes = 0
        self.opened_at = 0.0

    @initialize(threshold=st.integers(1, 6), successes=st.integers(1, 3), reset=st.sampled_from([1.0, 30.0]))
    def make(self, threshold: int, successes: int, reset: float) -> None:
        self.rule = BreakerRule(threshold=threshold, reset=reset, successes=successes)
        self.breaker = CircuitBreaker("t", self.clock, self.rule, self.changed)

    def changed(self, state: BreakerState) -> None:
        self.changes.append(state)
        self.failures = self.successes = 0
        if state is BreakerState.OPEN:
            self.opened_at = self.clock.time

    @rule()
    def call(self) -> None:
        before = self.breaker.state
        try:
            permit = self.breaker.admit()
        except CircuitOpenError as refused:
            assert before is not BreakerState.CLOSED
            if before is BreakerState.OPEN:
                assert self.clock.time < self.opened_at + self.rule.reset
                assert refused.retry_after == pytest.approx(self.opened_at + self.rule.reset - self.clock.time)
            else:
                assert self.probes() == 1
            return
        if before is BreakerState.OPEN:
            assert self.clock.time >= self.opened_at + self.rule.reset
        if permit is not None:
            self.under_way.append((permit, len(self.changes)))

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), outcome=st.sampled_from(Outcome))
    def end(self, data: st.DataObject, outcome: Outcome) -> None:
        permit, generation = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        counts = generation == len(self.changes)
        before = self.breaker.state
        if counts and outcome is Outcome.FAILURE:
            self.failures, self.successes = self.failures + 1, 0
        elif counts and outcome is Outcome.SUCCESS:
            self.failures, self.successes = 0, self.successes + 1
        failures, successes = self.failures, self.successes
        permit.settle(outcome)
        if not counts or outcome is Outcome.NEUTRAL:
            assert self.breaker.state is before
        elif before is BreakerState.CLOSED:
            opened = self.breaker.state is BreakerState.OPEN
            assert opened == (failures >= self.rule.threshold)
        elif outcome is Outcome.FAILURE:
            assert self.breaker.state is BreakerState.OPEN
        else:
            closed = self.breaker.state is BreakerState.CLOSED
            assert closed == (successes >= self.rule.successes)

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds: float) -> None:
        self.clock.time += seconds

    def probes(self) -> int:
        return sum(generation == len(self.changes) for _, generation in self.under_way)

    @invariant()
    def never_more_than_one_probe(self) -> None:
        if self.changes and self.changes[-1] is BreakerState.HALF_OPEN:
            assert self.probes() <= 1

    def teardown(self) -> None:
        for permit, _ in self.under_way:
            permit.settle(Outcome.NEUTRAL)


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=60, stateful_step_count=40)
