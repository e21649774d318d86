"""Policies and refusals as messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnemo_events.domain.access import Action
from mnemocore.errors import InvalidFieldError, Violation
from mnemocore.events.v1 import resources_pb2
from mnemocore.wire import to_timestamp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mnemo_events.domain.access import Policy
    from mnemo_events.domain.refusals import Refusal


def to_actions(numbers: Iterable[int], field: str) -> list[Action]:
    """The actions of a request. Raises InvalidFieldError that names those which are not declared."""
    given = list(numbers)
    if broken := [
        Violation(f"{field}[{index}]", "is not declared; allowed are PUBLISH and SUBSCRIBE")
        for index, number in enumerate(given)
        if number not in tuple(Action)
    ]:
        raise InvalidFieldError.of(broken)
    return [Action(number) for number in given]


def from_policy(policy: Policy) -> resources_pb2.AccessPolicy:
    """A policy for an answer."""
    return resources_pb2.AccessPolicy(
        name=f"policies/{policy.id}",
        principal=policy.principal,
        actions=[resources_pb2.AccessAction.ValueType(action) for action in policy.actions],
        types=policy.types,
        subjects=policy.subjects,
        create_time=to_timestamp(policy.created_at),
    )


def from_refusal(refusal: Refusal) -> resources_pb2.Refusal:
    """A refusal for an answer."""
    return resources_pb2.Refusal(
        principal=refusal.key.principal,
        action=resources_pb2.AccessAction.ValueType(refusal.key.action),
        target=refusal.key.target,
        method=refusal.key.method,
        count=refusal.count,
        first_time=to_timestamp(refusal.first_at),
        last_time=to_timestamp(refusal.last_at),
    )
