"""What the calls of one method on one channel keep to: their deadline, their breaker, and what their end means."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from mnemocore import calls
from mnemocore.client.outcome import outcome_of
from mnemocore.errors import DeadlineExceededError
from mnemocore.policy import method_info
from mnemocore.status import from_rpc_error

if TYPE_CHECKING:
    import grpc

    from mnemocore.client.breaker import CircuitBreaker, Permit
    from mnemocore.errors import MnemoError

UNDECLARED_DEADLINE: Final = 5.0
"""Seconds for a method that no proto of ours declares, such as a health check."""

MARGIN: Final = 0.01
"""Seconds of the running request's time that are kept back for answering it."""


class CallPolicy:
    """The policy of the method `path`, called at `target` through `breaker`."""

    def __init__(self, path: str, target: str, breaker: CircuitBreaker) -> None:
        self.info = method_info(path)
        self.target = target
        self.breaker = breaker
        self._default = self.info.default_deadline if self.info else UNDECLARED_DEADLINE
        self._maximum = self.info.max_deadline if self.info else None

    def time_left(self, timeout: float | None) -> float | None:
        """Seconds a call that starts now may take: `timeout` or the default, the maximum, or what is left of the
        running request, whichever is least. None only for streams that may stay open.

        Raises DeadlineExceededError if nothing is left.
        """
        seconds = self._default if timeout is None else timeout
        if self._maximum is not None and (seconds is None or seconds > self._maximum):
            seconds = self._maximum
        request_deadline = calls.deadline.get()
        if request_deadline is not None:
            rest = request_deadline - time.monotonic() - MARGIN
            seconds = rest if seconds is None else min(seconds, rest)
        if seconds is not None and seconds <= 0:
            raise DeadlineExceededError
        return seconds

    def failure(self, raw: grpc.aio.AioRpcError, permit: Permit, seconds: float | None) -> MnemoError:
        """The error to raise for `raw`, which ended a call that had `seconds`; settles its permit."""
        error = from_rpc_error(raw, self.target)
        short = self._default is None or (seconds is not None and seconds < self._default / 2)
        permit.settle(outcome_of(error, raw, short_budget=short))
        return error

    def is_repeatable(self, request: object) -> bool:
        """Whether `request` (a message, or its bytes) may be sent again without a second effect."""
        if self.info is None:
            return False
        if self.info.idempotent or not self.info.has_request_id:
            return self.info.idempotent
        message = self.info.request.FromString(request) if isinstance(request, bytes) else request
        return bool(getattr(message, "request_id", ""))
