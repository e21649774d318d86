"""`mnemo export` and `mnemo import`: whole spaces out and in."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import Counter
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from mnemo_cli.failure import Failure, one_line
from mnemo_cli.shown import print_json
from mnemo_cli.target import Target, connection_options

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

    from mnemo_cli.transfer_files import Writer
    from mnemocore.client import Connection
    from mnemocore.memory.v1.transfer_service_pb2 import TransferRecord

PROBLEMS_LISTED: Final = 10
POSITION_SUFFIX: Final = ".position"

_READ_AHEAD: Final = 500


@click.command("export")
@click.option("--space", required=True, metavar="SPACE", help="What to export.")
@click.option("--to", "target_file", default="-", show_default=True, metavar="FILE", help="*.jsonl, *.parquet, or -.")
@click.option("--history", is_flag=True, help="Every revision instead of the newest state.")
@click.option("--media", is_flag=True, help="Also the bytes of media.")
@click.option("--resume", is_flag=True, help="Go on with a JSONL file that was interrupted.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as one JSON object (not with --to -).")
@click.option("--no-progress", is_flag=True, help="Show no progress bar.")
@connection_options
def export_space(
    space: str,
    target_file: str,
    history: bool,
    media: bool,
    resume: bool,
    as_json: bool,
    no_progress: bool,
    target: Target,
) -> None:
    """Write everything in a space to a file, as it is at this moment.

    Until it is whole, the file is FILE.part. Ctrl-C leaves FILE.part and FILE.position: --resume goes on with them.
    A Parquet file cannot be taken up again.
    """
    to = None if target_file == "-" else Path(target_file)
    if to is None and (resume or as_json):
        raise click.UsageError("--resume and --json need --to FILE")
    if resume and to is not None and to.suffix == ".parquet":
        raise click.UsageError("--resume is for JSONL files")
    run = _Export(space, to, {"history": history, "media": media}, resume=resume)
    with _progress_bar(shown=not no_progress and sys.stderr.isatty()) as progress:
        with run.writer() as write:
            done = target.run(lambda mnemo: run.send(mnemo, write, progress))
        run.finish()
    if to is not None:
        _print(as_json, {"file": str(to), **done}, f"exported {done['records']} records, revision {done['revision']}")


class _Export:
    """One run of `mnemo export`."""

    def __init__(self, space: str, to: Path | None, options: dict[str, bool], *, resume: bool) -> None:
        self._space = space
        self._to = to
        self._options = options
        self._position = ""
        self._records = self._bytes = 0
        if to is None:
            return
        self._part, self._note = to.with_name(to.name + ".part"), to.with_name(to.name + POSITION_SUFFIX)
        if resume:
            self._resume()

    def _resume(self) -> None:
        try:
            note = json.loads(self._note.read_text())
        except FileNotFoundError:
            raise Failure(f"{self._note}: nothing to go on with; leave --resume out") from None
        if note["options"] != [self._space, self._options]:
            raise Failure(f"{self._note}: belongs to an export with other options")
        self._position, self._records, self._bytes = note["position"], note["records"], note["bytes"]
        there = self._part.stat().st_size if self._part.exists() else 0
        if there < self._bytes:
            raise Failure(f"{self._part}: {there} of {self._bytes} bytes are there; leave --resume out")

    async def send(
        self, mnemo: Connection, write: Callable[[Any], None], progress: Callable[[int, int], None]
    ) -> dict[str, int]:
        """Write the file; returns the numbers of records and of the revision."""
        revision = 0
        options = self._options
        parts = mnemo.space(self._space).export(
            position=self._position, history=options["history"], media=options["media"]
        )
        with _interruptible() as stopped:
            async for part in parts:
                await asyncio.to_thread(write, part.records)
                self._position, revision = part.position, part.revision
                self._records += len(part.records)
                progress(self._records, part.total)
                if self._to is not None and self._to.suffix != ".parquet":
                    await asyncio.to_thread(self._remember)
                if stopped.is_set():
                    break
        if stopped.is_set():
            hint = "; go on with --resume" if self._to is not None and self._to.suffix != ".parquet" else ""
            click.echo(f"interrupted{hint}", err=True)
            raise click.exceptions.Exit(130)
        return {"records": self._records, "revision": revision}

    @contextlib.contextmanager
    def writer(self) -> Iterator[Callable[[Any], None]]:
        """What appends records to the file; it is whole and on the disk when the block ends well."""
        from mnemo_cli.transfer_files import LineWriter, ParquetWriter

        if self._to is None:
            yield LineWriter(sys.stdout.buffer).write
            return
        with self._part.open("r+b" if self._position else "wb") as file:
            file.truncate(self._bytes)
            file.seek(self._bytes)
            writer: Writer = ParquetWriter(file) if self._to.suffix == ".parquet" else LineWriter(file)

            def write(records: Any) -> None:
                writer.write(records)
                self._bytes = file.tell()

            yield write
            writer.close()
            file.flush()
            os.fsync(file.fileno())

    def _remember(self) -> None:
        note = {
            "options": [self._space, self._options],
            "position": self._position,
            "records": self._records,
            "bytes": self._bytes,
        }
        fresh = self._note.with_name(self._note.name + ".new")
        fresh.write_text(json.dumps(note))
        fresh.replace(self._note)

    def finish(self) -> None:
        """Give the file its name."""
        if self._to is not None:
            self._part.replace(self._to)
            self._note.unlink(missing_ok=True)


@click.command("import")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--space", required=True, metavar="SPACE", help="Where to; made if it does not exist.")
@click.option(
    "--on-conflict",
    type=click.Choice(["skip", "overwrite", "merge", "error"]),
    default="skip",
    show_default=True,
    help="What to do with a record whose id is taken.",
)
@click.option(
    "--from",
    "origin",
    type=click.Choice(["mnemo", "mem0", "chatgpt", "claude"]),
    default="mnemo",
    show_default=True,
    help="Where the files come from: mnemo export, an export of mem0, or an archive of conversations.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as one JSON object.")
@click.option("--no-progress", is_flag=True, help="Show no progress bar.")
@connection_options
def import_files(
    files: tuple[Path, ...],
    space: str,
    on_conflict: str,
    origin: str,
    as_json: bool,
    no_progress: bool,
    target: Target,
) -> None:
    """Write what is in files into a space. With --on-conflict skip, doing it again adds nothing.

    Records that are refused are left out and named at the end, with exit code 1. Ctrl-C ends the run after the batch
    under way, with exit code 130.
    """
    counts: Counter[str] = Counter()
    problems: list[str] = []
    with _progress_bar(shown=not no_progress and sys.stderr.isatty()) as progress:
        stopped = target.run(
            lambda mnemo: _import(mnemo, space, files, origin, on_conflict, counts, problems, progress), create=True
        )
    names = ("written", "skipped", "overwritten", "merged", "refused")
    outcome = {name: counts[name] for name in names}
    _print(as_json, {**outcome, "problems": problems}, ", ".join(f"{name} {counts[name]}" for name in names))
    if stopped:
        click.echo("interrupted: run it again to go on, with --on-conflict skip nothing is added twice", err=True)
        raise click.exceptions.Exit(130)
    if counts["refused"]:
        raise Failure(f"{counts['refused']} records were refused, the first: {problems[0]}")


async def _import(
    mnemo: Connection,
    space: str,
    files: tuple[Path, ...],
    origin: str,
    on_conflict: str,
    counts: Counter[str],
    problems: list[str],
    progress: Callable[[int, int], None],
) -> bool:
    """Write everything; whether it was interrupted."""
    with _interruptible() as stopped:
        async with aclosing(_records(files, space, origin)) as records:
            async for results in mnemo.space(space).import_records(records, on_conflict=on_conflict):
                counts.update(result.outcome for result in results)
                refused = [one_line(str(result.error)) for result in results if result.error is not None]
                problems += refused[: PROBLEMS_LISTED - len(problems)]
                progress(counts.total(), 0)
                if stopped.is_set():
                    return True
    return False


async def _records(files: tuple[Path, ...], space: str, origin: str) -> AsyncGenerator[TransferRecord]:
    """The records of all files, read in a thread a few hundred at a time."""
    from mnemo_cli import transfer_files
    from mnemo_cli.importers import read_foreign

    for path in files:
        found = transfer_files.read(path) if origin == "mnemo" else read_foreign(path, space, origin)
        while chunk := await asyncio.to_thread(_chunk, found):
            for record in chunk:
                yield record


def _chunk(records: Iterator[TransferRecord]) -> list[TransferRecord]:
    """The next records: as many as a batch may have, less if they are large."""
    chunk: list[TransferRecord] = []
    size = 0
    for record in records:
        chunk.append(record)
        size += record.ByteSize()
        if len(chunk) >= _READ_AHEAD or size >= 1024 * 1024:
            break
    return chunk


@contextlib.contextmanager
def _interruptible() -> Iterator[asyncio.Event]:
    """An event that Ctrl-C sets; a second Ctrl-C ends the command as usual."""
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()

    def interrupt() -> None:
        stopped.set()
        loop.remove_signal_handler(signal.SIGINT)

    loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        yield stopped
    finally:
        loop.remove_signal_handler(signal.SIGINT)


@contextlib.contextmanager
def _progress_bar(*, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, and what moves it: records done, and of how many (0: nobody knows)."""
    if not shown:
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=max(done, total) or None)


def _print(as_json: bool, outcome: dict[str, Any], line: str) -> None:
    if as_json:
        print_json(outcome)
    else:
        click.echo(line)
