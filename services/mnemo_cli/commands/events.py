"""`mnemo events`: publish, read and follow events."""

from __future__ import annotations

import contextlib
import re
import sys
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from mnemo_cli import moments
from mnemo_cli.commands.event_dlq import dlq
from mnemo_cli.commands.event_groups import groups, replay
from mnemo_cli.commands.event_policies import policies, refusals
from mnemo_cli.commands.event_schemas import schemas
from mnemo_cli.failure import Failure
from mnemo_cli.listings import at_most
from mnemo_cli.open_output import while_read
from mnemo_cli.payloads import document_of, in_a_line, payload_of
from mnemo_cli.places import PLACE, filter_options, place
from mnemo_cli.read_ahead import ReadAhead
from mnemo_cli.references import json_option
from mnemo_cli.shown import moment, print_columns, print_json, print_json_line, printable
from mnemo_cli.sources import events as event_lines
from mnemo_cli.sources.lines import read_lines
from mnemo_cli.sources.record import SourceError
from mnemo_cli.target import Target, connection_options
from mnemocore.errors import InvalidFieldError
from mnemocore.ids import new_uuid

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mnemo_cli.sources.record import Place
    from mnemocore.client import Connection, Event, EventInput, Published

BATCH = 500
"""Events published at once."""

_EVENT: Final = re.compile(r"events\[(\d+)\]\.?(.*)")

_space = click.option("--space", default="", metavar="SPACE", help="Only events of this space.")


@click.group()
def events() -> None:
    """Events: what happened, in the order in which it happened."""


@events.command()
@filter_options
@_space
@click.option("--from", "start", type=place, default="latest", metavar=PLACE, show_default=True, help="Where to begin.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="End after so many events.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document a line.")
@connection_options
def tail(
    where: dict[str, Any], space: str, start: int | datetime | str, limit: int | None, as_json: bool, target: Target
) -> None:
    """Follow events as they come, until Ctrl-C or --limit. A broken connection is taken up again where it was."""

    async def follow(mnemo: Connection) -> None:
        left = limit
        tail = mnemo.events.tail(**where, space_uid=await _uid(mnemo, space), start=start)  # type: ignore[arg-type]
        async with while_read(), contextlib.aclosing(tail):
            async for event in tail:
                _print_event(event, as_json)
                left = None if left is None else left - 1
                if left == 0:
                    return

    with contextlib.suppress(KeyboardInterrupt):
        target.run(follow, create=True)


@events.command()
@filter_options
@_space
@click.option("--after", type=click.IntRange(min=0), default=0, help="Only what comes after this position.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Events at most.")
@json_option
@connection_options
def read(where: dict[str, Any], space: str, after: int, limit: int, as_json: bool, target: Target) -> None:
    """Read the events there are, oldest first."""

    async def collect(mnemo: Connection) -> list[Event]:
        found = mnemo.events.read(**where, space_uid=await _uid(mnemo, space), after=after, page_size=min(limit, 1000))
        return await at_most(limit, found)

    found = target.run(collect)
    if as_json:
        print_json([document_of(event) for event in found])
        return
    rows = (
        (str(event.position), moment(event.time), event.type, event.subject, in_a_line(event.data)) for event in found
    )
    print_columns(("POSITION", "TIME", "TYPE", "SUBJECT", "DATA"), rows)


@events.command()
@click.argument("type", required=False, default="")
@click.option("--data", metavar="JSON|@FILE|-", help="The payload; @FILE reads a file, - standard input.")
@click.option("--content-type", default="", help="What the payload is, if it is not JSON.")
@click.option("--subject", default="", help="What it is about; events of one subject keep their order.")
@click.option("--id", "event_id", default="", help="Its id; publishing one again changes nothing. Made if not given.")
@click.option("--source", default="", help="Who publishes it; you if not given.")
@click.option("--time", type=moments.time, metavar="TIME", help="When it happened; now if not given.")
@click.option("--dataschema", default="", help="The version of the schema: schemas/TYPE/versions/N.")
@click.option("--correlation-id", default="", help="Names all that belongs to one piece of work.")
@click.option("--causation-id", default="", help="The id of the event that led to this one.")
@click.option("--stdin", "from_stdin", is_flag=True, help="Publish the JSONL on standard input, an event a line.")
@json_option
@connection_options
def publish(
    type: str,
    data: str | None,
    content_type: str,
    event_id: str,
    time: datetime | None,
    from_stdin: bool,
    as_json: bool,
    target: Target,
    **texts: str,
) -> None:
    """Publish an event of a TYPE such as order.placed: 2 to 5 lower-case segments joined by dots.

    With --stdin each line is a JSON object with type, data, subject, id, time and so on; TYPE and the options stand in
    for what a line leaves out. What comes before a line that is wrong is published.
    """
    if from_stdin:
        if data is not None or event_id or content_type:
            raise click.UsageError("--data, --content-type and --id cannot be given together with --stdin")
        defaults: dict[str, Any] = {name: text for name, text in {"type": type, **texts}.items() if text}
        if time is not None:
            defaults["time"] = time.isoformat()
        _publish_lines(defaults, as_json, target)
        return
    if not type:
        raise click.UsageError("name the TYPE of the event, or give --stdin")
    payload, found_type = payload_of(data, content_type)

    async def send(mnemo: Connection) -> Published:
        return await mnemo.events.publish(type, payload, id=event_id, time=time, datacontenttype=found_type, **texts)

    published = target.run(send, create=True)
    if as_json:
        print_json(published)
    else:
        click.echo(f"published {published.id} at position {published.position}")


events.add_command(replay)
events.add_command(groups)
events.add_command(dlq)
events.add_command(schemas)
events.add_command(policies)
events.add_command(refusals)


def _publish_lines(defaults: dict[str, Any], as_json: bool, target: Target) -> None:
    positions: list[int] = []

    async def send(mnemo: Connection) -> None:
        async with ReadAhead(_events_of_stdin(defaults), BATCH) as ahead:
            while batch := await ahead.take():
                await _publish_batch(mnemo, batch, positions)

    problem: SourceError | None = None
    try:
        target.run(send, create=True)
    except SourceError as error:
        problem = error
    if as_json:
        last = max(positions, default=0)
        print_json({"published": len(positions), "last_position": last})
    else:
        upto = f", up to position {max(positions)}" if positions else ""
        click.echo(f"published {len(positions)} events{upto}")
    if problem is not None:
        raise Failure(str(problem))


async def _publish_batch(mnemo: Connection, batch: list[tuple[Place, EventInput]], positions: list[int]) -> None:
    """Publish events and add their positions. Raises SourceError for a line that is refused; those before it are in."""
    try:
        published = await mnemo.events.publish_many(event for _, event in batch)
    except InvalidFieldError as error:
        number, problem = _refused(error)
        if number is None:
            raise
        if number:
            await _publish_batch(mnemo, batch[:number], positions)
        raise SourceError(batch[number][0], problem) from None
    positions.extend(one.position for one in published)


def _refused(error: InvalidFieldError) -> tuple[int | None, str]:
    """The number of the first event of a batch that is refused, and why; None if it is not about an event."""
    wrong = [(_EVENT.fullmatch(found.field), found.description) for found in error.violations]
    if not wrong or not all(match for match, _ in wrong):
        return None, str(error)
    first = min(int(match[1]) for match, _ in wrong if match)
    problems = [f"{match[2] or 'event'}: {text}" for match, text in wrong if match and int(match[1]) == first]
    return first, "; ".join(problems)


def _events_of_stdin(defaults: dict[str, Any]) -> Iterator[tuple[Place, EventInput]]:
    """What is on standard input, each with an id: what is sent again is not published twice."""
    with open(sys.stdin.fileno(), "rb", closefd=False) as stream:
        for at, event in event_lines.read(read_lines(stream, "stdin"), defaults):
            yield at, event if event.id else replace(event, id=new_uuid(datetime.now(UTC)))


def _print_event(event: Event, as_json: bool) -> None:
    if as_json:
        print_json_line(document_of(event))
        return
    cells = (str(event.position), moment(event.time), event.type, event.subject, in_a_line(event.data))
    click.echo(printable("  ".join(cell for cell in cells if cell)))


async def _uid(mnemo: Connection, space: str) -> str:
    """The internal id of a space, which events carry; empty for none. Raises SpaceNotFoundError."""
    return (await mnemo.space(space).info()).uid if space else ""
