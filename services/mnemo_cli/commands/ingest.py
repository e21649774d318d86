"""`mnemo ingest`: files in, memories kept."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, cast

import click

from mnemo_cli.failure import Failure, one_line
from mnemo_cli.shown import plain, print_json
from mnemo_cli.target import Target, connection_options

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mnemo_cli.files import File
    from mnemo_cli.ingesting import Outcome, Progress


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--space", required=True, metavar="SPACE", help="Where to keep them; made if it does not exist.")
@click.option(
    "--format",
    "format_name",
    type=click.Choice(["auto", "jsonl", "markdown", "text", "chat"]),
    default="auto",
    show_default=True,
    help="What the files are; auto decides by the ending.",
)
@click.option("--actor", default="", help="Who said it, for memories that name nobody.")
@click.option("--session", default="", help="The session, for memories that name none.")
@click.option("--tag", "tags", multiple=True, help="A tag for every memory; repeat it.")
@click.option("--batch-size", type=click.IntRange(1, 1000), default=256, show_default=True, help="Memories a batch.")
@click.option(
    "--on-error",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="What to do when a memory is broken or refused: end with exit code 1, or leave it out and warn at the end.",
)
@click.option("--dry-run", is_flag=True, help="Read and check the files, keep nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as one JSON object.")
@click.option("--no-progress", is_flag=True, help="Show no progress bar.")
@connection_options
def ingest(
    files: tuple[str, ...],
    space: str,
    format_name: str,
    actor: str,
    session: str,
    tags: tuple[str, ...],
    batch_size: int,
    on_error: str,
    dry_run: bool,
    as_json: bool,
    no_progress: bool,
    target: Target,
) -> None:
    """Keep what is in files as memories.

    One memory is a line of JSONL, a section of Markdown, a paragraph of text, or a message of a chat. A directory
    stands for its *.md, *.txt and *.jsonl files, - for JSONL from standard input.

    Ingesting the same files again adds nothing: a memory without an id gets one made from the space, the file's name
    and the text. Ctrl-C ends the run after the batches under way, with exit code 130.
    """
    from mnemo_cli.files import find
    from mnemo_cli.ingesting import Outcome, Plan, Run, send_until_interrupted

    found = find(files, format_name)
    plan = Plan(space, found, actor, session, tags, batch_size, skip_broken=on_error == "skip")
    outcome = Outcome()
    try:
        with _progress_bar(found, shown=not no_progress and sys.stderr.isatty()) as progress:
            run = Run(plan, outcome, progress)
            if dry_run:
                run.count()
            else:
                target.run(lambda mnemo: send_until_interrupted(run, mnemo), create=True)
    finally:
        _print_outcome(outcome, dry_run=dry_run, as_json=as_json)
    _end(outcome, skip_broken=plan.skip_broken)


@contextlib.contextmanager
def _progress_bar(files: Sequence[File], *, shown: bool) -> Iterator[Progress]:
    """A bar on standard error that counts bytes, and what moves it."""
    if not shown:
        yield lambda done_bytes, kept: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    sizes = [file.size for file in files]
    total = None if None in sizes else sum(size for size in sizes if size)
    columns = (BarColumn(), DownloadColumn(), TextColumn("{task.fields[kept]} memories"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total, kept=0)
        yield lambda done_bytes, kept: bar.update(task, completed=done_bytes, kept=kept)


def _print_outcome(outcome: Outcome, *, dry_run: bool, as_json: bool) -> None:
    rate = (outcome.kept + outcome.already_there) / outcome.seconds if outcome.seconds else 0.0
    if as_json:
        print_json(
            {**cast("dict[str, object]", plain(outcome)), "dry_run": dry_run, "memories_per_second": round(rate, 1)}
        )
        return
    if dry_run:
        click.echo(f"would keep {outcome.kept}, refused {outcome.refused}")
        return
    uncounted = f", {outcome.uncounted} more acknowledged before the error" if outcome.uncounted else ""
    click.echo(
        f"kept {outcome.kept}, already there {outcome.already_there}, refused {outcome.refused}{uncounted},"
        f" {outcome.seconds:.1f} s, {rate:.0f}/s"
    )


def _end(outcome: Outcome, *, skip_broken: bool) -> None:
    """End with the exit code that fits the outcome, after a line on standard error if it is not plain success."""
    if outcome.refused and not skip_broken:
        raise Failure(f"{outcome.problems[0]} (stopped; what was kept before stays, --on-error skip leaves such out)")
    for problem in outcome.problems:
        click.echo(f"warning: left out: {one_line(problem)}", err=True)
    if outcome.refused > len(outcome.problems):
        click.echo(f"warning: left out: {outcome.refused - len(outcome.problems)} more", err=True)
    if outcome.interrupted:
        click.echo("interrupted: run it again to go on, nothing is added twice", err=True)
        raise click.exceptions.Exit(130)
