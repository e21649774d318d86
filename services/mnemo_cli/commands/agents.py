"""`mnemo agents`: who is there, and what they can do."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click

from mnemo_cli import choices
from mnemo_cli.listings import at_most
from mnemo_cli.open_output import while_read
from mnemo_cli.references import json_option
from mnemo_cli.shown import moment, print_columns, print_json, print_json_line, printable
from mnemo_cli.target import Target, connection_options

if TYPE_CHECKING:
    from mnemocore.client import Agent, AgentChanges, Connection

_capabilities = click.option(
    "--capability", "capabilities", multiple=True, help="Only those that can do this; repeat it."
)


@click.group()
def agents() -> None:
    """Agents: the programs that work for you."""


@agents.command("list")
@_capabilities
@click.option("--state", type=choices.agent_state, help="Only those in this state.")
@click.option("--limit", type=click.IntRange(min=1), default=200, show_default=True, help="Agents at most.")
@json_option
@connection_options
def list_agents(capabilities: tuple[str, ...], state: str | None, limit: int, as_json: bool, target: Target) -> None:
    """List the agents by name."""

    async def read(mnemo: Connection) -> list[Agent]:
        found = mnemo.agents.list(capabilities=capabilities, state=state, page_size=min(limit, 1000))
        return await at_most(limit, found)

    found = target.run(read)
    if as_json:
        print_json(found)
        return
    rows = (
        (item.id, item.state, f"{item.load:.0%}", moment(item.last_heartbeat_time), " ".join(item.capabilities))
        for item in found
    )
    print_columns(("AGENT", "STATE", "LOAD", "HEARD", "CAPABILITIES"), rows)


@agents.command()
@_capabilities
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document a line.")
@connection_options
def watch(capabilities: tuple[str, ...], as_json: bool, target: Target) -> None:
    """Follow the agents: first all of them, then each that changes, until Ctrl-C."""

    async def follow(mnemo: Connection) -> None:
        async with while_read(), contextlib.aclosing(mnemo.agents.watch(capabilities=capabilities)) as changes:
            async for change in changes:
                _print_change(change, as_json)

    with contextlib.suppress(KeyboardInterrupt):
        target.run(follow, create=True)


def _print_change(change: AgentChanges, as_json: bool) -> None:
    if as_json:
        print_json_line(change)
        return
    for agent in change.agents:
        heard = moment(agent.last_heartbeat_time)
        click.echo(printable(f"{heard}  {agent.id}  {agent.state}  {agent.load:.0%}  {' '.join(agent.capabilities)}"))
    for name in change.gone:
        click.echo(printable(f"{name}  gone"))
