"""The formulas of memory: strength, retention, reliability, review. The goldens are those of the design."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from mnemo_memory.domain import retention
from mnemo_memory.domain.memory import Kind, Memory, State
from mnemo_memory.domain.retention import Candidacy, Retained, Schedule, Verdict
from mnemocore.ids import MemoryId

NOW = datetime(2026, 3, 1, tzinfo=UTC)
MEMORY = Memory(
    *(MemoryId("m"), Kind.FACT, "tea", {}, (), "", "", None, NOW, 0.5, 1.0, State.ACTIVE, 1, 1, NOW, NOW),
)


@pytest.mark.parametrize(
    ("importance", "accesses", "days", "reliability", "expected"),
    [
        (0.5, 1, 0, 0.5, 0.346574),
        (0.5, 2, 0, 0.5, 0.549306),
        (0.5, 1, 100, 0.5, 0.346574 / math.e),
        (0.5, 1, 0, 0.25, 0.346574 / 2),
        (1.0, 100, 0, 1.0, 1.0),
        (0.0, 100, 0, 1.0, 0.0),
        (0.5, 0, 0, 0.5, 0.0),
        (0.5, 1, -5, 0.5, 0.346574),
    ],
)
def test_strength(importance: float, accesses: int, days: float, reliability: float, expected: float) -> None:
    assert retention.strength(importance, accesses, days, reliability) == pytest.approx(expected, abs=1e-6)


def test_the_strength_of_a_memory_fades_from_its_last_use_or_from_its_writing() -> None:
    assert retention.strength_of(MEMORY, NOW) == pytest.approx(0.346574, abs=1e-6)
    later = NOW + timedelta(days=100)
    assert retention.strength_of(MEMORY, later) == pytest.approx(0.346574 / math.e, abs=1e-6)
    used = Memory(*(MemoryId("m"), Kind.FACT, "tea", {}, (), "", "", None, NOW, 0.5, 1.0, State.ACTIVE, 1, 1, NOW, NOW),
                  accesses=2, accessed_at=later, alpha=2.0, beta=2.0)  # fmt: skip
    assert retention.strength_of(used, later) == pytest.approx(0.549306, abs=1e-6)


@pytest.mark.parametrize(
    ("importance", "half_life"),
    [(1.0, 693), (0.9, 693), (0.89, 139), (0.7, 139), (0.69, 35), (0.5, 35), (0.49, 7), (0.0, 7)],
)
def test_half_of_a_memory_is_retained_after_its_half_life(importance: float, half_life: float) -> None:
    untouched = retention.stability(importance, 0)
    assert untouched == pytest.approx(half_life / math.log(2))
    assert retention.retention(half_life, untouched) == pytest.approx(0.5)
    assert retention.stability(importance, 1) == pytest.approx(untouched * (1 + 0.5 * math.log(2)))
    assert retention.retention(0, untouched) == 1.0


@pytest.mark.parametrize(
    ("retained", "expected"),
    [
        (1.0, Candidacy.KEEP),
        (0.401, Candidacy.KEEP),
        (0.40, Candidacy.REVIEW),
        (0.101, Candidacy.REVIEW),
        (0.10, Candidacy.FORGET),
        (0.0, Candidacy.FORGET),
    ],
)
def test_candidates(retained: float, expected: Candidacy) -> None:
    assert retention.candidacy(retained, 0.94, protected=False) is expected
    assert retention.candidacy(retained, 0.95, protected=False) is Candidacy.KEEP
    assert retention.candidacy(retained, 0.1, protected=True) is Candidacy.KEEP


def test_what_is_retained_of_a_memory() -> None:
    stable = retention.stability(0.5, 1)
    assert retention.retained(MEMORY, 0) == Retained(1.0, Candidacy.KEEP)
    assert retention.retained(MEMORY, stable).retention == pytest.approx(math.exp(-1))
    assert retention.retained(MEMORY, stable).candidacy is Candidacy.REVIEW
    assert retention.retained(MEMORY, 3 * stable).candidacy is Candidacy.FORGET
    assert retention.retained(replace(MEMORY, protected=True), 3 * stable).candidacy is Candidacy.KEEP
    assert retention.retained(replace(MEMORY, accesses=9), stable).retention > math.exp(-1)
    later = NOW + timedelta(days=1)
    assert [retention.last_used(each) for each in (MEMORY, replace(MEMORY, accessed_at=later))] == [NOW, later]


def test_reliability_and_its_upper_bound() -> None:
    assert retention.reliability(1, 1) == 0.5
    assert retention.reliability(4, 1) == 0.8
    assert retention.reliability_upper_bound(1, 1) == pytest.approx(0.5 + 1.65 / math.sqrt(12))
    assert retention.reliability_upper_bound(50, 50) == pytest.approx(0.5 + 1.65 * 0.5 / math.sqrt(101))
    assert retention.reliability_upper_bound(1000, 1) <= 1.0


@pytest.mark.parametrize(
    ("alpha", "beta", "expected"),
    [
        (1, 1, Verdict.OPEN),
        (5, 1, Verdict.OPEN),
        (6, 1, Verdict.VERIFIED),
        (6, 1.5, Verdict.OPEN),
        (1, 3, Verdict.OPEN),
        (1, 4, Verdict.UNRELIABLE),
        (1.5, 3.5, Verdict.OPEN),
        (10, 90, Verdict.UNRELIABLE),
    ],
)
def test_verdicts(alpha: float, beta: float, expected: Verdict) -> None:
    assert retention.verdict(alpha, beta) is expected


@pytest.mark.parametrize(("quality", "expected"), [(5, 2.6), (4, 2.5), (3, 2.36), (2, 2.18), (1, 1.96), (0, 1.7)])
def test_easiness(quality: int, expected: float) -> None:
    assert retention.easiness(2.5, quality) == pytest.approx(expected)
    assert retention.easiness(1.3, quality) >= 1.3


def test_reviews_come_after_a_day_six_days_and_then_ever_later() -> None:
    schedule, due = Schedule(), []
    for _ in range(4):
        schedule = retention.reviewed(schedule, 4)
        due.append(schedule.interval_days)
    assert due == pytest.approx([1, 6, 15, 37.5])
    again = retention.reviewed(schedule, 2)
    assert again.easiness == pytest.approx(2.18)
    assert (again.repetitions, again.interval_days) == (0, 1.0)


@pytest.mark.parametrize("quality", [-1, 6])
def test_a_quality_that_does_not_exist_is_refused(quality: int) -> None:
    with pytest.raises(ValueError, match="allowed is 0 to 5"):
        retention.reviewed(Schedule(), quality)
