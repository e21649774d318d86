"""The one mapping between errors and `google.rpc.Status`, in both directions.

A status carries `ErrorInfo` always, and `BadRequest`, `RetryInfo`, `PreconditionFailure`, `QuotaFailure` and
`RequestInfo` where they fit. It travels in a trailing header, and peers refuse headers beyond 8 KiB, so text is cut and
violations beyond what fits are counted instead of listed.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from mnemocore import errors
from mnemocore.errors import DOMAIN, MnemoError, Violation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import grpc
    from google.protobuf.message import Message

DETAILS_HEADER: Final = "grpc-status-details-bin"
"""The trailing header that carries a serialised `google.rpc.Status`."""

MAX_MESSAGE_BYTES: Final = 700
MAX_VIOLATION_BYTES: Final = 2000
MAX_METADATA_BYTES: Final = 256
MAX_DESCRIPTION_BYTES: Final = 300

_BY_CODE: Final[dict[int, type[MnemoError]]] = {
    code_pb2.CANCELLED: errors.CancelledError,
    code_pb2.INVALID_ARGUMENT: errors.InvalidArgumentError,
    code_pb2.DEADLINE_EXCEEDED: errors.DeadlineExceededError,
    code_pb2.NOT_FOUND: errors.NotFoundError,
    code_pb2.ALREADY_EXISTS: errors.AlreadyExistsError,
    code_pb2.PERMISSION_DENIED: errors.PermissionDeniedError,
    code_pb2.RESOURCE_EXHAUSTED: errors.ExhaustedError,
    code_pb2.FAILED_PRECONDITION: errors.PreconditionError,
    code_pb2.ABORTED: errors.ConflictError,
    code_pb2.OUT_OF_RANGE: errors.InvalidArgumentError,
    code_pb2.UNIMPLEMENTED: errors.MethodNotFoundError,
    code_pb2.UNAVAILABLE: errors.UnavailableError,
    code_pb2.UNAUTHENTICATED: errors.UnauthenticatedError,
}


def to_status(error: MnemoError, request_id: str = "") -> status_pb2.Status:
    """The status that tells a client of `error`; `request_id` leads to the server's log entries."""
    message = _cut(error.message, MAX_MESSAGE_BYTES)
    status = status_pb2.Status(code=error.status.value, message=message)
    for detail in _details(error, message, request_id):
        status.details.add().Pack(detail)
    return status


def from_status(status: status_pb2.Status) -> MnemoError:
    """The error that a status tells of: the same class, message, metadata, violations and retry delay.

    A reason this release does not know becomes the nearest class of its code and keeps its reason.
    """
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    for detail in status.details:
        for wanted in (info, bad_request, retry):
            if detail.Is(wanted.DESCRIPTOR):
                detail.Unpack(wanted)
    known = _by_reason().get(info.reason) if info.domain == DOMAIN else None
    cls = known or _BY_CODE.get(status.code, errors.InternalError)
    error = cls(
        status.message,
        violations=[Violation(item.field, item.description) for item in bad_request.field_violations],
        retry_after=_seconds(retry.retry_delay) if retry.HasField("retry_delay") else None,
        **{key: value for key, value in info.metadata.items() if key in cls.metadata_keys},
    )
    if known is None and info.domain == DOMAIN:
        vars(error)["reason"] = info.reason
    return error


def from_rpc_error(error: grpc.aio.AioRpcError, target: str) -> MnemoError:
    """The error that a failed call to `target` tells of.

    Without details, as when no server answered, the bare code decides; the transport's own text is left out, because it
    names addresses that are nobody's business further up.
    """
    details = (error.trailing_metadata() or {}).get(DETAILS_HEADER)
    if isinstance(details, bytes):
        try:
            return from_status(status_pb2.Status.FromString(details))
        except DecodeError:
            return errors.InternalError(f"{target} answered with an error that cannot be read")
    code, name = error.code().value[0], error.code().name
    if code == code_pb2.UNAVAILABLE:
        return errors.PeerUnavailableError(target=target)
    if code == code_pb2.RESOURCE_EXHAUSTED:
        return errors.OverloadedError(f"{target}: {error.details() or 'a limit is reached'}")
    if code == code_pb2.UNIMPLEMENTED:
        return errors.MethodNotFoundError(f"{target} does not have the method")
    if code in (code_pb2.DEADLINE_EXCEEDED, code_pb2.CANCELLED, code_pb2.UNAUTHENTICATED):
        return _BY_CODE[code]()
    return _BY_CODE.get(code, errors.InternalError)(f"{target} failed with {name}")


@cache
def _by_reason() -> dict[str, type[MnemoError]]:
    return {cls.reason: cls for cls in errors.concrete_errors()}


def _details(error: MnemoError, message: str, request_id: str) -> Iterator[Message]:
    reason = getattr(error, "reason", errors.InternalError.reason)
    metadata = {key: _cut(value, MAX_METADATA_BYTES) for key, value in error.metadata.items()}
    yield error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata)
    if error.violations:
        yield _bad_request(error.violations)
    if error.retry_after is not None:
        delay = Duration()
        delay.FromNanoseconds(round(error.retry_after * 1e9))
        yield error_details_pb2.RetryInfo(retry_delay=delay)
    description = _cut(message, MAX_DESCRIPTION_BYTES)
    subject = next(iter(metadata.values()), "")
    if error.status is errors.Status.FAILED_PRECONDITION:
        failure = error_details_pb2.PreconditionFailure()
        failure.violations.add(type=reason, subject=subject, description=description)
        yield failure
    if error.status is errors.Status.RESOURCE_EXHAUSTED:
        quota = error_details_pb2.QuotaFailure()
        quota.violations.add(subject=subject or reason, description=description)
        yield quota
    if request_id:
        yield error_details_pb2.RequestInfo(request_id=request_id)


def _bad_request(violations: Sequence[Violation]) -> error_details_pb2.BadRequest:
    bad_request = error_details_pb2.BadRequest()
    room = MAX_VIOLATION_BYTES
    for index, violation in enumerate(violations):
        field = _cut(violation.field, MAX_METADATA_BYTES)
        description = _cut(violation.description, MAX_DESCRIPTION_BYTES)
        room -= len(field.encode()) + len(description.encode()) + 8
        if room < 0:
            left = len(violations) - index
            unlisted = "1 violation from here on is" if left == 1 else f"{left} violations from here on are"
            bad_request.field_violations.add(field=field, description=f"{unlisted} not listed")
            break
        bad_request.field_violations.add(field=field, description=description)
    return bad_request


def _cut(text: str, max_bytes: int) -> str:
    """`text`, or as much of it as fits into `max_bytes` of UTF-8 with an ellipsis at its end."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= max_bytes:
        return encoded.decode()
    return encoded[: max_bytes - 3].decode("utf-8", "ignore") + "..."


def _seconds(duration: Duration) -> float:
    return float(duration.seconds + duration.nanos / 1e9)
