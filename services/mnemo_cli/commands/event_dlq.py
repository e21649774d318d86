"""`mnemo events dlq`: the events that a group could not do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mnemo_cli import choices, moments
from mnemo_cli.listings import at_most
from mnemo_cli.payloads import document_of, in_a_line
from mnemo_cli.references import json_option
from mnemo_cli.shown import moment, plain, print_columns, print_facts, print_json, shortened
from mnemo_cli.target import Target, connection_options

if TYPE_CHECKING:
    from datetime import datetime

    from mnemocore.client import Connection, DeadLetter

SHOWN = 60
"""Characters of what was said of a dead letter, in a list."""

_positions = click.option(
    "--position", "positions", type=click.IntRange(min=1), multiple=True, help="The event at this position; repeat it."
)
_reason = click.option("--reason", type=choices.failure_reason, help="Those that failed for this reason.")
_before = click.option("--before", type=moments.time, metavar="TIME", help="Those that died last before this time.")
_all = click.option("--all", "everything", is_flag=True, help="All of the group.")


@click.group()
def dlq() -> None:
    """Dead letters: events that a group could not do. GROUP is webhook-NAME for those of a webhook."""


@dlq.command("list")
@click.argument("group")
@_reason
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Dead letters at most.")
@json_option
@connection_options
def list_letters(group: str, reason: str | None, limit: int, as_json: bool, target: Target) -> None:
    """List the dead letters of a group, oldest event first."""

    async def read(mnemo: Connection) -> list[DeadLetter]:
        found = mnemo.events.dead_letters(group, reason=reason, page_size=min(limit, 1000))
        return await at_most(limit, found)

    found = target.run(read)
    if as_json:
        print_json([_document(letter) for letter in found])
        return
    headers = ("POSITION", "DIED", "TYPE", "SUBJECT", "ATTEMPTS", "REASON", "MESSAGE")
    print_columns(headers, map(_row, found))


@dlq.command()
@click.argument("group")
@click.argument("position", type=click.IntRange(min=1))
@json_option
@connection_options
def show(group: str, position: int, as_json: bool, target: Target) -> None:
    """Show a dead letter and its event."""

    async def read(mnemo: Connection) -> DeadLetter:
        return await mnemo.events.dead_letter(group, position)

    letter = target.run(read)
    if as_json:
        print_json(_document(letter))
        return
    event = letter.event
    print_facts(
        {
            "position": str(letter.position),
            "event": event.id,
            "source": event.source,
            "type": event.type,
            "subject": event.subject,
            "happened": moment(event.time),
            "reason": letter.reason,
            "message": letter.message,
            "attempts": str(letter.attempts),
            "replays": f"{letter.replays}{', one is under way' if letter.replaying else ''}",
            "died first": moment(letter.first_death_time),
            "died last": moment(letter.death_time),
            "correlation": event.correlation_id,
            "data": in_a_line(event.data),
        }
    )


@dlq.command()
@click.argument("group")
@_positions
@_reason
@_before
@_all
@json_option
@connection_options
def replay(
    group: str,
    positions: tuple[int, ...],
    reason: str | None,
    before: datetime | None,
    everything: bool,
    as_json: bool,
    target: Target,
) -> None:
    """Give dead letters to their group again, with as many attempts as new events have."""
    _check(positions, reason, before, everything)

    async def revive(mnemo: Connection) -> int:
        chosen = await _chosen(mnemo, group, positions, reason, before)
        return await mnemo.events.replay_dead_letters(group, chosen)

    replayed = target.run(revive)
    if as_json:
        print_json({"replayed": replayed})
    else:
        click.echo(f"{replayed} are replayed")


@dlq.command()
@click.argument("group")
@_positions
@_reason
@_before
@_all
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@connection_options
def purge(
    group: str,
    positions: tuple[int, ...],
    reason: str | None,
    before: datetime | None,
    everything: bool,
    yes: bool,
    as_json: bool,
    target: Target,
) -> None:
    """Remove dead letters for good. Those that are being replayed stay."""
    _check(positions, reason, before, everything)
    if not yes:
        click.confirm(f"Remove these dead letters of {group} for good?", abort=True, err=True)

    async def remove(mnemo: Connection) -> int:
        chosen = positions or None if reason is None else await _chosen(mnemo, group, positions, reason, before)
        return await mnemo.events.purge_dead_letters(group, chosen, before=before)

    purged = target.run(remove)
    if as_json:
        print_json({"purged": purged})
    else:
        click.echo(f"removed {purged}")


def _check(positions: tuple[int, ...], reason: str | None, before: datetime | None, everything: bool) -> None:
    """Refuse to guess which are meant."""
    if everything and (positions or reason or before):
        raise click.UsageError("--all cannot be given together with --position, --reason or --before")
    if not (everything or positions or reason or before):
        raise click.UsageError("give --position, --reason, --before or --all")


async def _chosen(
    mnemo: Connection, group: str, positions: tuple[int, ...], reason: str | None, before: datetime | None
) -> list[int] | None:
    """The positions that all the conditions choose; None if they choose everything."""
    if reason is None and before is None:
        return list(positions) or None
    wanted = set(positions)
    return [
        letter.position
        async for letter in mnemo.events.dead_letters(group, reason=reason, page_size=1000)
        if (not wanted or letter.position in wanted)
        and (before is None or (letter.death_time is not None and letter.death_time < before))
    ]


def _row(letter: DeadLetter) -> tuple[str, ...]:
    event = letter.event
    attempts = f"{letter.attempts}{' replaying' if letter.replaying else ''}"
    return (
        str(letter.position),
        moment(letter.death_time),
        event.type,
        event.subject,
        attempts,
        letter.reason,
        shortened(letter.message, SHOWN),
    )


def _document(letter: DeadLetter) -> dict[str, Any]:
    return {
        "group": letter.group,
        "position": letter.position,
        "reason": plain(letter.reason),
        "message": letter.message,
        "attempts": letter.attempts,
        "replays": letter.replays,
        "first_death_time": plain(letter.first_death_time),
        "death_time": plain(letter.death_time),
        "replaying": letter.replaying,
        "event": document_of(letter.event),
    }
