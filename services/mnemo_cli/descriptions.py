"""The options that say what a memory is, and the text of one."""

from __future__ import annotations

import functools
import json
import sys
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from mnemo_cli import choices, moments

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

STDIN: Final = "-"

_SHARE: Final = click.FloatRange(0, 1)


def _metadata(text: str) -> dict[str, Any]:
    """A JSON object. Raises click.BadParameter."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise click.BadParameter(f'{text!r} is not an object; allowed are such as \'{{"source": "chat"}}\'')
    return found


_OPTIONS: Final = (
    click.option("--kind", type=choices.kind, help="What sort of thing it is."),
    click.option("--tag", "tags", multiple=True, help="A label; repeat it."),
    click.option("--actor", help="Who said or did it."),
    click.option("--metadata", type=_metadata, metavar="JSON", help="Anything to keep beside the text, as an object."),
    click.option("--occurred", "occurred_at", type=moments.time, metavar="TIME", help="When it happened."),
    click.option("--valid-from", type=moments.time, metavar="TIME", help="From when it is true in the world."),
    click.option("--valid-to", type=moments.time, metavar="TIME", help="Until when it is true in the world."),
    click.option("--ttl", type=moments.span, metavar="SPAN", help="How long it lives: 10m, 2h, 30d."),
    click.option("--expires", "expires_at", type=moments.time, metavar="TIME", help="When it expires."),
    click.option("--importance", type=_SHARE, help="How much it matters, 0 to 1."),
    click.option("--confidence", type=_SHARE, help="How sure the source is, 0 to 1."),
    click.option("--origin", type=choices.origin, help="Where it comes from."),
    click.option("--source", "sources", multiple=True, help="What leads to where it comes from; repeat it."),
)
_FIELDS: Final = (
    "kind",
    "tags",
    "actor",
    "metadata",
    "occurred_at",
    "valid_from",
    "valid_to",
    "ttl",
    "expires_at",
    "importance",
    "confidence",
)


def description_options(command: Callable[..., T]) -> Callable[..., T]:
    """Give `command` the options that describe a memory; it gets what was given as `fields` of MemoryInput."""

    @functools.wraps(command)
    def with_fields(*args: Any, origin: str | None, sources: tuple[str, ...], **options: Any) -> T:
        given = {field: options.pop(field) for field in _FIELDS}
        fields = {field: value for field, value in given.items() if value not in (None, ())}
        if "ttl" in fields and "expires_at" in fields:
            raise click.UsageError("--ttl and --expires cannot be given together")
        if origin or sources:
            from mnemocore.client import Provenance

            fields["provenance"] = Provenance(origin or "unknown", sources)
        return command(*args, fields=fields, **options)

    wrapped: Callable[..., T] = with_fields
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


def text_of(argument: str) -> str:
    """The text that was typed, or for `-` what standard input holds, without the line break at its end."""
    if argument != STDIN:
        return argument
    try:
        return sys.stdin.buffer.read().decode().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"standard input is not UTF-8 (byte {error.start})") from None
