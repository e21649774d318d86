"""Blending: what a score is made of."""

from __future__ import annotations

import math
from dataclasses import astuple
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemo_memory.domain.memory import Kind, Memory, Profile, State
from mnemo_memory.domain.ports import Hit, ScorePart
from mnemo_memory.domain.recall import WEIGHTS, Weights, blend, recency
from mnemo_memory.domain.retention import strength_of
from mnemocore.ids import MemoryId

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ID = MemoryId("018f0000-0000-7000-8000-000000000001")
MOMENTS = st.datetimes(timezones=st.just(UTC))
SHARES = st.floats(0, 1)


def memory(occurred_at: datetime = NOW, importance: float = 0.5) -> Memory:
    return Memory(ID, Kind.FACT, "x", {}, (), "", "", None, occurred_at, importance, 1.0, State.ACTIVE, 1, 1, NOW, NOW)


@st.composite
def hits(draw: st.DrawFn) -> Hit:
    """A hit of the index: parts that sum to its relevance."""
    values = draw(st.lists(st.tuples(SHARES, SHARES), max_size=6))
    total = math.fsum(weight for _, weight in values) or 1.0
    parts = tuple(
        ScorePart(f"part {number}", value, weight / total, value * (weight / total))
        for number, (value, weight) in enumerate(values)
    )
    return Hit(ID, math.fsum(part.contribution for part in parts), parts)


@given(hits(), MOMENTS, MOMENTS, SHARES, st.sampled_from(list(Profile)), SHARES)
def test_the_parts_sum_to_the_score(
    hit: Hit, occurred_at: datetime, now: datetime, importance: float, profile: Profile, activation: float
) -> None:
    each = memory(occurred_at, importance)
    recalled = blend(each, hit, WEIGHTS[profile], now, activation)
    assert sum(part.contribution for part in recalled.parts) == pytest.approx(recalled.score, abs=1e-9)
    for part in recalled.parts:
        assert part.contribution == pytest.approx(part.value * part.weight, abs=1e-9)
    assert 0 <= recalled.score <= 1 + 1e-9
    weights = WEIGHTS[profile]
    expected = (
        weights.relevance * hit.relevance
        + weights.recency * recency(occurred_at, now)
        + weights.importance * importance
        + weights.strength * strength_of(each, now)
        + weights.reliability * 0.5
        + weights.associations * activation
    )
    assert recalled.score == pytest.approx(expected, abs=1e-9)


def test_the_parts_are_named() -> None:
    hit = Hit(ID, 0.8, (ScorePart("semantic", 1.0, 0.5, 0.5), ScorePart("words", 0.6, 0.5, 0.3)))
    recalled = blend(memory(NOW - timedelta(days=30), importance=0.25), hit, Weights(0.5, 0.3, 0.2), NOW)
    assert recalled.parts == (
        ScorePart("semantic", 1.0, 0.25, 0.25),
        ScorePart("words", 0.6, 0.25, 0.15),
        ScorePart("recency", 0.5, 0.3, 0.15),
        ScorePart("importance", 0.25, 0.2, 0.05),
    )
    assert recalled.score == pytest.approx(0.6)
    assert recalled.memory.id == ID


@pytest.mark.parametrize(
    ("days", "expected"), [(0, 1.0), (15, 2**-0.5), (30, 0.5), (60, 0.25), (300, 2.0**-10), (-1, 1.0), (-10_000, 1.0)]
)
def test_recency_halves_every_thirty_days(days: float, expected: float) -> None:
    assert recency(NOW - timedelta(days=days), NOW) == pytest.approx(expected, rel=1e-12)


def test_recency_knows_time_zones_and_the_ends_of_time() -> None:
    tokyo = timezone(timedelta(hours=9))
    assert recency(NOW.astimezone(tokyo), NOW) == 1.0
    assert recency(datetime.min.replace(tzinfo=UTC), NOW) == 0.0
    assert recency(datetime.max.replace(tzinfo=UTC), NOW) == 1.0


@given(MOMENTS, MOMENTS)
def test_the_newer_memory_is_never_less_recent(one: datetime, other: datetime) -> None:
    older, newer = sorted((one, other))
    assert recency(older, NOW) <= recency(newer, NOW)


def test_the_weights_of_every_profile_sum_to_one() -> None:
    assert set(WEIGHTS) == set(Profile)
    for weights in WEIGHTS.values():
        assert sum(astuple(weights)) == pytest.approx(1.0, abs=1e-12)
        assert min(astuple(weights)) >= 0
