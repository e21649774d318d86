"""Filters and states as SQL conditions over `memory.memories`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mnemo_memory.domain.memory import State
from mnemo_memory.storage import rows

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from mnemo_memory.domain.memory import Filter

# As `rows.to_memory` tells archived from expired and superseded ones; `now` is a parameter.
ARCHIVED: Final = (
    "(state = 2 AND (archived_at IS NOT NULL OR "
    "(superseded_by IS NULL AND (expires_at IS NULL OR expires_at > updated_at))))"
)
_EXPIRED: Final = f"(NOT {ARCHIVED} AND expires_at IS NOT NULL AND expires_at <= {{now}})"
_NOT_EXPIRED: Final = "(expires_at IS NULL OR expires_at > {now})"
STATES: Final = {
    State.ACTIVE: f"(state = 1 AND superseded_by IS NULL AND {_NOT_EXPIRED})",
    State.ARCHIVED: ARCHIVED,
    State.EXPIRED: _EXPIRED,
    State.SUPERSEDED: f"(superseded_by IS NOT NULL AND NOT {ARCHIVED} AND {_NOT_EXPIRED})",
    State.ERASED: "false",
}


class Conditions:
    """Conditions joined by AND, and the values of their parameters, which are numbered after `values`."""

    def __init__(self, *values: Any) -> None:
        self.values: list[Any] = list(values)
        self._conditions: list[str] = []

    def add(self, condition: str, *values: Any) -> None:
        """Add a condition in which each `{}` stands for one of `values`."""
        self._conditions.append(condition.format(*[self.parameter(value) for value in values]))

    def parameter(self, value: Any) -> str:
        """The placeholder of a new parameter."""
        self.values.append(value)
        return f"${len(self.values)}"

    @property
    def sql(self) -> str:
        """The conditions, `true` if there is none."""
        return " AND ".join(self._conditions) or "true"

    def filter(self, where: Filter) -> None:
        """Add what `where` says; in an encrypted space it is blinded already."""
        if where.nothing:
            self.add("false")
        if where.kinds:
            self.add("kind = ANY({}::smallint[])", [int(kind) for kind in where.kinds])
        if where.tags:
            self.add("tags @> {}::text::jsonb", rows.to_json(where.tags))
        if where.actors:
            self.add("actor = ANY({}::text[])", list(where.actors))
        if where.sessions:
            self.add("session = ANY({}::text[]) AND session <> ''", list(where.sessions))
        if where.modalities:
            self.add("modality = ANY({}::smallint[])", [int(modality) for modality in where.modalities])
        if where.min_importance is not None:
            self.add("importance >= {}", where.min_importance)
        for key, value in where.metadata.items():
            self.add("metadata -> {}::text = {}::text::jsonb", key, rows.to_json(value))
        self._times(where)

    def states(self, states: Collection[State], now: datetime) -> None:
        """Add that the memory is in one of `states` at `now`."""
        any_of = " OR ".join(STATES[state] for state in states) or "false"
        if "{now}" in any_of:
            any_of = any_of.replace("{now}", f"{self.parameter(now)}::timestamptz")
        self._conditions.append(f"({any_of})")

    def _times(self, where: Filter) -> None:
        if where.occurred_from:
            self.add("occurred_at >= {}", where.occurred_from)
        if where.occurred_to:
            self.add("occurred_at < {}", where.occurred_to)
        if where.created_from:
            self.add("created_at >= {}", where.created_from)
        if where.created_to:
            self.add("created_at < {}", where.created_to)
        if where.valid_at:
            self.add("(valid_from IS NULL OR valid_from <= {})", where.valid_at)
            self.add("(valid_to IS NULL OR valid_to > {})", where.valid_at)
