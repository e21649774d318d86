"""When a failed call is made again: how often, after what pause, and out of which budget."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Final, TypeVar

from tenacity import AsyncRetrying, retry_if_exception

from mnemocore.errors import CircuitOpenError, UnavailableError, WrongReplicaError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tenacity import RetryCallState

    from mnemocore.clock import Clock

T = TypeVar("T")

MAX_ATTEMPTS: Final = 3
"""Attempts of one call, the first one included."""

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 2.0


class RetryBudget:
    """A token bucket that keeps the retries of a channel below a tenth of its calls, beyond a small reserve.

    When everything fails, retries would multiply the load on a service that is down; the budget ends that.
    """

    def __init__(self, ratio: float = 0.1, start: float = 10.0, maximum: float = 100.0) -> None:
        self._ratio = ratio
        self._maximum = maximum
        self._tokens = start

    @property
    def tokens(self) -> float:
        """How many retries are left."""
        return self._tokens

    def deposit(self) -> None:
        """Count one call."""
        self._tokens = min(self._maximum, self._tokens + self._ratio)

    def withdraw(self) -> bool:
        """Pay for one retry; False if the budget is used up."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def worth_retrying(error: BaseException) -> bool:
    """Whether the same call may succeed a moment later.

    An open circuit is left alone: waiting is up to the caller. So is who does not hold a space: it goes on not to.
    """
    return isinstance(error, UnavailableError) and not isinstance(error, (CircuitOpenError, WrongReplicaError))


def pause_after(failure: BaseException | None, attempts: int) -> float:
    """Seconds to wait after `attempts` failed attempts, the last of which ended with `failure`.

    What the server asked for; else full jitter: anything between 0 and 0.1 s doubled with every attempt, at most 2 s.
    """
    if isinstance(failure, UnavailableError) and failure.retry_after is not None:
        return failure.retry_after
    return random.uniform(0, min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempts - 1)))


async def retry_after_failure(
    failure: UnavailableError, attempt: Callable[[], Awaitable[T]], *, expiry: float, budget: RetryBudget, clock: Clock
) -> T:
    """Go on with a call whose first attempt ended with `failure`, until `expiry` (seconds of `time.monotonic()`).

    Raises the error of the last attempt. Counts `failure` as the first attempt; a call that succeeds at once never
    comes here and pays nothing.
    """

    def pause(state: RetryCallState) -> float:
        return pause_after(state.outcome.exception() if state.outcome else None, state.attempt_number)

    def enough(state: RetryCallState) -> bool:
        if state.attempt_number >= MAX_ATTEMPTS or time.monotonic() + state.upcoming_sleep >= expiry:
            return True
        return not budget.withdraw()

    pending: UnavailableError | None = failure

    async def next_attempt() -> T:
        nonlocal pending
        if pending is not None:
            made_before, pending = pending, None
            raise made_before
        return await attempt()

    retrying = AsyncRetrying(
        sleep=clock.sleep, wait=pause, stop=enough, retry=retry_if_exception(worth_retrying), reraise=True
    )
    return await retrying(next_attempt)
