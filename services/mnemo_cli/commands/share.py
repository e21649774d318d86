"""`mnemo share`: with whom spaces are shared, and what is shared with us."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mnemo_cli import choices, moments
from mnemo_cli.references import json_option
from mnemo_cli.shown import moment, print_columns, print_json
from mnemo_cli.target import Target, connection_options

if TYPE_CHECKING:
    from datetime import datetime

    from mnemocore.client import Connection, Grant


@click.group()
def share() -> None:
    """Sharing: who else may read, annotate or write a space, or a part of it."""


@share.command()
@click.argument("space")
@click.argument("principal")
@click.option("--role", type=choices.role, default="read", show_default=True, help="What it may do.")
@click.option("--tenant", default="", help="The tenant of the principal; yours if not given. It has to accept.")
@click.option("--kind", "kinds", multiple=True, type=choices.kind, help="Only memories of this kind; repeat it.")
@click.option("--tag", "tags", multiple=True, help="Only memories with this tag; repeat it for all of several.")
@click.option("--expires", type=moments.expiry, metavar="SPAN|TIME", help="When it ends: 30d, 12h, or a time.")
@json_option
@connection_options
def add(
    space: str,
    principal: str,
    role: str,
    tenant: str,
    kinds: tuple[str, ...],
    tags: tuple[str, ...],
    expires: datetime | None,
    as_json: bool,
    target: Target,
) -> None:
    """Share a space with a principal."""

    async def grant(mnemo: Connection) -> Grant:
        return await mnemo.space(space).share(
            principal, role, tenant=tenant, kinds=kinds, tags=tags, expire_time=expires
        )

    made = target.run(grant)
    if as_json:
        print_json(made)
    else:
        click.echo(f"shared {space} with {made.tenant}/{made.principal} as {made.role}, grant {made.id}")


@share.command("list")
@click.argument("space")
@json_option
@connection_options
def list_grants(space: str, as_json: bool, target: Target) -> None:
    """List with whom a space is shared."""

    async def read(mnemo: Connection) -> list[Grant]:
        return [grant async for grant in mnemo.space(space).grants()]

    _print_grants(target.run(read), as_json)


@share.command()
@json_option
@connection_options
def received(as_json: bool, target: Target) -> None:
    """List what is shared with you, accepted or not."""

    async def read(mnemo: Connection) -> list[Grant]:
        return [grant async for grant in mnemo.received_grants()]

    _print_grants(target.run(read), as_json)


@share.command()
@click.argument("grant")
@click.argument("space")
@json_option
@connection_options
def accept(grant: str, space: str, as_json: bool, target: Target) -> None:
    """Take a space that another tenant shares with you into your own names, as SPACE. GRANT is an id."""

    async def take(mnemo: Connection) -> Grant:
        return await mnemo.accept_grant(grant, space)

    taken = target.run(take, create=True)
    if as_json:
        print_json(taken)
    else:
        click.echo(f"accepted {taken.grantor_tenant}/{taken.space} as {taken.accepted_as}")


@share.command()
@click.argument("grant")
@connection_options
def remove(grant: str, target: Target) -> None:
    """End a sharing at once; both sides may. GRANT is an id."""

    async def delete(mnemo: Connection) -> None:
        await mnemo.delete_grant(grant)

    target.run(delete)
    click.echo(f"removed {grant}")


def _print_grants(grants: list[Grant], as_json: bool) -> None:
    if as_json:
        print_json(grants)
        return
    headers = ("GRANT", "SPACE", "OWNER", "SHARED WITH", "ROLE", "PART", "EXPIRES", "ACCEPTED AS")
    print_columns(headers, map(_row, grants))


def _row(grant: Grant) -> tuple[str, ...]:
    part = " ".join([*grant.kinds, *(f"#{tag}" for tag in grant.tags)]) or "all"
    owner = f"{grant.grantor_tenant}/{grant.grantor}"
    expiry = "never" if grant.expire_time is None else moment(grant.expire_time)
    with_whom = f"{grant.tenant}/{grant.principal}"
    return grant.id, grant.space, owner, with_whom, grant.role, part, expiry, grant.accepted_as or "-"
