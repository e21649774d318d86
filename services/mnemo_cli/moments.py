"""Times as options of a command: functions that click calls with what was typed."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

import click

_SPAN: Final = re.compile(r"(\d{1,6})([smhdw])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def time(text: str) -> datetime:
    """A time of RFC 3339, or the first moment of a date in UTC. Raises click.BadParameter."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        allowed = "2026-01-31 and 2026-01-31T12:00:00Z"
        raise click.BadParameter(f"{text!r} is not a time; allowed are such as {allowed}") from None
    if found.tzinfo is not None:
        return found
    if len(text) > len("2026-01-31"):
        raise click.BadParameter(f"{text!r} has no time zone; append Z for UTC")
    return found.replace(tzinfo=UTC)


def span(text: str) -> timedelta:
    """A span such as `90s`, `10m`, `2h`, `30d` or `4w`. Raises click.BadParameter."""
    found = _SPAN.fullmatch(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is not a span; allowed are such as 90s, 10m, 2h, 30d and 4w")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def expiry(text: str) -> datetime:
    """A span from now such as `30d` (s, m, h, d, w), or a time. Raises click.BadParameter."""
    if _SPAN.fullmatch(text) is None:
        return time(text)
    try:
        return datetime.now(UTC) + span(text)
    except OverflowError:
        raise click.BadParameter(f"{text!r} is too far away; leave the option out for never") from None
