"""`mnemo doctor`: is everything as it should be?"""

from __future__ import annotations

from typing import Final

import click

from mnemo_cli.shown import print_json
from mnemo_cli.target import Target, connection_options

_COLOURS: Final = {"ok": "green", "warning": "yellow", "error": "red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@connection_options
def doctor(as_json: bool, target: Target) -> None:
    """Check the installation, the data directory and the services.

    Exit code 0: healthy, 1: warnings, 2: errors. A data directory that nobody serves is opened for the checks; one that
    does not exist is not made.
    """
    from mnemo_cli.checks import examine, worst

    findings = []
    for finding in examine(target):
        findings.append(finding)
        if not as_json:
            mark = click.style(f"{finding.level:<8}", fg=_COLOURS[finding.level])
            click.echo(f"{mark}{finding.check}: {finding.detail}")
    level = worst(findings)
    if as_json:
        print_json({"level": level.name.lower(), "findings": findings})
    raise click.exceptions.Exit(int(level))
