"""`mnemo recall`: ask, and read the answer."""

from __future__ import annotations

import shutil
import textwrap
from typing import TYPE_CHECKING, Final

import click

from mnemo_cli import choices, moments
from mnemo_cli.filters import filter_options
from mnemo_cli.shown import moment, print_json, printable, shortened
from mnemo_cli.target import Target, connection_options

if TYPE_CHECKING:
    from datetime import datetime

    from mnemocore.client import Connection, MemoryFilter, RecallHit, RecallHits

SHORT_LENGTH: Final = 400
"""Characters of a memory that are shown unless all of it is asked for."""

_INDENT: Final = "    "


@click.command()
@click.argument("query")
@click.option("--space", required=True, metavar="SPACE", help="The space to look in.")
@click.option("--limit", type=click.IntRange(1, 1000), default=10, show_default=True, help="Results at most.")
@click.option(
    "--profile",
    type=choices.profile,
    default="balanced",
    show_default=True,
    help="How the parts of the score are weighed; graph also follows links.",
)
@filter_options
@click.option("--state", "states", multiple=True, type=choices.state, help="Any of these states; active if none.")
@click.option("--known-at", type=moments.time, metavar="TIME", help="Answer from what was known at this time.")
@click.option("--min-score", type=click.FloatRange(0, 1), default=0.0, help="Leave out results with a lower score.")
@click.option("--no-wait", is_flag=True, help="Answer at once, though newly written memories may not be found yet.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with everything.")
@click.option("--explain", is_flag=True, help="Show what each score is made of.")
@click.option("--full", is_flag=True, help="Show memories in full length.")
@connection_options
def recall(
    query: str,
    space: str,
    limit: int,
    profile: str,
    chosen: MemoryFilter,
    states: tuple[str, ...],
    known_at: datetime | None,
    min_score: float,
    no_wait: bool,
    as_json: bool,
    explain: bool,
    full: bool,
    target: Target,
) -> None:
    """Find the memories that answer QUERY, best first, among all that were kept before."""

    async def ask(mnemo: Connection) -> RecallHits:
        return await mnemo.space(space).recall(
            query,
            limit=limit,
            filter=chosen,
            profile=profile,
            fully_consistent=not no_wait,
            states=states,
            known_at=known_at,
            min_score=min_score,
        )

    hits = target.run(ask)
    if as_json:
        print_json({"space": space, "query": query, "degraded": hits.degraded, "hits": list(hits)})
        return
    if hits.degraded:
        click.echo(f"warning: did not take part: {', '.join(hits.degraded)}", err=True)
    if not hits:
        click.echo("nothing found")
    for rank, hit in enumerate(hits, start=1):
        _print_hit(rank, hit, explain=explain, full=full)


def _print_hit(rank: int, hit: RecallHit, *, explain: bool, full: bool) -> None:
    memory = hit.memory
    facts = [moment(memory.occurred_at), memory.actor, memory.session, " ".join(f"#{tag}" for tag in memory.tags)]
    score = click.style(f"{hit.score:.3f}", bold=True)
    about = click.style("  ".join(printable(fact) for fact in [*facts, memory.id] if fact), dim=True)
    click.echo(f"{rank:>2}. {score}  {about}")
    click.echo(_wrapped(printable(memory.content), full=full))
    if explain:
        for part in hit.explanation:
            line = f"{part.name:<12}{part.value:>10.4f} x {part.weight:<8.4f}= {part.contribution:.4f}"
            click.echo(click.style(f"{_INDENT}{line}", dim=True))


def _wrapped(text: str, *, full: bool) -> str:
    """`text` in lines that fit the terminal; shortened to SHORT_LENGTH characters and one paragraph unless `full`."""
    width = max(40, min(shutil.get_terminal_size().columns, 120))
    text = text if full else shortened(text, SHORT_LENGTH)
    lines = (textwrap.wrap(line, width - len(_INDENT)) or [""] for line in text.splitlines())
    return "\n".join(f"{_INDENT}{piece}".rstrip() for line in lines for piece in line)
