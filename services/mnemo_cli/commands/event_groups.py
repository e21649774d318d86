"""`mnemo events groups` and `mnemo events replay`: consumer groups, and where they are in the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mnemo_cli import moments
from mnemo_cli.listings import at_most
from mnemo_cli.places import PLACE, filter_options, place
from mnemo_cli.references import json_option
from mnemo_cli.shown import moment, plain, print_columns, print_facts, print_json
from mnemo_cli.target import Target, connection_options

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from mnemocore.client import Connection, ConsumerGroup


@click.group()
def groups() -> None:
    """Consumer groups: members that share events, each of which is done by one of them."""


@groups.command("list")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Groups at most.")
@json_option
@connection_options
def list_groups(limit: int, as_json: bool, target: Target) -> None:
    """List the groups by name, and how they stand."""

    async def read(mnemo: Connection) -> list[ConsumerGroup]:
        return await at_most(limit, mnemo.events.groups(page_size=min(limit, 1000)))

    found = target.run(read)
    if as_json:
        print_json(found)
        return
    headers = ("GROUP", "TYPES", "POSITION", "LAG", "IN FLIGHT", "WAITING", "DEAD", "OWNER")
    print_columns(headers, map(_row, found))


@groups.command()
@click.argument("group")
@filter_options
@click.option("--max-attempts", type=click.IntRange(1, 100), default=5, show_default=True, help="Attempts an event.")
@click.option("--lease", type=moments.span, metavar="SPAN", help="How long a member has an event; 60s if not given.")
@click.option(
    "--from", "start", type=place, default="latest", metavar=PLACE, show_default=True, help="Where it begins."
)
@json_option
@connection_options
def create(
    group: str,
    where: dict[str, Any],
    max_attempts: int,
    lease: timedelta | None,
    start: int | datetime | str,
    as_json: bool,
    target: Target,
) -> None:
    """Make a group. The same group again changes nothing."""

    async def make(mnemo: Connection) -> ConsumerGroup:
        return await mnemo.events.create_group(
            group,
            **where,
            max_attempts=max_attempts,
            lease=lease,
            start=start,  # type: ignore[arg-type]  # `place` gives nothing else
        )

    _print_group(target.run(make, create=True), as_json)


@groups.command()
@click.argument("group")
@json_option
@connection_options
def show(group: str, as_json: bool, target: Target) -> None:
    """Show a group and how it stands."""

    async def read(mnemo: Connection) -> ConsumerGroup:
        return await mnemo.events.group(group)

    _print_group(target.run(read), as_json)


@groups.command()
@click.argument("group")
@click.option("--yes", is_flag=True, help="Do not ask.")
@connection_options
def delete(group: str, yes: bool, target: Target) -> None:
    """Delete a group with its dead letters."""
    if not yes:
        click.confirm(f"Delete the group {group} with its dead letters?", abort=True, err=True)

    async def remove(mnemo: Connection) -> bool:
        return await mnemo.events.delete_group(group)

    click.echo(f"deleted {group}" if target.run(remove) else f"there is no group {group}")


@click.command()
@click.argument("group")
@click.option("--from", "start", type=place, required=True, metavar=PLACE, help="Where it goes on.")
@json_option
@connection_options
def replay(group: str, start: int | datetime | str, as_json: bool, target: Target) -> None:
    """Let a group go on from another place: back to do events again, ahead to leave some out."""

    async def seek(mnemo: Connection) -> ConsumerGroup:
        return await mnemo.events.seek_group(group, start)  # type: ignore[arg-type]  # `place` gives nothing else

    _print_group(target.run(seek), as_json)


def _row(group: ConsumerGroup) -> tuple[str, ...]:
    counts = (group.position, group.lag, group.in_flight, group.waiting, group.dead)
    return group.id, " ".join(group.types) or "all", *map(str, counts), group.owner


def _print_group(group: ConsumerGroup, as_json: bool) -> None:
    if as_json:
        print_json(group)
        return
    print_facts(
        {
            "group": group.id,
            "types": " ".join(group.types) or "all",
            "subjects": " ".join(group.subjects),
            "position": f"{group.position} ({group.lag} behind the log)",
            "in flight": str(group.in_flight),
            "waiting": str(group.waiting),
            "dead letters": str(group.dead),
            "attempts at most": str(group.max_attempts),
            "lease": str(plain(group.lease) or ""),
            "owner": group.owner,
            "created": moment(group.create_time),
        }
    )
