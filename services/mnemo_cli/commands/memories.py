"""`mnemo get`, `mnemo forget` and `mnemo restore`: one memory, by its name or id."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import click

from mnemo_cli.shown import moment, print_json, printable
from mnemo_cli.target import Target, connection_options

if TYPE_CHECKING:
    from mnemocore.client import Connection, Memory

_NAME: Final = re.compile(r"spaces/([^/]+)/memories/([^/]+)")

_space = click.option("--space", metavar="SPACE", help="The space, when only the id of the memory is given.")
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
_reason = click.option("--reason", default="", help="Why; kept in the history.")


@click.command()
@click.argument("name_or_id")
@_space
@_json
@connection_options
def get(name_or_id: str, space: str | None, as_json: bool, target: Target) -> None:
    """Show one memory, in whatever state it is.

    NAME_OR_ID is spaces/SPACE/memories/ID, or an id together with --space.
    """
    space_id, memory_id = _reference(name_or_id, space)

    async def read(mnemo: Connection) -> Memory:
        return await mnemo.space(space_id).get(memory_id)

    memory = target.run(read)
    if as_json:
        print_json(memory)
    else:
        _print_memory(memory)


@click.command()
@click.argument("name_or_id")
@_space
@click.option("--purge", is_flag=True, help="Erase the memory and its history; it cannot be restored.")
@click.option("--yes", is_flag=True, help="Do not ask before erasing.")
@_reason
@connection_options
def forget(name_or_id: str, space: str | None, purge: bool, yes: bool, reason: str, target: Target) -> None:
    """Take a memory out of recall; 'mnemo restore' takes it back.

    NAME_OR_ID is spaces/SPACE/memories/ID, or an id together with --space.
    """
    space_id, memory_id = _reference(name_or_id, space)
    if purge and not yes:
        click.confirm(f"Erase memory {memory_id} of space {space_id} for ever?", abort=True, err=True)

    async def delete(mnemo: Connection) -> None:
        await mnemo.space(space_id).forget(memory_id, purge=purge, reason=reason)

    target.run(delete)
    click.echo(f"{'erased' if purge else 'archived'} {memory_id}")


@click.command()
@click.argument("name_or_id")
@_space
@_reason
@connection_options
def restore(name_or_id: str, space: str | None, reason: str, target: Target) -> None:
    """Take an archived memory back into recall.

    NAME_OR_ID is spaces/SPACE/memories/ID, or an id together with --space.
    """
    space_id, memory_id = _reference(name_or_id, space)

    async def bring_back(mnemo: Connection) -> None:
        await mnemo.space(space_id).restore(memory_id, reason=reason)

    target.run(bring_back)
    click.echo(f"restored {memory_id}")


def _reference(name_or_id: str, space: str | None) -> tuple[str, str]:
    """The ids of the space and of the memory."""
    match = _NAME.fullmatch(name_or_id)
    if match is None:
        if not space:
            raise click.UsageError(f"give --space with the id {name_or_id!r}, or the name spaces/SPACE/memories/ID")
        return space, name_or_id
    if space and space != match[1]:
        raise click.UsageError(f"--space {space} and the name {name_or_id} differ")
    return match[1], match[2]


def _print_memory(memory: Memory) -> None:
    facts = {
        "name": memory.name,
        "kind": memory.kind,
        "state": memory.state,
        "actor": memory.actor,
        "session": memory.session,
        "ordinal": "" if memory.ordinal is None else str(memory.ordinal),
        "occurred": moment(memory.occurred_at),
        "written": moment(memory.create_time),
        "tags": ", ".join(memory.tags),
        "importance": f"{memory.importance:g}",
        "confidence": f"{memory.confidence:g}",
        **{f"metadata.{key}": str(value) for key, value in sorted(memory.metadata.items())},
    }
    for label, value in facts.items():
        if value:
            click.echo(f"{label}: {printable(value)}")
    click.echo(f"\n{printable(memory.content)}")
