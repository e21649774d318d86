"""`mnemo consolidate`: start the job, wait for it, print its report."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Final

import click

from mnemo_cli.failure import Failure
from mnemo_cli.reports import print_markdown
from mnemo_cli.shown import print_json
from mnemo_cli.target import Target, connection_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mnemocore.client import Connection, Job

LONGEST_WAIT: Final = 86_400.0


@click.command()
@click.option("--space", required=True, metavar="SPACE", help="The space to work on.")
@click.option("--dry-run", is_flag=True, help="Report only, change nothing.")
@click.option(
    "--min-similarity",
    type=click.FloatRange(0.8, 1.0),
    help="From which similarity two memories of one kind say the same; 0.95 if not given.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the job as one JSON object.")
@connection_options
def consolidate(space: str, dry_run: bool, min_similarity: float | None, as_json: bool, target: Target) -> None:
    """Find memories that say the same, keep the oldest of each group and archive the others.

    Waits for the end and prints the report. Every archived memory is named in it and can be restored.
    """

    async def work(mnemo: Connection) -> Job:
        job = await mnemo.space(space).consolidate(min_similarity=min_similarity, dry_run=dry_run)
        return await mnemo.wait_for_job(job.id, timeout=LONGEST_WAIT)

    with _spinner(f"consolidating {space}"):
        job = target.run(work)
    if as_json:
        print_json(job)
    else:
        print_markdown(job.report.markdown)
    if job.state != "succeeded":
        raise Failure(f"job {job.id} {job.state}{f': {job.error}' if job.error else ''}")


@contextlib.contextmanager
def _spinner(text: str) -> Iterator[None]:
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield
