"""Errors and statuses: one mapping, complete in both directions."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import quote

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2

from mnemocore import errors
from mnemocore.common.v1 import resources_pb2
from mnemocore.errors import DOMAIN, MnemoError, Violation, concrete_errors
from mnemocore.status import DETAILS_HEADER, from_rpc_error, from_status, to_status

CLASSES = sorted(concrete_errors(), key=lambda cls: cls.__name__)


def example(cls: type[MnemoError]) -> MnemoError:
    metadata: dict[str, Any] = {key: f"{key}-1" for key in cls.metadata_keys}
    return cls(violations=[Violation("a.b", "is wrong")], retry_after=1.25, **metadata)


def details_of(status: status_pb2.Status) -> dict[str, Any]:
    found = {}
    for detail in status.details:
        name = detail.TypeName().removeprefix("google.rpc.")
        message = getattr(error_details_pb2, name)()
        detail.Unpack(message)
        found[name] = message
    return found


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_comes_back_as_it_went(cls: type[MnemoError]) -> None:
    error = example(cls)
    back = from_status(to_status(error, "request-1"))
    assert type(back) is cls
    assert (str(back), back.metadata, back.violations, back.retry_after) == (
        str(error),
        error.metadata,
        error.violations,
        error.retry_after,
    )


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_carries_its_details(cls: type[MnemoError]) -> None:
    status = to_status(example(cls), "request-1")
    details = details_of(status)
    assert status.code == cls.status.value == grpc.StatusCode[cls.status.name].value[0]
    assert (details["ErrorInfo"].reason, details["ErrorInfo"].domain) == (cls.reason, DOMAIN)
    assert details["RequestInfo"].request_id == "request-1"
    assert details["RetryInfo"].retry_delay.ToNanoseconds() == 1_250_000_000
    assert details["BadRequest"].field_violations[0].field == "a.b"
    assert ("PreconditionFailure" in details) == (cls.status is errors.Status.FAILED_PRECONDITION)
    assert ("QuotaFailure" in details) == (cls.status is errors.Status.RESOURCE_EXHAUSTED)


def test_reasons_and_the_proto_enum_are_the_same_set() -> None:
    declared = {name.removeprefix("ERROR_REASON_") for name in resources_pb2.ErrorReason.DESCRIPTOR.values_by_name}
    used = [cls.reason for cls in CLASSES]
    assert sorted([*used, "UNSPECIFIED"]) == sorted(declared)


def test_optional_details_are_left_out() -> None:
    details = details_of(to_status(errors.SpaceNotFoundError(space="a")))
    assert set(details) == {"ErrorInfo"}


@pytest.mark.parametrize(
    ("code", "cls"),
    [
        (3, errors.InvalidArgumentError),
        (5, errors.NotFoundError),
        (6, errors.AlreadyExistsError),
        (9, errors.PreconditionError),
        (10, errors.ConflictError),
        (8, errors.ExhaustedError),
        (14, errors.UnavailableError),
        (13, errors.InternalError),
        (15, errors.InternalError),
        (99, errors.InternalError),
    ],
)
def test_a_reason_of_a_newer_release_becomes_the_nearest_class_and_is_kept(code: int, cls: type[MnemoError]) -> None:
    status = status_pb2.Status(code=code, message="something new")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="BRAND_NEW", domain=DOMAIN, metadata={"x": "y"}))
    error = from_status(status)
    assert type(error) is cls
    assert str(error) == "something new"
    assert error.reason == "BRAND_NEW"
    assert details_of(to_status(error))["ErrorInfo"].reason == "BRAND_NEW"


def test_reasons_of_other_domains_are_not_ours() -> None:
    status = status_pb2.Status(code=5, message="gone")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="SPACE_NOT_FOUND", domain="example.org"))
    assert type(from_status(status)) is errors.NotFoundError


def test_a_status_stays_small_enough_for_a_header() -> None:
    violations = [Violation(f"memories[{index}].content", "\U0001f600" * 500) for index in range(1000)]
    error = errors.InvalidFieldError.of(violations)
    status = to_status(error, "r" * 128)
    assert len(base64.b64encode(status.SerializeToString())) + len(quote(status.message)) < 8000
    listed = details_of(status)["BadRequest"].field_violations
    assert listed[0].field == "memories[0].content"
    assert listed[-1].description == f"{1001 - len(listed)} violations from here on are not listed"


def test_one_violation_that_does_not_fit_is_one() -> None:
    fits = len(_listed(1000)) - 1
    assert _listed(fits + 2)[-1] == "2 violations from here on are not listed"
    assert _listed(fits + 1)[-1] == "1 violation from here on is not listed"
    assert _listed(fits) == ["\U0001f600" * 20] * fits


def _listed(number: int) -> list[str]:
    """What is said of so many violations."""
    error = errors.InvalidFieldError.of([Violation("content", "\U0001f600" * 20)] * number)
    return [item.description for item in details_of(to_status(error))["BadRequest"].field_violations]


def test_text_that_is_no_text_does_not_break_the_answer() -> None:
    assert to_status(errors.InternalError("bad \ud800 surrogate")).message == "bad ? surrogate"


def rpc_error(code: grpc.StatusCode, details: str = "ipv4:10.0.0.1:5432", *trailing: Any) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details=details)


@pytest.mark.parametrize(
    ("code", "cls"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.PeerUnavailableError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceededError),
        (grpc.StatusCode.CANCELLED, errors.CancelledError),
        (grpc.StatusCode.UNIMPLEMENTED, errors.MethodNotFoundError),
        (grpc.StatusCode.UNAUTHENTICATED, errors.UnauthenticatedError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.OverloadedError),
        (grpc.StatusCode.NOT_FOUND, errors.NotFoundError),
        (grpc.StatusCode.UNKNOWN, errors.InternalError),
        (grpc.StatusCode.DATA_LOSS, errors.InternalError),
    ],
)
def test_bare_codes_have_a_class_each(code: grpc.StatusCode, cls: type[MnemoError]) -> None:
    error = from_rpc_error(rpc_error(code), "index")
    assert type(error) is cls
    assert str(error)
    if code is not grpc.StatusCode.RESOURCE_EXHAUSTED:
        assert "10.0.0.1" not in str(error)


def test_an_unreachable_peer_is_named() -> None:
    error = from_rpc_error(rpc_error(grpc.StatusCode.UNAVAILABLE), "index")
    assert error.metadata == {"target": "index"}


def test_details_win_over_the_bare_code() -> None:
    status = to_status(errors.IndexLaggingError(space="a", wanted="2", applied="1", retry_after=0.5))
    error = from_rpc_error(
        rpc_error(grpc.StatusCode.UNAVAILABLE, "", (DETAILS_HEADER, status.SerializeToString())), "index"
    )
    assert type(error) is errors.IndexLaggingError
    assert error.retry_after == 0.5


def test_unreadable_details_are_an_internal_error() -> None:
    error = from_rpc_error(rpc_error(grpc.StatusCode.NOT_FOUND, "", (DETAILS_HEADER, b"\xff\xff")), "index")
    assert type(error) is errors.InternalError
