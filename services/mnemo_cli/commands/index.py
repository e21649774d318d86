"""`mnemo index`: which models make the vectors, and the change from one to another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mnemo_cli.shown import print_columns, print_json
from mnemo_cli.target import Target, connection_options

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from mnemocore.client import Connection
    from mnemocore.client.encoders import EncoderModel, Encoders, Reencoding

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def index() -> None:
    """The index: the models behind its vectors, and the change from one to another.

    The encoder is chosen by MNEMO_INDEX_ENCODER when the index starts. Vectors of another model are then made anew in
    the background, while the old ones serve.
    """


@index.command()
@_json
@connection_options
def status(as_json: bool, target: Target) -> None:
    """Show the chosen model, what waits for vectors, and the re-encoding."""

    async def read(mnemo: Connection) -> tuple[list[EncoderModel], Reencoding]:
        return await mnemo.encoders.models(), await mnemo.encoders.reencoding()

    models, reencoding = target.run(read)
    waiting = sum(model.waiting_memories for model in models)
    if as_json:
        print_json({"models": models, "waiting_memories": waiting, "reencoding": reencoding})
        return
    click.echo(f"model       {reencoding.model}")
    click.echo(f"waiting     {waiting} memories have no vector yet")
    for model in models:
        if model.cause:
            click.echo(f"warning     {model.cause}")
    _show(reencoding)


@index.command()
@_json
@connection_options
def models(as_json: bool, target: Target) -> None:
    """List the models that vectors were ever made with. The chosen one is marked by a star."""

    async def read(mnemo: Connection) -> list[EncoderModel]:
        return await mnemo.encoders.models()

    found = target.run(read)
    if as_json:
        print_json(found)
        return
    print_columns(("", "MODEL", "DIMENSION", "SPACES", "MEMORIES", "WAITING", "SETTING"), map(_row, found))


@index.group()
def reencode() -> None:
    """The re-encoding of older vectors."""


@reencode.command("status")
@_json
@connection_options
def reencode_status(as_json: bool, target: Target) -> None:
    """Show how far it is."""
    _act(target, as_json, lambda encoders: encoders.reencoding())


@reencode.command()
@_json
@connection_options
def pause(as_json: bool, target: Target) -> None:
    """Stop it where it is; what is done stays done."""
    _act(target, as_json, lambda encoders: encoders.pause())


@reencode.command()
@_json
@connection_options
def resume(as_json: bool, target: Target) -> None:
    """Go on after a pause or a rollback."""
    _act(target, as_json, lambda encoders: encoders.resume())


@reencode.command()
@_json
@connection_options
def rollback(as_json: bool, target: Target) -> None:
    """Bring the older vectors back, with what was written since."""
    _act(target, as_json, lambda encoders: encoders.rollback())


@reencode.command()
@_json
@connection_options
def commit(as_json: bool, target: Target) -> None:
    """Forget the older vectors; they cannot be brought back then."""

    async def forget(mnemo: Connection) -> int:
        return await mnemo.encoders.commit()

    spaces = target.run(forget)
    if as_json:
        print_json({"spaces": spaces})
    else:
        click.echo(f"forgot the older vectors of {spaces} spaces")


def _act(target: Target, as_json: bool, action: Callable[[Encoders], Coroutine[Any, Any, Reencoding]]) -> None:
    async def run(mnemo: Connection) -> Reencoding:
        return await action(mnemo.encoders)

    reencoding = target.run(run)
    if as_json:
        print_json(reencoding)
    else:
        _show(reencoding)


def _show(reencoding: Reencoding) -> None:
    it = reencoding
    click.echo(f"re-encoding {it.state.replace('_', ' ')}: {it.spaces_done} of {it.spaces} spaces, ", nl=False)
    click.echo(f"{it.revisions_done} of {it.revisions} revisions; older vectors of {it.spaces_kept} spaces are kept")
    if it.spaces_stuck:
        click.echo(f"warning     {it.spaces_stuck} spaces keep older vectors; see the log of the index")
    if it.cause:
        click.echo(f"warning     {it.cause}")


def _row(model: EncoderModel) -> tuple[str, ...]:
    numbers = (model.dimension, model.spaces, model.memories, model.waiting_memories)
    return "*" if model.chosen else "", model.name, *map(str, numbers), model.setting
