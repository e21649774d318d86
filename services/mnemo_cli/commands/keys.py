"""`mnemo keys`: make, list and revoke API keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mnemo_cli import moments
from mnemo_cli.shown import moment, print_columns, print_json
from mnemo_cli.target import Target, connection_options

if TYPE_CHECKING:
    from datetime import datetime

    from mnemocore.client import ApiKey, Connection, NewApiKey

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def keys() -> None:
    """API keys: who may call, whose data a call may touch, and what it may do."""


@keys.command()
@click.option("--principal", required=True, help="Who will use the key; stands in the history of what is written.")
@click.option("--tenant", default="", help="Whose data it opens; yours if not given.")
@click.option("--scope", "scopes", multiple=True, required=True, help="What it may do, such as memory:read; repeat it.")
@click.option(
    "--expires", type=moments.expiry, metavar="SPAN|TIME", help="When it ends: 30d, 12h, or a time; never if not given."
)
@_json
@connection_options
def create(
    principal: str, tenant: str, scopes: tuple[str, ...], expires: datetime | None, as_json: bool, target: Target
) -> None:
    """Make a key and print its secret, which nobody can ask for again."""

    async def make(mnemo: Connection) -> NewApiKey:
        return await mnemo.create_api_key(principal, scopes, tenant=tenant, expire_time=expires)

    made = target.run(make, create=True)
    if as_json:
        print_json(made)
        return
    key = made.api_key
    click.echo(f"key {key.id} for {key.principal} of tenant {key.tenant}, expires {_expiry(key)}", err=True)
    click.echo("the secret, shown only now:", err=True)
    click.echo(made.secret)


@keys.command("list")
@_json
@connection_options
def list_keys(as_json: bool, target: Target) -> None:
    """List all keys by creation, without their secrets."""

    async def read(mnemo: Connection) -> list[ApiKey]:
        return [key async for key in mnemo.list_api_keys()]

    found = target.run(read)
    if as_json:
        print_json(found)
        return
    headers = ("KEY", "TENANT", "PRINCIPAL", "CREATED", "EXPIRES", "SCOPES")
    print_columns(headers, (_row(key) for key in found))


@keys.command()
@click.argument("name")
@connection_options
def revoke(name: str, target: Target) -> None:
    """Revoke a key. NAME is its id, or apiKeys/ID, as 'mnemo keys list' shows it."""
    key_id = name.removeprefix("apiKeys/")

    async def delete(mnemo: Connection) -> None:
        await mnemo.delete_api_key(key_id)

    target.run(delete)
    click.echo(f"revoked {key_id}")


def _row(key: ApiKey) -> tuple[str, ...]:
    return key.id, key.tenant, key.principal, moment(key.create_time), _expiry(key), " ".join(key.scopes)


def _expiry(key: ApiKey) -> str:
    return "never" if key.expire_time is None else moment(key.expire_time)
