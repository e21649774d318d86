"""Places in the log of events, and filters of events, as options of a command."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mnemo_cli import moments

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

T = TypeVar("T")

PLACE = "earliest|latest|POSITION|TIME"


def place(text: str) -> int | datetime | str:
    """`earliest`, `latest`, a position, or a time. Raises click.BadParameter."""
    if text in ("earliest", "latest"):
        return text
    if text.isascii() and text.isdecimal() and len(text) < 19:
        return int(text)
    try:
        return moments.time(text)
    except click.BadParameter as error:
        allowed = "earliest, latest, a position, and times such as 2026-01-31 and 2026-01-31T12:00:00Z"
        raise click.BadParameter(f"{error.message.partition(';')[0]}; allowed are {allowed}") from None


def filter_options(command: Callable[..., T]) -> Callable[..., T]:
    """Give `command` the options that choose events; it gets them as `where`, as the client takes them."""

    @click.option(
        "--type", "types", multiple=True, metavar="PATTERN", help="Only this type: a.b, a.* or a.**; repeat it."
    )
    @click.option(
        "--subject",
        "subjects",
        multiple=True,
        metavar="PATTERN",
        help="Only this subject: a/b, a/* or a/**; repeat it.",
    )
    @functools.wraps(command)
    def with_filter(*args: Any, types: tuple[str, ...], subjects: tuple[str, ...], **options: Any) -> T:
        return command(*args, where={"types": types, "subjects": subjects}, **options)

    return with_filter
