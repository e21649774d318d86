"""Times as options of a command."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

import click

_SPAN: Final = re.compile(r"(\d{1,6})([smhdw])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Moment(click.ParamType):
    """A time: RFC 3339, or a date, which means its first moment in UTC."""

    name = "time"

    def convert(self, value: str | datetime, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """The time, timezone-aware."""
        if isinstance(value, datetime):
            return value
        try:
            time = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not a time; allowed are 2026-01-31 and 2026-01-31T12:00:00Z", param, ctx)
        if time.tzinfo is not None:
            return time
        if len(value) > len("2026-01-31"):
            self.fail(f"{value!r} has no time zone; append Z for UTC", param, ctx)
        return time.replace(tzinfo=UTC)


class Expiry(Moment):
    """A time to come: a span from now such as `30d` (s, m, h, d, w), or a Moment."""

    name = "span or time"

    def convert(self, value: str | datetime, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """The time, timezone-aware."""
        span = _SPAN.fullmatch(value) if isinstance(value, str) else None
        if span:
            return datetime.now(UTC) + timedelta(**{_UNITS[span[2]]: int(span[1])})
        return super().convert(value, param, ctx)


MOMENT: Final = Moment()
EXPIRY: Final = Expiry()
