"""`mnemo erase`: a space with every trace of it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from mnemo_cli.receipts import print_receipt
from mnemo_cli.references import json_option
from mnemo_cli.target import Target, connection_options

if TYPE_CHECKING:
    from mnemocore.client import Connection, ErasureReceipt


@click.command()
@click.argument("space")
@click.option("--confirm", metavar="SPACE", help="The name of the space once more; asked for on a terminal.")
@click.option("--reason", default="", help="Why; kept in the receipt, so without personal data.")
@json_option
@connection_options
def erase(space: str, confirm: str | None, reason: str, as_json: bool, target: Target) -> None:
    """Erase a space with every trace of it: memories, history, media, links, sessions, events and index.

    It cannot be undone. Prints a receipt that holds none of the content.
    """
    if confirm is None:
        if not sys.stdin.isatty():
            raise click.UsageError(f"give --confirm {space} to erase it for ever")
        confirm = click.prompt(f"Type the name of the space to erase {space} for ever", err=True)
    if confirm != space:
        raise click.UsageError(f"{confirm!r} is not the name of the space; nothing was erased")

    async def remove(mnemo: Connection) -> ErasureReceipt:
        return await mnemo.space(space).erase(confirm=space, reason=reason)

    print_receipt(target.run(remove), as_json)
