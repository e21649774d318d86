"""`mnemo update`, `mnemo supersede`, `mnemo feedback` and `mnemo protect`: what changes one memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from mnemo_cli.descriptions import description_options, text_of
from mnemo_cli.references import etag_option, json_option, memory_reference, reason_option, space_of_id_option
from mnemo_cli.shown import print_json
from mnemo_cli.target import Target, connection_options

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mnemocore.client import Memory, Space

CLEARABLE: Final = (
    "kind",
    "tags",
    "actor",
    "metadata",
    "occurred_at",
    "valid_from",
    "valid_to",
    "expires_at",
    "importance",
    "confidence",
    "provenance",
)


@click.command()
@click.argument("name_or_id")
@space_of_id_option
@click.option("--content", help="The new text; - reads it from standard input.")
@description_options
@click.option("--clear", multiple=True, type=click.Choice(CLEARABLE), help="Empty this field; repeat it.")
@etag_option
@reason_option
@json_option
@connection_options
def update(
    name_or_id: str,
    space: str | None,
    content: str | None,
    fields: dict[str, Any],
    clear: tuple[str, ...],
    etag: str,
    reason: str,
    as_json: bool,
    target: Target,
) -> None:
    """Change the fields of a memory that are given, and nothing else. Tags and metadata are replaced as a whole.

    NAME_OR_ID is spaces/SPACE/memories/ID, or an id together with --space.
    """
    if content is not None:
        fields["content"] = text_of(content)
    both = fields.keys() & set(clear)
    if both:
        raise click.UsageError(f"{', '.join(sorted(both))}: cannot be given and cleared")
    if "ttl" in fields and "expires_at" in clear:
        raise click.UsageError("expires_at: cannot be given by --ttl and cleared")
    fields |= dict.fromkeys(clear)
    if not fields:
        raise click.UsageError("name at least one field to change; see 'mnemo update --help'")
    _change(
        name_or_id, space, target, lambda at, id: at.update(id, etag=etag, reason=reason, **fields), "updated", as_json
    )


@click.command()
@click.argument("name_or_id")
@click.argument("text")
@space_of_id_option
@description_options
@etag_option
@reason_option
@json_option
@connection_options
def supersede(
    name_or_id: str,
    text: str,
    space: str | None,
    fields: dict[str, Any],
    etag: str,
    reason: str,
    as_json: bool,
    target: Target,
) -> None:
    """Keep TEXT as a memory that takes the place of another one; - reads it from standard input.

    NAME_OR_ID, of the old one, is spaces/SPACE/memories/ID, or an id together with --space. The new one has its kind
    unless --kind says otherwise. Prints the name of the new one.
    """
    content = text_of(text)

    async def replace(at: Space, memory_id: str) -> Memory:
        from mnemocore.client import MemoryInput

        fields.setdefault("kind", (await at.get(memory_id)).kind)
        return await at.supersede(memory_id, MemoryInput(content, **fields), etag=etag, reason=reason)

    _change(name_or_id, space, target, replace, "superseded by", as_json)


@click.command()
@click.argument("name_or_id")
@space_of_id_option
@click.option("--good/--bad", "positive", default=None, help="Whether it proved right or useful.")
@click.option("--weight", type=click.FloatRange(0.001, 10), help="How much the feedback counts; 1 if not given.")
@reason_option
@json_option
@connection_options
def feedback(
    name_or_id: str,
    space: str | None,
    positive: bool | None,
    weight: float | None,
    reason: str,
    as_json: bool,
    target: Target,
) -> None:
    """Say whether a memory proved right or useful; moves its reliability.

    NAME_OR_ID is spaces/SPACE/memories/ID, or an id together with --space.
    """
    if positive is None:
        raise click.UsageError("give --good or --bad")
    said = positive
    _change(
        name_or_id,
        space,
        target,
        lambda at, id: at.feedback(id, said, weight=weight, reason=reason),
        "recorded for",
        as_json,
    )


@click.command()
@click.argument("name_or_id")
@space_of_id_option
@click.option("--off", is_flag=True, help="Take the protection away.")
@etag_option
@reason_option
@json_option
@connection_options
def protect(
    name_or_id: str, space: str | None, off: bool, etag: str, reason: str, as_json: bool, target: Target
) -> None:
    """Keep a memory from being archived, erased and forgotten, or with --off no longer.

    NAME_OR_ID is spaces/SPACE/memories/ID, or an id together with --space.
    """

    async def guard(at: Space, memory_id: str) -> Memory:
        return await (at.unprotect if off else at.protect)(memory_id, etag=etag, reason=reason)

    _change(name_or_id, space, target, guard, "unprotected" if off else "protected", as_json)


def _change(
    name_or_id: str,
    space: str | None,
    target: Target,
    change: Callable[[Space, str], Awaitable[Memory]],
    done: str,
    as_json: bool,
) -> None:
    """Make a change, and print the memory it returns: what was done and its name, or all of it as JSON."""
    space_id, memory_id = memory_reference(name_or_id, space)
    memory = target.run(lambda mnemo: change(mnemo.space(space_id), memory_id))
    if as_json:
        print_json(memory)
    else:
        click.echo(f"{done} {memory.name}")
