"""How handlers of events and tasks fail, and what the server is told of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mnemocore.errors import DeadlineExceededError, InvalidFieldError, UnavailableError, Violation
from mnemocore.events.v1 import resources_pb2

if TYPE_CHECKING:
    from datetime import timedelta
    from logging import Logger
    from typing import Any

MAX_MESSAGE: Final = 1000
"""Characters of a message that are kept."""


class Retry(Exception):
    """Raised by a handler: another attempt, not before `after`; by the schedule of the server if it is None.

    Of a task the schedule of the server always decides.
    """

    def __init__(self, message: str = "", *, after: timedelta | None = None) -> None:
        if after is not None and after.total_seconds() < 0:
            raise InvalidFieldError.of([Violation("after", f"{after} is negative; allowed is 0 s and more")])
        super().__init__(message or "another attempt was asked for")
        self.after = after


class Reject(Exception):
    """Raised by a handler: no other attempt; it is a dead letter (a task: dead) at once. `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class InvalidEvent(Reject):
    """Raised by a handler: this is not what it takes, and no other attempt can help."""


@dataclass(frozen=True, slots=True)
class Failed:
    """Why an attempt failed, as the server is told. `after`: the next attempt not before then."""

    reason: Any
    message: str
    after: timedelta | None = None


def failure_of(error: BaseException) -> Failed:
    """What to say of an attempt that ended with `error`."""
    reason = _reason_of(error)
    text = str(error) if isinstance(error, (Retry, Reject)) else f"{type(error).__name__}: {error}"
    message = text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()[:MAX_MESSAGE]
    return Failed(reason, message, error.after if isinstance(error, Retry) else None)


def log_failure(log: Logger, error: BaseException, what: str) -> None:
    """Log that a handler failed: what it decided itself in a line, what happened to it with a traceback."""
    if isinstance(error, (Retry, Reject)):
        log.info("%s was not done: %s: %s", what, type(error).__name__, error)
    else:
        log.warning("the handler failed on %s", what, exc_info=error)


def _reason_of(error: BaseException) -> Any:
    if isinstance(error, InvalidEvent):
        return resources_pb2.FAILURE_REASON_INVALID_EVENT
    if isinstance(error, Reject):
        return resources_pb2.FAILURE_REASON_REJECTED
    if isinstance(error, (TimeoutError, DeadlineExceededError)):
        return resources_pb2.FAILURE_REASON_TIMEOUT
    if isinstance(error, (UnavailableError, ConnectionError)):
        return resources_pb2.FAILURE_REASON_UNAVAILABLE
    return resources_pb2.FAILURE_REASON_HANDLER_ERROR
