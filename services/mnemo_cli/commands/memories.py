"""`mnemo get`, `mnemo forget` and `mnemo restore`: one memory, by its name or id."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mnemo_cli import moments
from mnemo_cli.references import json_option, memory_reference, reason_option, space_of_id_option
from mnemo_cli.shown import moment, print_facts, print_json, printable
from mnemo_cli.target import Target, connection_options

if TYPE_CHECKING:
    from datetime import datetime

    from mnemocore.client import Connection, Memory


@click.command()
@click.argument("name_or_id")
@space_of_id_option
@click.option("--as-of", type=moments.time, metavar="TIME", help="As it was known at this time.")
@json_option
@connection_options
def get(name_or_id: str, space: str | None, as_of: datetime | None, as_json: bool, target: Target) -> None:
    """Show one memory, in whatever state it is.

    NAME_OR_ID is spaces/SPACE/memories/ID, or an id together with --space.
    """
    space_id, memory_id = memory_reference(name_or_id, space)

    async def read(mnemo: Connection) -> Memory:
        return await mnemo.space(space_id).get(memory_id, as_of=as_of)

    memory = target.run(read)
    if as_json:
        print_json(memory)
    else:
        _print_memory(memory)


@click.command()
@click.argument("name_or_id")
@space_of_id_option
@click.option("--purge", is_flag=True, help="Erase the memory and its history; it cannot be restored.")
@click.option("--yes", is_flag=True, help="Do not ask before erasing.")
@reason_option
@connection_options
def forget(name_or_id: str, space: str | None, purge: bool, yes: bool, reason: str, target: Target) -> None:
    """Take a memory out of recall; 'mnemo restore' takes it back.

    NAME_OR_ID is spaces/SPACE/memories/ID, or an id together with --space.
    """
    space_id, memory_id = memory_reference(name_or_id, space)
    if purge and not yes:
        click.confirm(f"Erase memory {memory_id} of space {space_id} for ever?", abort=True, err=True)

    async def delete(mnemo: Connection) -> None:
        await mnemo.space(space_id).forget(memory_id, purge=purge, reason=reason)

    target.run(delete)
    click.echo(f"{'erased' if purge else 'archived'} {memory_id}")


@click.command()
@click.argument("name_or_id")
@space_of_id_option
@reason_option
@connection_options
def restore(name_or_id: str, space: str | None, reason: str, target: Target) -> None:
    """Take an archived memory back into recall.

    NAME_OR_ID is spaces/SPACE/memories/ID, or an id together with --space.
    """
    space_id, memory_id = memory_reference(name_or_id, space)

    async def bring_back(mnemo: Connection) -> None:
        await mnemo.space(space_id).restore(memory_id, reason=reason)

    target.run(bring_back)
    click.echo(f"restored {memory_id}")


def _print_memory(memory: Memory) -> None:
    print_facts(
        {
            "name": memory.name,
            "kind": memory.kind,
            "state": memory.state,
            "protected": "yes" if memory.protected else "",
            "superseded by": memory.superseded_by,
            "supersedes": memory.supersedes,
            "actor": memory.actor,
            "session": memory.session,
            "ordinal": "" if memory.ordinal is None else str(memory.ordinal),
            "occurred": moment(memory.occurred_at),
            **_periods(memory),
            "written": moment(memory.create_time),
            "tags": ", ".join(memory.tags),
            "importance": f"{memory.importance:g}",
            "confidence": f"{memory.confidence:g}",
            **_use(memory),
            **_sources(memory),
            **{f"metadata.{key}": str(value) for key, value in sorted(memory.metadata.items())},
        }
    )
    click.echo(f"\n{printable(memory.content)}")


def _periods(memory: Memory) -> dict[str, str]:
    named = {"valid from": memory.valid_from, "valid to": memory.valid_to, "expires": memory.expires_at}
    return {label: moment(time) for label, time in named.items() if time}


def _use(memory: Memory) -> dict[str, str]:
    last = f", last {moment(memory.last_accessed_at)}" if memory.last_accessed_at else ""
    retention = "" if memory.retention is None else f"{memory.retention:.3f} ({memory.retention_state})"
    return {
        "strength": f"{memory.strength:.3f}",
        "retention": retention,
        "reliability": f"{memory.reliability:.3f}",
        "uses": f"{memory.access_count}{last}",
        "tier": memory.tier,
    }


def _sources(memory: Memory) -> dict[str, str]:
    media, provenance = memory.media, memory.provenance
    return {
        "media": f"{media.mime_type}, {media.size} bytes, {media.name}" if media else "",
        "origin": provenance.origin if provenance else "",
        "agent": provenance.agent if provenance else "",
        "sources": ", ".join(provenance.sources) if provenance else "",
    }
