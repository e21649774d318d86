"""The options that say what is done by itself in a space, and what it may hold."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from mnemo_cli import choices, moments

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from mnemocore.client import SpacePolicy

T = TypeVar("T")

NONE: Final = "none"
"""What takes a period or a limit away."""


def _period(text: str) -> timedelta | str:
    return text if text == NONE else moments.span(text)


def _limit(text: str) -> int | str:
    if text == NONE:
        return text
    if not text.isdecimal() or not 0 < int(text) < 2**63:
        raise click.BadParameter(f"{text!r} is not allowed; allowed are whole numbers from 1, and {NONE}")
    return int(text)


_OPTIONS: Final = (
    click.option("--access", type=choices.access, help="Who may use it: all of the tenant, or the owner alone."),
    click.option(
        "--novelty-gate",
        type=click.Choice(["off", "on"]),
        help="Whether new memories are compared with what is known.",
    ),
    click.option(
        "--erase-expired-after", type=_period, metavar="SPAN|none", help="Erase memories so long after they expired."
    ),
    click.option(
        "--erase-archived-after", type=_period, metavar="SPAN|none", help="Erase memories so long after archiving."
    ),
    click.option("--max-memories", type=_limit, metavar="N|none", help="Memories it may hold."),
    click.option("--max-bytes", type=_limit, metavar="N|none", help="Bytes it may hold."),
    click.option("--max-content-bytes", type=_limit, metavar="N|none", help="Bytes one memory may have."),
)
_PARTS: Final = (
    "access",
    "novelty_gate",
    "erase_expired_after",
    "erase_archived_after",
    "max_memories",
    "max_bytes",
    "max_content_bytes",
)


def policy_options(command: Callable[..., T]) -> Callable[..., T]:
    """Give `command` the options of a policy; it gets those that were given as `parts`, as `set_policy` takes them."""

    @functools.wraps(command)
    def with_parts(*args: Any, **options: Any) -> T:
        given = {part: options.pop(part) for part in _PARTS}
        parts = {part: None if value == NONE else value for part, value in given.items() if value is not None}
        return command(*args, parts=parts, **options)

    wrapped: Callable[..., T] = with_parts
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


def policy_of(parts: dict[str, Any]) -> SpacePolicy:
    """The policy with these parts, and the defaults for all others."""
    from mnemocore.client import RetentionPolicy, SpaceLimits, SpacePolicy

    def chosen(*names: str) -> dict[str, Any]:
        return {name: parts[name] for name in names if name in parts}

    return SpacePolicy(
        **chosen("access", "novelty_gate"),
        retention=RetentionPolicy(**chosen("erase_expired_after", "erase_archived_after")),
        limits=SpaceLimits(**chosen("max_memories", "max_bytes", "max_content_bytes")),
    )
