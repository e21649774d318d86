"""How strong a memory is, how much of it is retained, how reliable it is, and when to look at it again.

Pure functions. Their formulas are those of the design page on cognition, which names where each comes from:
long-term potentiation (strength), the forgetting curve (retention), the Beta distribution (reliability), SM-2 (review).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from datetime import datetime

DECAY_A_DAY: Final = 0.01
"""Lambda of strength: the loss of a day without an access."""
PRIOR_RELIABILITY: Final = 0.5
"""The mean of Beta(1, 1): what is believed of a memory nobody has judged."""

HALF_LIVES: Final = ((0.9, 693.0), (0.7, 139.0), (0.5, 35.0), (0.0, 7.0))
"""From which importance on a memory has which half-life, in active days, before accesses make it more stable."""
STABILITY_AN_ACCESS: Final = 0.5

REVIEW_BELOW: Final = 0.40
FORGET_BELOW: Final = 0.10
NEVER_FORGOTTEN: Final = 0.95
"""Importance from which on a memory is never a candidate."""

VERIFIED_SUCCESSES: Final = 5.0
VERIFIED_ABOVE: Final = 0.8
UNRELIABLE_JUDGEMENTS: Final = 3.0
UNRELIABLE_BELOW: Final = 0.3
UPPER_BOUND_DEVIATIONS: Final = 1.65

FIRST_EASINESS: Final = 2.5
LEAST_EASINESS: Final = 1.3
PASSED: Final = 3
"""The least quality of an answer that counts as remembered."""
BEST_QUALITY: Final = 5
FIRST_INTERVALS_DAYS: Final = (1.0, 6.0)

_DAY_SECONDS: Final = 86_400.0


class Judged(Protocol):
    """What strength is computed of; every memory has it."""

    @property
    def importance(self) -> float:
        """0 to 1."""
        ...

    @property
    def accesses(self) -> int:
        """Uses; a new memory counts 1."""
        ...

    @property
    def accessed_at(self) -> datetime | None:
        """When it was last used; None if it never was since it was written."""
        ...

    @property
    def created_at(self) -> datetime:
        """When it was written."""
        ...

    @property
    def alpha(self) -> float:
        """Weight of good feedback, the prior of 1 included."""
        ...

    @property
    def beta(self) -> float:
        """Weight of bad feedback, the prior of 1 included."""
        ...


# Strength


def strength(importance: float, accesses: int, days_since_access: float, reliability: float) -> float:
    """S = clamp(I ln(1 + A) exp(-0.01 T) Rel / 0.5, 0, 1), T in days; a T before zero counts as zero."""
    fading = math.exp(-DECAY_A_DAY * max(0.0, days_since_access))
    potentiated = importance * math.log1p(max(0, accesses)) * fading * reliability / PRIOR_RELIABILITY
    return min(1.0, max(0.0, potentiated))


def last_used(memory: Judged) -> datetime:
    """When a memory was last used; when it was written if it never was."""
    return memory.accessed_at or memory.created_at


def strength_of(memory: Judged, now: datetime) -> float:
    """The strength of a memory at `now`, 0 to 1."""
    days = (now - last_used(memory)).total_seconds() / _DAY_SECONDS
    return strength(memory.importance, memory.accesses, days, reliability(memory.alpha, memory.beta))


# Retention


def stability(importance: float, accesses: int) -> float:
    """St = St0 (1 + 0.5 ln(1 + A)) in active days; St0 is the half-life of the importance divided by ln 2."""
    half_life = next(days for least, days in HALF_LIVES if max(0.0, importance) >= least)
    return half_life / math.log(2) * (1 + STABILITY_AN_ACCESS * math.log1p(max(0, accesses)))


def retention(active_days: float, stability: float) -> float:
    """R = exp(-T / St), 0 to 1: how much is retained after T active days, days on which the space was used."""
    return math.exp(-max(0.0, active_days) / stability)


class Candidacy(IntEnum):
    """What is to be done about a memory as time passes. Forgetting archives; it never erases.

    The numbers are those of the contract.
    """

    KEEP = 1
    REVIEW = 2
    FORGET = 3


def candidacy(retained: float, importance: float, *, protected: bool) -> Candidacy:
    """FORGET at a retention of at most 0.10, REVIEW at most 0.40; KEEP if it is protected or of importance >= 0.95."""
    if protected or importance >= NEVER_FORGOTTEN or retained > REVIEW_BELOW:
        return Candidacy.KEEP
    return Candidacy.FORGET if retained <= FORGET_BELOW else Candidacy.REVIEW


class Forgettable(Judged, Protocol):
    """What retention is computed of; every memory has it."""

    @property
    def protected(self) -> bool:
        """Whether it is kept from being forgotten."""
        ...


@dataclass(frozen=True, slots=True)
class Retained:
    """How much of a memory is retained, 0 to 1, and what is to be done about it."""

    retention: float
    candidacy: Candidacy


def retained(memory: Forgettable, active_days: float) -> Retained:
    """What is retained of a memory so many active days after it was last used."""
    left = retention(active_days, stability(memory.importance, memory.accesses))
    return Retained(left, candidacy(left, memory.importance, protected=memory.protected))


# Reliability


def reliability(alpha: float, beta: float) -> float:
    """The mean of Beta(alpha, beta), both above 0: between 0 and 1."""
    return alpha / (alpha + beta)


def reliability_upper_bound(alpha: float, beta: float) -> float:
    """The mean of Beta(alpha, beta) and 1.65 standard deviations, at most 1: what may be hoped of it."""
    total = alpha + beta
    deviation = math.sqrt(alpha * beta / (total * total * (total + 1)))
    return min(1.0, alpha / total + UPPER_BOUND_DEVIATIONS * deviation)


class Verdict(IntEnum):
    """What feedback says of a memory."""

    OPEN = 0
    VERIFIED = 1
    UNRELIABLE = 2


def verdict(alpha: float, beta: float) -> Verdict:
    """VERIFIED from 5 successes on with a mean above 0.8, UNRELIABLE from 3 judgements on with one below 0.3.

    The prior of 1 in each of `alpha` and `beta` is neither a success nor a judgement.
    """
    mean = reliability(alpha, beta)
    if alpha - 1 >= VERIFIED_SUCCESSES and mean > VERIFIED_ABOVE:
        return Verdict.VERIFIED
    if alpha + beta - 2 >= UNRELIABLE_JUDGEMENTS and mean < UNRELIABLE_BELOW:
        return Verdict.UNRELIABLE
    return Verdict.OPEN


# Spaced repetition


@dataclass(frozen=True, slots=True)
class Schedule:
    """Where a memory under review stands: its easiness, successes in a row, and days until it is due again."""

    easiness: float = FIRST_EASINESS
    repetitions: int = 0
    interval_days: float = 0.0


def easiness(before: float, quality: int) -> float:
    """EF' of SM-2 after an answer of `quality` 0 to 5, at least 1.3. Raises ValueError for another quality."""
    if not 0 <= quality <= BEST_QUALITY:
        raise ValueError(f"quality is {quality}; allowed is 0 to {BEST_QUALITY}")
    missed = BEST_QUALITY - quality
    return max(LEAST_EASINESS, before + 0.1 - missed * (0.08 + missed * 0.02))


def reviewed(before: Schedule, quality: int) -> Schedule:
    """The schedule after a review of `quality` 0 to 5: due after 1 day, 6 days, then the interval times EF'.

    Below quality 3 it starts over. Raises ValueError for a quality that does not exist.
    """
    after = easiness(before.easiness, quality)
    if quality < PASSED:
        return Schedule(after, 0, FIRST_INTERVALS_DAYS[0])
    if before.repetitions < len(FIRST_INTERVALS_DAYS):
        return Schedule(after, before.repetitions + 1, FIRST_INTERVALS_DAYS[before.repetitions])
    return Schedule(after, before.repetitions + 1, before.interval_days * after)
