"""`mnemo webhooks`: HTTP endpoints that are sent events."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from mnemo_cli.failure import Failure
from mnemo_cli.listings import at_most
from mnemo_cli.places import filter_options
from mnemo_cli.references import json_option
from mnemo_cli.shown import moment, plain, print_columns, print_facts, print_json
from mnemo_cli.target import Target, connection_options

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mnemocore.client import Connection, Webhook, WebhookDelivery

SECRET_VARIABLE: Final = "MNEMO_WEBHOOK_SECRET"

_secret_file = click.option(
    "--secret-file",
    type=click.Path(path_type=Path),
    help=f"A file with the secret; else {SECRET_VARIABLE}, else it is asked for.",
)


@click.group()
def webhooks() -> None:
    """Webhooks: HTTP endpoints that are sent events, signed with a secret."""


@webhooks.command("list")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Webhooks at most.")
@json_option
@connection_options
def list_webhooks(limit: int, as_json: bool, target: Target) -> None:
    """List the webhooks by name."""

    async def read(mnemo: Connection) -> list[Webhook]:
        return await at_most(limit, mnemo.webhooks.list(page_size=min(limit, 1000)))

    found = target.run(read)
    if as_json:
        print_json(found)
        return
    rows = (
        (item.id, item.state, str(item.failures), item.owner, " ".join(item.types) or "all", item.url) for item in found
    )
    print_columns(("WEBHOOK", "STATE", "FAILURES", "OWNER", "TYPES", "URL"), rows)


@webhooks.command()
@click.argument("webhook")
@click.argument("url")
@filter_options
@_secret_file
@click.option("--description", default="", help="For people.")
@json_option
@connection_options
def create(
    webhook: str,
    url: str,
    where: dict[str, Any],
    secret_file: Path | None,
    description: str,
    as_json: bool,
    target: Target,
) -> None:
    """Make the webhook WEBHOOK, which sends events to URL from now on.

    The secret (16 to 256 characters) signs what is sent. It is read from --secret-file or the variable
    MNEMO_WEBHOOK_SECRET, or asked for.
    """
    secret = _secret(secret_file)

    async def make(mnemo: Connection) -> Webhook:
        return await mnemo.webhooks.create(webhook, url, secret, **where, description=description)

    _print_webhook(target.run(make, create=True), as_json)


@webhooks.command()
@click.argument("webhook")
@click.option("--url", help="Where events are sent.")
@filter_options
@click.option("--all-types", is_flag=True, help="Events of every type.")
@click.option("--all-subjects", is_flag=True, help="Events of every subject.")
@click.option("--new-secret", is_flag=True, help="Change the secret, which is read as by 'create'.")
@_secret_file
@click.option("--description", help="For people.")
@json_option
@connection_options
def update(
    webhook: str,
    url: str | None,
    where: dict[str, Any],
    all_types: bool,
    all_subjects: bool,
    new_secret: bool,
    secret_file: Path | None,
    description: str | None,
    as_json: bool,
    target: Target,
) -> None:
    """Change what is given, and nothing else."""
    if (all_types and where["types"]) or (all_subjects and where["subjects"]):
        raise click.UsageError("--all-types and --type, or --all-subjects and --subject, cannot be given together")
    given: dict[str, Any] = {"url": url, "description": description}
    changes = {name: value for name, value in given.items() if value is not None}
    changes |= {name: patterns for name, patterns in where.items() if patterns}
    changes |= dict.fromkeys([*(["types"] if all_types else []), *(["subjects"] if all_subjects else [])], ())
    if new_secret or secret_file is not None:
        changes["secret"] = _secret(secret_file)
    if not changes:
        raise click.UsageError("name at least one field to change; see 'mnemo webhooks update --help'")

    async def change(mnemo: Connection) -> Webhook:
        return await mnemo.webhooks.update(webhook, **changes)

    _print_webhook(target.run(change), as_json)


@webhooks.command()
@click.argument("webhook")
@json_option
@connection_options
def show(webhook: str, as_json: bool, target: Target) -> None:
    """Show a webhook."""
    _act(target, lambda mnemo: mnemo.webhooks.get(webhook), as_json)


@webhooks.command()
@click.argument("webhook")
@json_option
@connection_options
def pause(webhook: str, as_json: bool, target: Target) -> None:
    """Send it nothing for now; events wait."""
    _act(target, lambda mnemo: mnemo.webhooks.pause(webhook), as_json)


@webhooks.command()
@click.argument("webhook")
@json_option
@connection_options
def resume(webhook: str, as_json: bool, target: Target) -> None:
    """Send it events again, first those that waited."""
    _act(target, lambda mnemo: mnemo.webhooks.resume(webhook), as_json)


@webhooks.command()
@click.argument("webhook")
@click.option("--yes", is_flag=True, help="Do not ask.")
@connection_options
def delete(webhook: str, yes: bool, target: Target) -> None:
    """Delete a webhook, what it waits for, and its dead letters."""
    if not yes:
        click.confirm(f"Delete the webhook {webhook} and what waits for it?", abort=True, err=True)

    async def remove(mnemo: Connection) -> bool:
        return await mnemo.webhooks.delete(webhook)

    click.echo(f"deleted {webhook}" if target.run(remove) else f"there is no webhook {webhook}")


@webhooks.command()
@click.argument("webhook")
@json_option
@connection_options
def test(webhook: str, as_json: bool, target: Target) -> None:
    """Send it an event of the type events.webhook.test now. Exit code 1 if the endpoint does not take it."""

    async def send(mnemo: Connection) -> WebhookDelivery:
        return await mnemo.webhooks.test(webhook)

    delivery = target.run(send)
    if as_json:
        print_json(delivery)
    elif delivery.delivered:
        click.echo(f"delivered: status {delivery.status}, {plain(delivery.duration)}")
    if not delivery.delivered:
        raise Failure(f"not delivered: {delivery.error or f'status {delivery.status}'}")


@webhooks.command()
@click.argument("webhook")
@click.option("--failed", "failed_only", is_flag=True, help="Only those that failed.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Deliveries at most.")
@json_option
@connection_options
def deliveries(webhook: str, failed_only: bool, limit: int, as_json: bool, target: Target) -> None:
    """List what was sent to a webhook, newest first."""

    async def read(mnemo: Connection) -> list[WebhookDelivery]:
        found = mnemo.webhooks.deliveries(webhook, failed_only=failed_only, page_size=min(limit, 1000))
        return await at_most(limit, found)

    found = target.run(read)
    if as_json:
        print_json(found)
        return
    print_columns(("TIME", "POSITION", "TYPE", "ATTEMPT", "STATUS", "TOOK", "ERROR"), map(_row, found))


def _act(target: Target, action: Callable[[Connection], Awaitable[Webhook]], as_json: bool) -> None:
    _print_webhook(target.run(action), as_json)


def _secret(file: Path | None) -> str:
    """The secret, from a file, the environment or a terminal, never from the command line."""
    if file is not None:
        secret = file.read_text().strip()
    elif SECRET_VARIABLE in os.environ:
        secret = os.environ[SECRET_VARIABLE].strip()
    elif sys.stdin.isatty():
        secret = click.prompt("Secret", hide_input=True, confirmation_prompt=True, err=True)
    else:
        raise click.UsageError(f"give the secret in --secret-file, or in the variable {SECRET_VARIABLE}")
    if not secret:
        raise click.UsageError("the secret is empty; allowed are 16 to 256 characters")
    return secret


def _row(delivery: WebhookDelivery) -> tuple[str, ...]:
    return (
        moment(delivery.time),
        str(delivery.position or "test"),
        delivery.type,
        str(delivery.attempt),
        str(delivery.status or "-"),
        str(plain(delivery.duration) or "-"),
        delivery.error,
    )


def _print_webhook(webhook: Webhook, as_json: bool) -> None:
    if as_json:
        print_json(webhook)
        return
    print_facts(
        {
            "webhook": webhook.id,
            "url": webhook.url,
            "types": " ".join(webhook.types) or "all",
            "subjects": " ".join(webhook.subjects),
            "description": webhook.description,
            "state": f"{webhook.state}{f' ({webhook.pause_reason})' if webhook.pause_reason else ''}",
            "failures since the last success": str(webhook.failures),
            "owner": webhook.owner,
            "created": moment(webhook.create_time),
            "changed": moment(webhook.update_time),
        }
    )
