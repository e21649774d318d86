"""`mnemo analogy`: what is to this as that is to the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mnemo_cli.references import json_option
from mnemo_cli.shown import print_json, printable
from mnemo_cli.target import Target, connection_options

if TYPE_CHECKING:
    from mnemocore.client import CodebookAnswer, Connection


@click.command()
@click.argument("first")
@click.argument("second")
@click.argument("third")
@click.option("--among", multiple=True, required=True, metavar="TEXT", help="What the answer may be; repeat it.")
@click.option("--limit", type=click.IntRange(1, 1000), default=5, show_default=True, help="Answers at most.")
@json_option
@connection_options
def analogy(
    first: str, second: str, third: str, among: tuple[str, ...], limit: int, as_json: bool, target: Target
) -> None:
    """Find the text that is to THIRD as SECOND is to FIRST, by meaning.

    A similarity of 0.5 means that a text has nothing to do with the answer.

    Example: mnemo analogy France Paris Italy --among Rome --among Madrid
    """

    async def solve(mnemo: Connection) -> CodebookAnswer:
        return await mnemo.hypervectors.analogy(first, second, third, among, limit=limit)

    found = target.run(solve)
    if as_json:
        print_json(found)
        return
    for match in found.matches:
        click.echo(f"{match.similarity:.3f}  {printable(match.name)}")
