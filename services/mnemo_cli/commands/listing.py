"""`mnemo list` and `mnemo history`: memories and their changes, page by page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from mnemo_cli import choices, moments
from mnemo_cli.filters import filter_options
from mnemo_cli.listings import at_most
from mnemo_cli.references import json_option, memory_reference, space_option
from mnemo_cli.shown import moment, print_columns, print_json, shortened
from mnemo_cli.target import Target, connection_options

if TYPE_CHECKING:
    from datetime import datetime

    from mnemocore.client import Connection, Memory, MemoryFilter, Revision

CONTENT_LENGTH: Final = 60
"""Characters of a memory in a row."""

_limit = click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many.")


@click.command("list")
@space_option
@filter_options
@click.option("--state", "states", multiple=True, type=choices.state, help="Any of these states; active if none.")
@_limit
@json_option
@connection_options
def list_memories(
    space: str, chosen: MemoryFilter, states: tuple[str, ...], limit: int, as_json: bool, target: Target
) -> None:
    """List memories, newest first."""

    async def read(mnemo: Connection) -> list[Memory]:
        return await at_most(limit, mnemo.space(space).list(filter=chosen, states=states, page_size=min(limit, 1000)))

    found = target.run(read)
    if as_json:
        print_json(found)
    else:
        print_columns(("MEMORY", "STATE", "KIND", "HAPPENED", "ACTOR", "CONTENT"), map(_memory_row, found))


@click.command()
@click.argument("name_or_id", required=False)
@click.option("--space", metavar="SPACE", help="The space; all of it if no memory is named.")
@click.option("--as-of", type=moments.time, metavar="TIME", help="Only what was committed until this time.")
@_limit
@json_option
@connection_options
def history(
    name_or_id: str | None, space: str | None, as_of: datetime | None, limit: int, as_json: bool, target: Target
) -> None:
    """List what happened to a memory, or in a whole space, oldest first.

    NAME_OR_ID is spaces/SPACE/memories/ID, or an id together with --space.
    """
    if name_or_id is not None:
        space_id, memory_id = memory_reference(name_or_id, space)
    elif space:
        space_id, memory_id = space, None
    else:
        raise click.UsageError("give the name of a memory, or --space for a whole space")

    async def read(mnemo: Connection) -> list[Revision]:
        pages = min(limit, 1000)
        return await at_most(limit, mnemo.space(space_id).history(memory_id, as_of=as_of, page_size=pages))

    found = target.run(read)
    if as_json:
        print_json(found)
    else:
        print_columns(("REVISION", "WHEN", "CHANGE", "MEMORY", "BY", "REASON"), map(_revision_row, found))


def _memory_row(memory: Memory) -> tuple[str, ...]:
    facts = (memory.id, memory.state, memory.kind, moment(memory.occurred_at), shortened(memory.actor, 20))
    return *facts, shortened(memory.content, CONTENT_LENGTH)


def _revision_row(revision: Revision) -> tuple[str, ...]:
    what = (str(revision.revision), moment(revision.commit_time), revision.change, revision.memory.id)
    return *what, revision.principal, shortened(revision.reason, CONTENT_LENGTH)
