"""`mnemo jobs`: list, show and cancel jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mnemo_cli.listings import at_most
from mnemo_cli.reports import print_job
from mnemo_cli.shown import moment, print_columns, print_json
from mnemo_cli.target import Target, connection_options

if TYPE_CHECKING:
    from mnemocore.client import Connection, Job

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def jobs() -> None:
    """Jobs: work on memories while nobody waits."""


@jobs.command("list")
@click.option("--space", default="", metavar="SPACE", help="Only jobs of this space.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Jobs at most.")
@_json
@connection_options
def list_jobs(space: str, limit: int, as_json: bool, target: Target) -> None:
    """List jobs, newest first."""

    async def read(mnemo: Connection) -> list[Job]:
        return await at_most(limit, mnemo.jobs(space=space, page_size=min(limit, 1000)))

    found = target.run(read)
    if as_json:
        print_json(found)
        return
    rows = ((job.id, job.space, job.state, moment(job.create_time), str(job.report.archived)) for job in found)
    print_columns(("JOB", "SPACE", "STATE", "CREATED", "ARCHIVED"), rows)


@jobs.command()
@click.argument("job")
@_json
@connection_options
def show(job: str, as_json: bool, target: Target) -> None:
    """Show a job and its report."""

    async def read(mnemo: Connection) -> Job:
        return await mnemo.job(job.removeprefix("jobs/"))

    print_job(target.run(read), as_json)


@jobs.command()
@click.argument("job")
@_json
@connection_options
def cancel(job: str, as_json: bool, target: Target) -> None:
    """End a job at its next step. What it did stays done."""

    async def end(mnemo: Connection) -> Job:
        return await mnemo.cancel_job(job.removeprefix("jobs/"))

    print_job(target.run(end), as_json)
