"""The options that say which memories a command is about."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from mnemo_cli import choices, moments

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_FIELDS: Final = (
    "kinds",
    "tags",
    "actors",
    "sessions",
    "occurred_from",
    "occurred_to",
    "created_from",
    "created_to",
    "valid_at",
    "min_importance",
    "modalities",
)
_OPTIONS: Final = (
    click.option("--kind", "kinds", multiple=True, type=choices.kind, help="Only this kind; repeat it for several."),
    click.option("--tag", "tags", multiple=True, help="Only what carries this tag; repeat it for all of several."),
    click.option("--actor", "actors", multiple=True, help="Only what this one said or did; repeat it for several."),
    click.option("--session", "sessions", multiple=True, help="Only this session; repeat it for any of several."),
    click.option("--from", "occurred_from", type=moments.time, metavar="TIME", help="Happened at or after this time."),
    click.option("--to", "occurred_to", type=moments.time, metavar="TIME", help="Happened before this time."),
    click.option(
        "--written-from", "created_from", type=moments.time, metavar="TIME", help="Written at or after this time."
    ),
    click.option("--written-to", "created_to", type=moments.time, metavar="TIME", help="Written before this time."),
    click.option("--valid-at", type=moments.time, metavar="TIME", help="True in the world at this time."),
    click.option("--min-importance", type=click.FloatRange(0, 1), help="At least so important."),
    click.option(
        "--modality", "modalities", multiple=True, type=choices.modality, help="Only this modality; repeat it."
    ),
)


def filter_options(command: Callable[..., T]) -> Callable[..., T]:
    """Give `command` the options that choose memories; it gets them as `chosen`, a MemoryFilter."""

    @functools.wraps(command)
    def with_filter(*args: Any, **options: Any) -> T:
        from mnemocore.client import MemoryFilter

        fields = {field: options.pop(field) for field in _FIELDS}
        return command(*args, chosen=MemoryFilter(**fields), **options)

    wrapped: Callable[..., T] = with_filter
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped
