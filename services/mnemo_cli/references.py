"""How a command names spaces and memories, and the options that many commands share."""

from __future__ import annotations

import re
from typing import Final

import click

_NAME: Final = re.compile(r"spaces/([^/]+)/memories/([^/]+)")

space_option = click.option("--space", required=True, metavar="SPACE", help="The space.")
space_of_id_option = click.option(
    "--space", metavar="SPACE", help="The space, when only the id of the memory is given."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
reason_option = click.option("--reason", default="", help="Why; kept in the history.")
etag_option = click.option("--etag", default="", help="Only if the memory still has this etag.")


def memory_reference(name_or_id: str, space: str | None) -> tuple[str, str]:
    """The ids of the space and of the memory in `spaces/SPACE/memories/ID`, or in an id together with --space."""
    match = _NAME.fullmatch(name_or_id)
    if match is None:
        if not space:
            raise click.UsageError(f"give --space with the id {name_or_id!r}, or the name spaces/SPACE/memories/ID")
        return space, name_or_id
    if space and space != match[1]:
        raise click.UsageError(f"--space {space} and the name {name_or_id} differ")
    return match[1], match[2]
