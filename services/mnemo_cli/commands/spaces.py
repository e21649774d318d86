"""`mnemo spaces`: list, show, make and republish spaces."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mnemo_cli.shown import moment, print_columns, print_json, printable
from mnemo_cli.target import Target, connection_options

if TYPE_CHECKING:
    from mnemocore.client import Connection, SpaceInfo

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def spaces() -> None:
    """Spaces: the walls around the memories of an agent, a user or a project."""


@spaces.command("list")
@_json
@connection_options
def list_spaces(as_json: bool, target: Target) -> None:
    """List all spaces by name."""

    async def read(mnemo: Connection) -> list[SpaceInfo]:
        return [space async for space in mnemo.spaces()]

    found = target.run(read)
    if as_json:
        print_json(found)
        return
    headers = ("SPACE", "ACTIVE", "ARCHIVED", "REVISION", "CREATED", "DESCRIPTION")
    print_columns(headers, (_row(space) for space in found))


@spaces.command()
@click.argument("space")
@_json
@connection_options
def show(space: str, as_json: bool, target: Target) -> None:
    """Show one space and its counts."""

    async def read(mnemo: Connection) -> SpaceInfo:
        return await mnemo.space(space).info()

    _print_space(target.run(read), as_json)


@spaces.command()
@click.argument("space")
@click.option("--description", default="", help="What the space is for.")
@_json
@connection_options
def create(space: str, description: str, as_json: bool, target: Target) -> None:
    """Make a space: 1 to 63 lower-case letters, digits, - or _, a letter or digit first."""

    async def make(mnemo: Connection) -> SpaceInfo:
        return await mnemo.create_space(space, description=description)

    _print_space(target.run(make, create=True), as_json)


@spaces.command()
@click.argument("space")
@connection_options
def republish(space: str, target: Target) -> None:
    """Publish every active memory of a space again, so that indexes rebuild what they hold of it."""

    async def publish(mnemo: Connection) -> int:
        return await mnemo.space(space).republish()

    click.echo(f"published {target.run(publish)} memories again")


def _row(space: SpaceInfo) -> tuple[str, ...]:
    counts = (str(space.active_memories), str(space.archived_memories), str(space.revision))
    return space.id, *counts, moment(space.create_time), space.description


def _print_space(space: SpaceInfo, as_json: bool) -> None:
    if as_json:
        print_json(space)
        return
    click.echo(f"space: {space.id}")
    if space.description:
        click.echo(f"description: {printable(space.description)}")
    click.echo(f"memories: {space.active_memories} active, {space.archived_memories} archived")
    click.echo(f"revision: {space.revision} (published up to {space.published_revision})")
    click.echo(f"created: {moment(space.create_time)}")
