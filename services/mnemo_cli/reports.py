"""Jobs and their reports, for people."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from mnemo_cli.shown import moment, print_json, printable

if TYPE_CHECKING:
    from mnemocore.client import Job


def print_job(job: Job, as_json: bool) -> None:
    """Print what a job is, where it stands and what it found."""
    if as_json:
        print_json(job)
        return
    click.echo(f"job {job.id} on space {job.space}: {job.state}")
    click.echo(f"created {moment(job.create_time)}, started {moment(job.start_time)}, ended {moment(job.end_time)}")
    if job.error:
        click.echo(f"failed: {printable(job.error)}")
    print_markdown(job.report.markdown)


def print_markdown(text: str) -> None:
    """Print Markdown: laid out on a terminal, as it is elsewhere."""
    if not text:
        return
    if not sys.stdout.isatty():
        click.echo(text)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(printable(text)))
