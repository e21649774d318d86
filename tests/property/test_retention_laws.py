"""Laws of strength, retention and reliability: their ranges, and what makes them grow and shrink."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mnemo_memory.domain import retention
from mnemo_memory.domain.retention import Candidacy, Schedule

SHARES = st.floats(0, 1)
COUNTS = st.integers(0, 10**9)
DAYS = st.floats(0, 1e5)
WEIGHTS = st.floats(1, 1e6)


@given(SHARES, COUNTS, DAYS, SHARES, COUNTS, DAYS)
def test_strength_lies_between_0_and_1_and_grows_with_use_and_fades_with_time(
    importance: float, accesses: int, days: float, reliability: float, more: int, longer: float
) -> None:
    strength = retention.strength(importance, accesses, days, reliability)
    assert 0.0 <= strength <= 1.0
    assert retention.strength(importance, accesses + more, days, reliability) >= strength
    assert retention.strength(importance, accesses, days + longer, reliability) <= strength


@given(SHARES, SHARES, COUNTS, COUNTS, DAYS, DAYS)
def test_more_is_retained_of_what_matters_and_is_used_and_less_as_time_passes(
    one: float, other: float, accesses: int, more: int, days: float, longer: float
) -> None:
    less, greater = sorted((one, other))
    stability = retention.stability(less, accesses)
    assert retention.stability(greater, accesses + more) >= stability > 0
    retained = retention.retention(days, stability)
    assert 0.0 <= retention.retention(days + longer, stability) <= retained <= 1.0


@given(SHARES, SHARES, SHARES, st.booleans())
def test_what_is_retained_better_is_never_nearer_to_being_forgotten(
    one: float, other: float, importance: float, protected: bool
) -> None:
    less, more = sorted((one, other))
    worse = retention.candidacy(less, importance, protected=protected)
    assert retention.candidacy(more, importance, protected=protected) <= worse
    assert worse is Candidacy.KEEP or not (protected or importance >= 0.95)


@given(WEIGHTS, WEIGHTS, st.floats(0, 1e6))
def test_reliability_follows_feedback(alpha: float, beta: float, weight: float) -> None:
    mean = retention.reliability(alpha, beta)
    assert 0.0 < mean < 1.0
    assert retention.reliability(alpha + weight, beta) >= mean >= retention.reliability(alpha, beta + weight)
    assert mean <= retention.reliability_upper_bound(alpha, beta) <= 1.0


@given(st.lists(st.integers(0, 5), max_size=60))
def test_reviews_that_succeed_come_ever_later_and_one_that_fails_starts_over(answers: list[int]) -> None:
    schedule = Schedule()
    for quality in answers:
        before, schedule = schedule, retention.reviewed(schedule, quality)
        assert schedule.easiness >= 1.3
        if quality < 3:
            assert (schedule.repetitions, schedule.interval_days) == (0, 1.0)
        else:
            assert schedule.repetitions == before.repetitions + 1
            assert schedule.interval_days >= before.interval_days
