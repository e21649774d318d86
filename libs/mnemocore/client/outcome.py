"""What the end of a call says of the service that was called: whether its circuit breaker counts it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mnemocore import errors
from mnemocore.client.breaker import Outcome
from mnemocore.status import DETAILS_HEADER

if TYPE_CHECKING:
    import grpc

    from mnemocore.errors import MnemoError

_ANSWERS: Final = (
    errors.InvalidArgumentError,
    errors.NotFoundError,
    errors.AlreadyExistsError,
    errors.ConflictError,
    errors.PreconditionError,
    errors.UnauthenticatedError,
    errors.PermissionDeniedError,
)
"""Errors that only a working service gives."""


def outcome_of(error: MnemoError, raw: grpc.aio.AioRpcError, *, short_budget: bool) -> Outcome:
    """The outcome of a call that ended with `error`, which was made of `raw`.

    - A refusal of the request shows that the service works: SUCCESS.
    - UNAVAILABLE is a FAILURE if nobody answered, or if the service says that its own store does not answer. Other
      reasons come from a service that works but waits (INDEX_LAGGING), goes (SHUTTING_DOWN) or has itself somebody who
      does not answer (PEER_UNAVAILABLE, CIRCUIT_OPEN) and guards against that: NEUTRAL.
    - DEADLINE_EXCEEDED is a FAILURE unless the call had little time from the start (`short_budget`).
    - Everything else is NEUTRAL: cancellation, overload, defects.
    """
    if isinstance(error, _ANSWERS):
        return Outcome.SUCCESS
    if isinstance(error, errors.StoreUnavailableError):
        return Outcome.FAILURE
    if isinstance(error, errors.UnavailableError):
        return Outcome.NEUTRAL if _has_details(raw) else Outcome.FAILURE
    if isinstance(error, errors.DeadlineExceededError) and not short_budget:
        return Outcome.FAILURE
    return Outcome.NEUTRAL


def _has_details(raw: grpc.aio.AioRpcError) -> bool:
    metadata = raw.trailing_metadata()
    return bool(metadata) and DETAILS_HEADER in metadata
