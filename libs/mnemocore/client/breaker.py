"""The circuit breaker: stops calling a service that has failed repeatedly, and asks it carefully whether it is back.

CLOSED: calls pass. A service is proven while its last known outcome was a success. As long as it is not (at the start,
and after a failure), no more calls of unknown outcome are under way than failures are left until the breaker opens, so
that a crowd of callers cannot rush a dead service; the others wait for an outcome, but only for the patience of the
rule, because a slow service is not a dead one.

OPEN: calls are refused at once, for the reset time. HALF_OPEN: one probe at a time; two successes in a row close the
breaker, a failure opens it again, and a probe without an outcome gives its place back.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Final

from mnemocore.errors import CircuitOpenError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mnemocore.clock import Clock

PROBE_RETRY_AFTER: Final = 1.0
"""What a refused caller is told to wait, in seconds, while a probe is under way."""


class BreakerState(StrEnum):
    """Whether calls pass."""

    CLOSED = "closed"
    HALF_OPEN = "half_open"
    OPEN = "open"


class Outcome(Enum):
    """What a call that has ended says of the service."""

    SUCCESS = "success"
    FAILURE = "failure"
    NEUTRAL = "neutral"


@dataclass(frozen=True, slots=True)
class BreakerRule:
    """When a breaker opens and closes.

    `threshold` failures in a row open it, after `reset` seconds it admits a probe, `successes` in a row close it.
    A caller waits at most `patience` seconds for the outcome of calls to a service that is not proven.
    """

    threshold: int = 5
    reset: float = 30.0
    successes: int = 2
    patience: float = 0.5


DEFAULT_RULE: Final = BreakerRule()


class Permit:
    """The right to make one call. Settle it once, with what came of the call; later settlements change nothing.

    A permit that is dropped without a settlement gives its place back.
    """

    __slots__ = ("_breaker", "_generation", "_settled", "_trial")

    def __init__(self, breaker: CircuitBreaker, generation: int, *, trial: bool) -> None:
        self._breaker = breaker
        self._generation = generation
        self._trial = trial
        self._settled = False

    def __del__(self) -> None:
        self.settle(Outcome.NEUTRAL)

    def settle(self, outcome: Outcome) -> None:
        """Tell the breaker the outcome; NEUTRAL only gives the place back."""
        if not self._settled:
            self._settled = True
            self._breaker._settle(outcome, self._generation, trial=self._trial)  # noqa: SLF001 - the two are one thing


class CircuitBreaker:
    """Guards the calls to one service at one target. Not thread-safe: one event loop uses it.

    `on_change` is called after every change of state, with the new one.
    """

    def __init__(
        self,
        target: str,
        clock: Clock,
        rule: BreakerRule = DEFAULT_RULE,
        on_change: Callable[[BreakerState], None] | None = None,
    ) -> None:
        self.target = target
        self._clock = clock
        self._rule = rule
        self._on_change = on_change
        self._state = BreakerState.CLOSED
        self._generation = 0  # grows with every change of state; outcomes of older calls say nothing about the new one
        self._failures = 0
        self._successes = 0
        self._proven = False
        self._trials = 0  # calls of unknown outcome: to a service that is not proven, or probes
        self._opened_at = 0.0
        self._outcome = asyncio.Event()

    @property
    def state(self) -> BreakerState:
        """The state as of the last call; an OPEN breaker turns HALF_OPEN when the first caller after the reset asks."""
        return self._state

    def admit(self) -> Permit | None:
        """A permit, or None if the outcome of calls under way must be awaited first.

        Raises CircuitOpenError, with the seconds until the next chance, if calls are suspended.
        """
        if self._state is BreakerState.CLOSED:
            if self._proven:
                return Permit(self, self._generation, trial=False)
            if self._trials < self._rule.threshold - self._failures:
                return self._trial()
            return None
        self._refuse_unless_probe_is_due()
        return self._trial()

    def admit_at_once(self) -> Permit:
        """A permit without waiting for the outcome of other calls. Raises CircuitOpenError if calls are suspended."""
        return self.admit() or self._trial()

    async def acquire(self, limit: float) -> Permit:
        """A permit, after waiting at most `limit` seconds or the rule's patience, whichever is shorter.

        Raises CircuitOpenError if calls are suspended, at once or while waiting.
        """
        try:
            async with asyncio.timeout(min(limit, self._rule.patience)):
                while (permit := self.admit()) is None:
                    await self._outcome.wait()
                return permit
        except TimeoutError:
            return self.admit_at_once()

    def _trial(self) -> Permit:
        self._trials += 1
        return Permit(self, self._generation, trial=True)

    def _refuse_unless_probe_is_due(self) -> None:
        if self._state is BreakerState.OPEN:
            remaining = self._opened_at + self._rule.reset - self._clock.monotonic()
            if remaining > 0:
                raise CircuitOpenError(target=self.target, retry_after=remaining)
            self._change(BreakerState.HALF_OPEN)
        if self._trials:
            raise CircuitOpenError(target=self.target, retry_after=PROBE_RETRY_AFTER)

    def _settle(self, outcome: Outcome, generation: int, *, trial: bool) -> None:
        if generation != self._generation:
            return
        if trial:
            self._trials -= 1
        if outcome is Outcome.SUCCESS:
            self._succeed()
        elif outcome is Outcome.FAILURE:
            self._fail()
        self._wake_waiting()

    def _succeed(self) -> None:
        self._failures = 0
        self._proven = True
        self._successes += 1
        if self._state is BreakerState.HALF_OPEN and self._successes >= self._rule.successes:
            self._change(BreakerState.CLOSED)

    def _fail(self) -> None:
        self._failures += 1
        self._proven = False
        if self._state is BreakerState.HALF_OPEN or self._failures >= self._rule.threshold:
            self._opened_at = self._clock.monotonic()
            self._change(BreakerState.OPEN)

    def _change(self, state: BreakerState) -> None:
        self._state = state
        self._generation += 1
        self._trials = 0
        self._failures = 0
        self._successes = 0
        if self._on_change is not None:
            self._on_change(state)

    def _wake_waiting(self) -> None:
        self._outcome.set()
        self._outcome = asyncio.Event()
