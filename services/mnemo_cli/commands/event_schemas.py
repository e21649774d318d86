"""`mnemo events schemas`: what events of a type must look like."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import click

from mnemo_cli import choices
from mnemo_cli.failure import Failure
from mnemo_cli.listings import at_most
from mnemo_cli.payloads import bytes_of, payload_document, payload_of
from mnemo_cli.references import json_option
from mnemo_cli.shown import moment, plain, print_columns, print_facts, print_json, printable, shortened
from mnemo_cli.target import Target, connection_options

if TYPE_CHECKING:
    from mnemocore.client import Connection, EventSchema
    from mnemocore.errors import Violation

SHOWN = 60
"""Characters of a description in a list."""


@click.group()
def schemas() -> None:
    """Schemas: what events of a type must look like; a type without one is not checked."""


@schemas.command("list")
@click.argument("type", required=False, default="")
@click.option("--limit", type=click.IntRange(min=1), default=200, show_default=True, help="Schemas at most.")
@json_option
@connection_options
def list_schemas(type: str, limit: int, as_json: bool, target: Target) -> None:
    """List the newest schema of every type, or all versions of TYPE, newest first."""

    async def read(mnemo: Connection) -> list[EventSchema]:
        return await at_most(limit, mnemo.events.schemas.list(type, page_size=min(limit, 1000)))

    found = target.run(read)
    if as_json:
        print_json([_document(schema) for schema in found])
        return
    print_columns(("TYPE", "VERSION", "FORMAT", "COMPATIBILITY", "FROM", "REGISTERED", "DESCRIPTION"), map(_row, found))


@schemas.command()
@click.argument("type")
@click.option("--version", type=click.IntRange(min=1), help="Which version; the newest if not given.")
@json_option
@connection_options
def show(type: str, version: int | None, as_json: bool, target: Target) -> None:
    """Show a schema and its definition."""

    async def read(mnemo: Connection) -> EventSchema:
        return await mnemo.events.schemas.get(type, version)

    _print_schema(target.run(read), as_json)


@schemas.command()
@click.argument("type")
@click.argument("definition", metavar="JSON|@FILE|-")
@click.option("--format", type=choices.schema_format, default="json", show_default=True, help="In what it is written.")
@click.option("--message", "message_name", default="", help="For protobuf: the full name of the message.")
@click.option("--compatibility", type=choices.compatibility, help="What later versions may change.")
@click.option("--closed", is_flag=True, help="Refuse fields that the schema does not know.")
@click.option("--description", default="", help="What events of the type say.")
@json_option
@connection_options
def register(type: str, definition: str, as_json: bool, target: Target, **options: Any) -> None:
    """Register the next version of a type's schema: JSON Schema, or a serialised FileDescriptorSet."""
    content = bytes_of(definition)

    async def add(mnemo: Connection) -> EventSchema:
        return await mnemo.events.schemas.register(type, content, **options)

    schema = target.run(add, create=True)
    if as_json:
        print_json(_document(schema))
    else:
        click.echo(f"registered {schema.name}")


@schemas.command()
@click.argument("type")
@click.option("--yes", is_flag=True, help="Do not ask.")
@connection_options
def delete(type: str, yes: bool, target: Target) -> None:
    """Delete all versions of a type: its events are not checked any more."""
    if not yes:
        click.confirm(f"Delete all versions of the schema of {type}?", abort=True, err=True)

    async def remove(mnemo: Connection) -> int:
        return await mnemo.events.schemas.delete(type)

    click.echo(f"versions deleted: {target.run(remove)}")


@schemas.command()
@click.argument("type")
@click.option("--data", metavar="JSON|@FILE|-", help="The payload; @FILE reads a file, - standard input.")
@click.option("--content-type", default="", help="What the payload is, if it is not JSON.")
@click.option("--subject", default="", help="What the event is about.")
@click.option("--dataschema", default="", help="The version of the schema: schemas/TYPE/versions/N.")
@json_option
@connection_options
def validate(
    type: str, data: str | None, content_type: str, subject: str, dataschema: str, as_json: bool, target: Target
) -> None:
    """Say what publishing an event would refuse, and publish nothing. Exit code 1 if there is something."""
    payload, found_type = payload_of(data, content_type)

    async def check(mnemo: Connection) -> tuple[Violation, ...]:
        from mnemocore.client import EventInput

        item = EventInput(type, payload, subject=subject, datacontenttype=found_type, dataschema=dataschema)
        return await mnemo.events.schemas.validate([item])

    found = target.run(check)
    if as_json:
        print_json({"violations": found})
    else:
        for violation in found:
            click.echo(printable(f"{violation.field}: {violation.description}"))
        if not found:
            click.echo("valid")
    if found:
        raise Failure("1 violation" if len(found) == 1 else f"{len(found)} violations")


def _row(schema: EventSchema) -> tuple[str, ...]:
    return (
        schema.type,
        str(schema.version),
        schema.format,
        schema.compatibility,
        "platform" if schema.platform else "tenant",
        moment(schema.create_time),
        shortened(schema.description, SHOWN),
    )


def _document(schema: EventSchema) -> dict[str, Any]:
    shown: dict[str, Any] = {
        field.name: plain(getattr(schema, field.name))
        for field in dataclasses.fields(schema)
        if field.name != "definition"
    }
    content_type = "application/json" if schema.format == "json" else "application/octet-stream"
    return shown | payload_document("definition", schema.definition, content_type)


def _print_schema(schema: EventSchema, as_json: bool) -> None:
    if as_json:
        print_json(_document(schema))
        return
    print_facts(
        {
            "schema": schema.name,
            "format": schema.format,
            "message": schema.message_name,
            "compatibility": schema.compatibility,
            "closed": "yes" if schema.closed else "no",
            "from": "the platform" if schema.platform else f"the tenant, {moment(schema.create_time)}",
            "description": schema.description,
        }
    )
    if schema.format == "json":
        click.echo()
        click.echo(printable(json.dumps(json.loads(schema.definition), ensure_ascii=False, indent=2)))
