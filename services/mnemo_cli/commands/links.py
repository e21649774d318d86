"""`mnemo links`: set, remove and follow links between memories."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mnemo_cli import choices
from mnemo_cli.listings import at_most
from mnemo_cli.references import json_option, space_option
from mnemo_cli.shown import print_columns, print_json, shortened
from mnemo_cli.target import Target, connection_options

if TYPE_CHECKING:
    from mnemocore.client import Association, AssociationPath, Connection, Neighbourhood

_types = click.option("--type", "types", multiple=True, type=choices.link_type, help="Only this type; repeat it.")
_direction = click.option("--direction", type=choices.direction, help="Which way; both ways if not given.")


@click.group()
def links() -> None:
    """Links: how memories of one space have to do with one another. Memories are named by their ids."""


@links.command()
@click.argument("source")
@click.argument("target_id", metavar="TARGET")
@space_option
@click.option("--type", "type_name", type=choices.link_type, default="related", show_default=True, help="What sort.")
@click.option("--weight", type=click.FloatRange(0, 1, min_open=True), help="How strong; 0.3 for a new one.")
@click.option("--reinforce", is_flag=True, help="Strengthen it by one step instead.")
@json_option
@connection_options
def add(
    source: str,
    target_id: str,
    space: str,
    type_name: str,
    weight: float | None,
    reinforce: bool,
    as_json: bool,
    target: Target,
) -> None:
    """Link the memory SOURCE to the memory TARGET, or set the weight of the link."""
    if reinforce and weight is not None:
        raise click.UsageError("--weight and --reinforce cannot be given together")

    async def link(mnemo: Connection) -> Association:
        return await mnemo.space(space).associate(source, target_id, type=type_name, weight=weight, reinforce=reinforce)

    made = target.run(link)
    if as_json:
        print_json(made)
    else:
        click.echo(f"{made.source} {made.type} {made.target}, weight {made.weight:.3f}")


@links.command()
@click.argument("source")
@click.argument("target_id", metavar="TARGET")
@space_option
@click.option("--type", "type_name", type=choices.link_type, help="Only the link of this type; all if not given.")
@connection_options
def remove(source: str, target_id: str, space: str, type_name: str | None, target: Target) -> None:
    """Remove the links from the memory SOURCE to the memory TARGET."""

    async def unlink(mnemo: Connection) -> int:
        return await mnemo.space(space).dissociate(source, target_id, type=type_name)

    click.echo(f"removed {target.run(unlink)} links")


@links.command("list")
@click.argument("memory", required=False, default="")
@space_option
@_direction
@_types
@click.option("--min-weight", type=click.FloatRange(0, 1), default=0.0, help="At least so strong.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Links at most.")
@json_option
@connection_options
def list_links(
    memory: str,
    space: str,
    direction: str | None,
    types: tuple[str, ...],
    min_weight: float,
    limit: int,
    as_json: bool,
    target: Target,
) -> None:
    """List the links of a memory, or of the whole space, the strongest first."""

    async def read(mnemo: Connection) -> list[Association]:
        listing = mnemo.space(space).associations(
            memory, direction=direction, types=types, min_weight=min_weight, page_size=min(limit, 1000)
        )
        return await at_most(limit, listing)

    found = target.run(read)
    if as_json:
        print_json(found)
        return
    rows = ((link.source, link.type, link.target, f"{link.weight:.3f}", str(link.activations)) for link in found)
    print_columns(("FROM", "TYPE", "TO", "WEIGHT", "ACTIVATIONS"), rows)


@links.command()
@click.argument("source")
@click.argument("target_id", metavar="TARGET")
@space_option
@click.option("--hops", type=click.IntRange(1, 5), default=5, show_default=True, help="Links a path at most.")
@click.option("--limit", type=click.IntRange(1, 10), default=1, show_default=True, help="Paths at most.")
@_types
@_direction
@json_option
@connection_options
def paths(
    source: str,
    target_id: str,
    space: str,
    hops: int,
    limit: int,
    types: tuple[str, ...],
    direction: str | None,
    as_json: bool,
    target: Target,
) -> None:
    """Find the ways along links from the memory SOURCE to the memory TARGET, best first."""

    async def find(mnemo: Connection) -> list[AssociationPath]:
        return await mnemo.space(space).paths(
            source, target_id, max_hops=hops, limit=limit, types=types, direction=direction
        )

    found = target.run(find)
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo("no path found")
    for path in found:
        click.echo(f"weight {path.weight:.4f}")
        for link in path.associations:
            click.echo(f"    {link.source} {link.type} {link.target} ({link.weight:.3f})")


@links.command()
@click.argument("memories", nargs=-1, required=True, metavar="MEMORY...")
@space_option
@click.option("--hops", type=click.IntRange(1, 3), default=3, show_default=True, help="Hops at most.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Memories at most.")
@_types
@click.option("--without-sessions", is_flag=True, help="Follow links only, not the neighbours in sessions.")
@json_option
@connection_options
def around(
    memories: tuple[str, ...],
    space: str,
    hops: int,
    limit: int,
    types: tuple[str, ...],
    without_sessions: bool,
    as_json: bool,
    target: Target,
) -> None:
    """Show what is around some memories, the most active first."""

    async def spread(mnemo: Connection) -> Neighbourhood:
        return await mnemo.space(space).neighbourhood(
            memories, max_hops=hops, limit=limit, types=types, sessions=not without_sessions
        )

    found = target.run(spread)
    if as_json:
        print_json(found)
        return
    rows = (
        (f"{near.activation:.3f}", str(near.hops), near.memory.id, shortened(near.memory.content, 60))
        for near in found.neighbours
    )
    print_columns(("ACTIVATION", "HOPS", "MEMORY", "CONTENT"), rows)
