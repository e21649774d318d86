"""`mnemo events policies` and `mnemo events refusals`: who may publish and read which events."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mnemo_cli import choices
from mnemo_cli.listings import at_most
from mnemo_cli.references import json_option
from mnemo_cli.shown import moment, print_columns, print_json
from mnemo_cli.target import Target, connection_options

if TYPE_CHECKING:
    from mnemocore.client import AccessDecision, AccessPolicy, Connection, Refusal


@click.group()
def policies() -> None:
    """Access policies: what no policy allows is refused, except to those with the scope events:admin."""


@policies.command("list")
@click.option("--principal", default="", help="Only those of this principal.")
@click.option("--limit", type=click.IntRange(min=1), default=200, show_default=True, help="Policies at most.")
@json_option
@connection_options
def list_policies(principal: str, limit: int, as_json: bool, target: Target) -> None:
    """List the policies by name."""

    async def read(mnemo: Connection) -> list[AccessPolicy]:
        return await at_most(limit, mnemo.events.policies.list(principal, page_size=min(limit, 1000)))

    found = target.run(read)
    if as_json:
        print_json(found)
        return
    print_columns(("POLICY", "PRINCIPAL", "ACTIONS", "TYPES", "CREATED", "SUBJECTS"), map(_row, found))


@policies.command()
@click.argument("policy")
@click.argument("principal")
@click.option("--action", "actions", multiple=True, required=True, type=choices.event_action, help="What; repeat it.")
@click.option(
    "--type", "types", multiple=True, required=True, metavar="PATTERN", help="Events of this type; repeat it."
)
@click.option("--subject", "subjects", multiple=True, metavar="PATTERN", help="Only of this subject; repeat it.")
@json_option
@connection_options
def allow(
    policy: str,
    principal: str,
    actions: tuple[str, ...],
    types: tuple[str, ...],
    subjects: tuple[str, ...],
    as_json: bool,
    target: Target,
) -> None:
    """Make the policy POLICY, which allows PRINCIPAL ('*': everyone of the tenant) to publish, subscribe, or both."""

    async def make(mnemo: Connection) -> AccessPolicy:
        return await mnemo.events.policies.allow(policy, principal, actions, types, subjects=subjects)

    made = target.run(make, create=True)
    if as_json:
        print_json(made)
    else:
        click.echo(f"{made.principal} may {' and '.join(made.actions)} {' '.join(made.types)}")


@policies.command()
@click.argument("policy")
@connection_options
def remove(policy: str, target: Target) -> None:
    """Remove a policy; streams that it allowed end."""

    async def delete(mnemo: Connection) -> bool:
        return await mnemo.events.policies.remove(policy)

    click.echo(f"removed {policy}" if target.run(delete) else f"there is no policy {policy}")


@policies.command()
@click.argument("principal")
@click.argument("action", type=choices.event_action)
@click.argument("type")
@click.option("--subject", default="", help="Of this subject or pattern; of any if not given.")
@json_option
@connection_options
def check(principal: str, action: str, type: str, subject: str, as_json: bool, target: Target) -> None:
    """Say whether a principal may do something with events of a TYPE, and which policy allows it.

    Exit code 0 if it may, 1 if not.
    """

    async def ask(mnemo: Connection) -> AccessDecision:
        return await mnemo.events.policies.check(principal, action, type, subject)

    decision = target.run(ask)
    if as_json:
        print_json(decision)
    elif decision.allowed:
        click.echo(f"allowed by {decision.policy.id}" if decision.policy else "allowed")
    else:
        click.echo("not allowed")
    if not decision.allowed:
        raise click.exceptions.Exit(1)


@click.command()
@click.option("--principal", default="", help="Only what was refused to this principal.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Refusals at most.")
@json_option
@connection_options
def refusals(principal: str, limit: int, as_json: bool, target: Target) -> None:
    """List what was refused in the last 30 days because no policy allows it, newest first."""

    async def read(mnemo: Connection) -> list[Refusal]:
        return await at_most(limit, mnemo.events.policies.refusals(principal, page_size=min(limit, 1000)))

    found = target.run(read)
    if as_json:
        print_json(found)
        return
    rows = (
        (moment(item.last_time), item.principal, item.action, str(item.count), item.method, item.target)
        for item in found
    )
    print_columns(("LAST", "PRINCIPAL", "ACTION", "TIMES", "METHOD", "TARGET"), rows)


def _row(policy: AccessPolicy) -> tuple[str, ...]:
    return (
        policy.id,
        policy.principal,
        " ".join(policy.actions),
        " ".join(policy.types),
        moment(policy.create_time),
        " ".join(policy.subjects) or "any",
    )
