"""`mnemo sessions`: list, show and end conversations and runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mnemo_cli.listings import at_most
from mnemo_cli.references import json_option, space_option
from mnemo_cli.shown import moment, print_columns, print_facts, print_json
from mnemo_cli.target import Target, connection_options

if TYPE_CHECKING:
    from mnemocore.client import Checkpoint, Connection, SessionInfo


@click.group()
def sessions() -> None:
    """Sessions: the conversations and runs that memories belong to."""


@sessions.command("list")
@space_option
@click.option("--agent", default="", help="Only those of this agent.")
@click.option("--open", "open_only", is_flag=True, help="Only those that go on.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Sessions at most.")
@json_option
@connection_options
def list_sessions(space: str, agent: str, open_only: bool, limit: int, as_json: bool, target: Target) -> None:
    """List the sessions that were started, newest first."""

    async def read(mnemo: Connection) -> list[SessionInfo]:
        pages = min(limit, 1000)
        return await at_most(limit, mnemo.space(space).sessions(agent=agent, open_only=open_only, page_size=pages))

    found = target.run(read)
    if as_json:
        print_json(found)
        return
    rows = ((item.id, item.agent, moment(item.start_time), moment(item.end_time), str(item.memories)) for item in found)
    print_columns(("SESSION", "AGENT", "STARTED", "ENDED", "MEMORIES"), rows)


@sessions.command()
@click.argument("session")
@space_option
@json_option
@connection_options
def show(session: str, space: str, as_json: bool, target: Target) -> None:
    """Show a session and its checkpoints."""

    async def read(mnemo: Connection) -> tuple[SessionInfo, list[Checkpoint]]:
        handle = mnemo.space(space).session(session)
        return await handle.info(), [checkpoint async for checkpoint in handle.checkpoints()]

    info, checkpoints = target.run(read)
    if as_json:
        print_json({"session": info, "checkpoints": checkpoints})
        return
    _print_session(info)
    if checkpoints:
        click.echo()
        rows = ((item.id, moment(item.create_time), str(item.working_items), item.label) for item in checkpoints)
        print_columns(("CHECKPOINT", "MADE", "ITEMS IN MIND", "LABEL"), rows)


@sessions.command()
@click.argument("session")
@space_option
@json_option
@connection_options
def end(session: str, space: str, as_json: bool, target: Target) -> None:
    """End a session: nothing can be appended any more."""

    async def finish(mnemo: Connection) -> SessionInfo:
        return await mnemo.space(space).session(session).end()

    info = target.run(finish)
    if as_json:
        print_json(info)
    else:
        _print_session(info)


def _print_session(info: SessionInfo) -> None:
    print_facts(
        {
            "session": info.id,
            "agent": info.agent,
            "started": moment(info.start_time),
            "ended": moment(info.end_time),
            "memories": str(info.memories),
            **{f"metadata.{key}": str(value) for key, value in sorted(info.metadata.items())},
        }
    )
