"""`mnemo remember`: one memory, typed or read from standard input."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mnemo_cli import choices
from mnemo_cli.descriptions import description_options, text_of
from mnemo_cli.references import json_option
from mnemo_cli.shown import print_json
from mnemo_cli.target import Target, connection_options

if TYPE_CHECKING:
    from mnemocore.client import Connection, Remembered


@click.command()
@click.argument("text")
@click.option("--space", required=True, metavar="SPACE", help="Where to keep it; made if it does not exist.")
@description_options
@click.option("--session", default="", help="The conversation or run it belongs to.")
@click.option("--ordinal", type=click.IntRange(min=0), help="Its place in the session.")
@click.option("--id", "id", default="", help="Its id, a UUID; the server makes one if it is not given.")
@click.option(
    "--media", type=click.Path(dir_okay=False, exists=True, path_type=Path), help="A file that belongs to it."
)
@click.option("--media-type", default="", help="The MIME type of the file, if the first bytes do not tell.")
@click.option("--protected", is_flag=True, help="Keep it from being archived, erased and forgotten.")
@click.option("--on-duplicate", type=choices.on_duplicate, help="What to do if an equal memory is there.")
@click.option("--novelty-gate", type=click.Choice(["off", "on"]), help="Whether to compare it with what is known.")
@json_option
@connection_options
def remember(
    text: str,
    space: str,
    fields: dict[str, Any],
    media: Path | None,
    media_type: str,
    as_json: bool,
    target: Target,
    **others: Any,
) -> None:
    """Keep TEXT as one memory; - reads it from standard input.

    Prints its name, or the name of the memory that says the same.
    """
    content = text_of(text)
    if media_type and media is None:
        raise click.UsageError("--media-type needs --media")

    async def keep(mnemo: Connection) -> Remembered:
        from mnemocore.client import MemoryInput

        to = mnemo.space(space)
        uploaded = await to.upload_media(media, media_type=media_type) if media else None
        return await to.remember_with_outcome(MemoryInput(content, media=uploaded, **fields, **others))

    kept = target.run(keep, create=True)
    if as_json:
        print_json(kept)
        return
    there = kept.duplicate or kept.novelty == "redundant"
    decision = f" ({kept.novelty})" if kept.novelty else ""
    click.echo(f"{'already there' if there else 'kept'} {kept.memory.name}{decision}")
