"""`mnemo backup`: save everything, bring it back, and try out whether it would come back."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import sys
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from mnemo_cli.failure import Failure, one_line
from mnemo_cli.shown import moment, print_columns, print_json
from mnemo_cli.target import DEFAULT_DATA_DIR, Target, connection_options, run
from mnemocore.errors import BackupDamagedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
    from contextlib import AbstractAsyncContextManager

    from mnemo_embedded.backup import BackTo, Restored
    from mnemo_embedded.drill import Report
    from mnemocore.postgres import Database
    from mnemocore.postgres.dump import Manifest, Progress

T = TypeVar("T")

PASSPHRASE_VARIABLE: Final = "MNEMO_BACKUP_PASSPHRASE"
LOCAL_TENANT: Final = "local"
"""The tenant of who uses a data directory without a key."""

_file = click.Path(dir_okay=False, path_type=Path)
_folder = click.Path(file_okay=False, path_type=Path)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
_no_progress = click.option("--no-progress", is_flag=True, help="Show no progress bar.")


class Damaged(Failure):
    """Ends the command with the line `error: ...` and exit code 2: a backup is not what it should be."""

    exit_code = 2


def _passphrase_option(command: Callable[..., T]) -> Callable[..., T]:
    """Give `command` the passphrase as bytes or None, from a file or the environment, never from its arguments."""

    @click.option(
        "--passphrase-file",
        type=_file,
        envvar="MNEMO_BACKUP_PASSPHRASE_FILE",
        show_envvar=True,
        help=f"A file with the passphrase of the encryption; without it {PASSPHRASE_VARIABLE}, if that is set.",
    )
    @functools.wraps(command)
    def with_passphrase(*args: Any, passphrase_file: Path | None, **others: Any) -> T:
        return command(*args, passphrase=_passphrase(passphrase_file), **others)

    return with_passphrase


def _database_option(text: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
    return click.option("--database-url", metavar="URL", envvar="MNEMO_DATABASE_URL", show_envvar=True, help=text)


def _data_dir_option(text: str, default: Path | None) -> Callable[[Callable[..., T]], Callable[..., T]]:
    return click.option(
        "--data-dir",
        type=_folder,
        default=default,
        envvar="MNEMO_DATA_DIR" if default else None,
        show_default=default is not None,
        show_envvar=default is not None,
        help=text,
    )


@click.group()
def backup() -> None:
    """Backups: everything that is remembered, in one file.

    The keys that are not in the database are not in a backup: the master keys of encrypted spaces and of the secrets of
    webhooks, without which those stay sealed, and the admin key of a data directory, which a new directory makes for
    itself.
    """


@backup.command()
@click.option("--to", "folder", type=_folder, required=True, metavar="DIR", help="Where to put it; made if not there.")
@_data_dir_option("The data directory to save; it may be served meanwhile.", DEFAULT_DATA_DIR)
@_database_option("The PostgreSQL to save instead of a data directory.")
@_passphrase_option
@_json
@_no_progress
def create(
    folder: Path,
    data_dir: Path,
    database_url: str | None,
    passphrase: bytes | None,
    as_json: bool,
    no_progress: bool,
) -> None:
    """Save everything, as of one moment, to mnemo-YYYYmmddTHHMMSSZ.mbk.

    Servers go on working meanwhile. With a passphrase the backup is encrypted; keep it elsewhere, nobody can read the
    backup without it. However the command ends, there is a whole backup or none.
    """
    from mnemo_cli.backup_files import name_at

    created_at = datetime.now(UTC)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / name_at(created_at)
    started = time.monotonic()
    with _progress_bar("backing up", shown=not no_progress) as progress:
        manifest = run(_create(_store(data_dir, database_url), path, created_at, passphrase, progress))
    _print_outcome("saved", path, manifest, started, as_json, encrypted=passphrase is not None)


@backup.command()
@click.argument("archive", type=_file)
@_passphrase_option
@_json
@_no_progress
def verify(archive: Path, passphrase: bytes | None, as_json: bool, no_progress: bool) -> None:
    """Read all of a backup and check that it is whole. Exit code 2 if it is not."""
    from mnemocore.postgres.dump import verify as verify_archive

    started = time.monotonic()
    with _progress_bar("reading", shown=not no_progress) as progress, _damage_has_its_own_exit_code():
        manifest = run(_until_sigterm(verify_archive(archive, passphrase=passphrase, progress=progress)))
    _print_outcome("whole", archive, manifest, started, as_json)


@backup.command()
@click.argument("archive", type=_file)
@_data_dir_option("The new data directory; it must be empty or not there.", None)
@click.option("--database-url", metavar="URL", help="The empty PostgreSQL to restore into instead.")
@click.option("--database-url-file", type=_file, help="A file with that URL, so that its password stays unseen.")
@click.option("--space", metavar="SPACE", help="Take this space back to an earlier revision.")
@click.option("--at-revision", type=click.IntRange(min=0), metavar="N", help="The revision to take the space back to.")
@click.option("--tenant", default=LOCAL_TENANT, show_default=True, help="Whose space it is.")
@click.option(
    "--master-keys-file",
    type=_file,
    envvar="MNEMO_MEMORY_MASTER_KEYS_FILE",
    show_envvar=True,
    help="The master keys, to take an encrypted space back.",
)
@_passphrase_option
@_json
@_no_progress
def restore(
    archive: Path,
    data_dir: Path | None,
    database_url: str | None,
    database_url_file: Path | None,
    space: str | None,
    at_revision: int | None,
    tenant: str,
    master_keys_file: Path | None,
    passphrase: bytes | None,
    as_json: bool,
    no_progress: bool,
) -> None:
    """Bring a backup back, into a new data directory or an empty database.

    Ids, API keys, consistency tokens and positions of events go on working. However the command ends, everything is
    there or nothing. With --space and --at-revision the memories of one space are then taken back to what they were
    after that revision, by new revisions.
    """
    if database_url_file is not None:
        database_url = database_url_file.read_text().strip()
    if (data_dir is None) == (database_url is None):
        raise click.UsageError("name one of --data-dir and --database-url (or --database-url-file)")
    if (space is None) != (at_revision is None):
        raise click.UsageError("--space and --at-revision go together")
    back_to = None
    if space is not None and at_revision is not None:
        back_to = _back_to(tenant, space, at_revision, master_keys_file)
    started = time.monotonic()
    with _progress_bar("restoring", shown=not no_progress) as progress, _damage_has_its_own_exit_code():
        restored = run(_restore(archive, data_dir, database_url, passphrase, back_to, progress))
    _print_outcome("restored", archive, restored.manifest, started, as_json, rewound=restored.rewound)
    if restored.rewound is not None and not as_json:
        it = restored.rewound
        click.echo(f"space {space}: {it.changed} memories as they were, {it.erased} later ones erased")
        if it.lost:
            click.echo(f"{it.lost} memories were erased since revision {at_revision}; their content cannot come back")
    if database_url is not None:
        click.echo("before the services start: remove the data of the index, it is built anew", err=True)


@backup.command("list")
@click.argument("folder", type=_folder, metavar="DIR")
@_json
def list_backups(folder: Path, as_json: bool) -> None:
    """List the backups in a folder, newest first, by what can be read of them without a passphrase."""
    from mnemo_cli.backup_files import find, look_at

    listed = [look_at(file) for file in find(folder)]
    if as_json:
        print_json(listed)
        return
    rows = (
        (each.path.name, moment(each.created_at), f"{each.size / 1e6:.1f} MB", each.product or "-", _remark(each))
        for each in listed
    )
    print_columns(("BACKUP", "CREATED", "SIZE", "VERSION", ""), rows)


@backup.command()
@click.argument("folder", type=_folder, metavar="DIR")
@click.option("--daily", type=click.IntRange(min=0), default=7, show_default=True, help="Days to keep one of each.")
@click.option("--weekly", type=click.IntRange(min=0), default=4, show_default=True, help="Weeks to keep one of each.")
@click.option(
    "--monthly", type=click.IntRange(min=0), default=12, show_default=True, help="Months to keep one of each."
)
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, delete nothing.")
@_json
def prune(folder: Path, daily: int, weekly: int, monthly: int, dry_run: bool, as_json: bool) -> None:
    """Delete old backups: the newest one stays, and the newest of each of the last days, weeks and months.

    Only files with names that 'mnemo backup create' gives are deleted.
    """
    from mnemo_cli.backup_files import Keep, find, superfluous

    paths = superfluous(folder, Keep(daily, weekly, monthly))
    if not dry_run:
        for path in paths:
            path.unlink()
    left = len(find(folder)) - (len(paths) if dry_run else 0)
    if as_json:
        print_json({"deleted": [path.name for path in paths], "kept": left, "dry_run": dry_run})
        return
    for path in paths:
        click.echo(f"{'would delete' if dry_run else 'deleted'} {path.name}")
    click.echo(f"{left} backups {'would stay' if dry_run else 'stay'}")


@backup.command()
@click.argument("source", type=click.Path(path_type=Path), required=False, metavar="[ARCHIVE|DIR]")
@click.option(
    "--work-dir", type=_folder, help="Where there is room for the restored data; the temporary folder if not."
)
@click.option("--recalls", type=click.IntRange(0, 10_000), default=100, show_default=True, help="Memories to ask for.")
@click.option("--seed", type=int, default=0, show_default=True, help="Chooses which memories.")
@click.option("--timeout", type=click.FloatRange(min=1), default=3600.0, show_default=True, help="Seconds at most.")
@_database_option("The PostgreSQL of the living installation, if it has no data directory.")
@_passphrase_option
@_json
@_no_progress
@connection_options
def drill(
    source: Path | None,
    work_dir: Path | None,
    recalls: int,
    seed: int,
    timeout: float,
    database_url: str | None,
    passphrase: bytes | None,
    as_json: bool,
    no_progress: bool,
    target: Target,
) -> None:
    """Try a backup out: restore it for a while, start the services on it, and compare. Exit code 2 on any difference.

    Takes ARCHIVE, or the newest backup of DIR, or makes one for the purpose. Compared are the rows of every table and a
    digest of every space with what the backup says; and with the living installation, as long as nothing was written
    there since. Then parts of memories are asked for: what was restored must answer as the living installation does, or
    find the memory itself where that cannot be asked.
    """
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")  # children run programs of their own
    with _progress_bar("restoring", shown=not no_progress) as progress, _damage_has_its_own_exit_code():
        work = _drill(source, work_dir, recalls, seed, database_url, passphrase, target, progress)
        try:
            report = run(_within(timeout, work))
        except TimeoutError:
            raise Failure(f"the drill did not end within {timeout:g} s") from None
    _print_report(report, as_json)
    if not report.passed:
        raise click.exceptions.Exit(Damaged.exit_code)


# The work


async def _create(
    store: Callable[[], AbstractAsyncContextManager[Database]],
    path: Path,
    created_at: datetime,
    passphrase: bytes | None,
    progress: Progress,
) -> Manifest:
    from mnemo_embedded.backup import back_up

    async def work() -> Manifest:
        async with store() as database:
            return await back_up(database, path, created_at, passphrase=passphrase, progress=progress)

    return await _until_sigterm(work())


async def _restore(
    archive: Path,
    data_dir: Path | None,
    database_url: str | None,
    passphrase: bytes | None,
    back_to: BackTo | None,
    progress: Progress,
) -> Restored:
    from mnemo_embedded.backup import restore_database, restore_directory

    if data_dir is not None:
        work = restore_directory(data_dir, archive, passphrase=passphrase, back_to=back_to, progress=progress)
    else:
        assert database_url is not None
        work = restore_database(database_url, archive, passphrase=passphrase, back_to=back_to, progress=progress)
    return await _until_sigterm(work)


async def _drill(
    source: Path | None,
    work_dir: Path | None,
    recalls: int,
    seed: int,
    database_url: str | None,
    passphrase: bytes | None,
    target: Target,
    progress: Progress,
) -> Report:
    from mnemo_embedded.drill import Live, drill_with

    embedded = database_url is None and target.address is None and target.data_dir.exists()
    store = _store(target.data_dir, database_url) if embedded or database_url else None
    live = Live(store, target.connect if embedded or target.address else None)
    archive = await asyncio.to_thread(_archive_of, source)
    return await _until_sigterm(
        drill_with(archive, live, passphrase=passphrase, folder=work_dir, recalls=recalls, seed=seed, progress=progress)
    )


def _archive_of(source: Path | None) -> Path | None:
    """The archive that `source` names, or the newest one in it; None if there is none."""
    from mnemo_cli.backup_files import newest

    return newest(source) if source is not None and source.is_dir() else source


async def _within(seconds: float, work: Coroutine[Any, Any, Report]) -> Report:
    async with asyncio.timeout(seconds):
        return await work


def _store(data_dir: Path, database_url: str | None) -> Callable[[], AbstractAsyncContextManager[Database]]:
    """How to open the database that is meant."""
    from mnemo_embedded.store import open_store

    if database_url is None:
        return functools.partial(open_store, data_dir)
    return functools.partial(_open_database, database_url)


@asynccontextmanager
async def _open_database(url: str) -> AsyncIterator[Database]:
    from mnemocore.postgres import Database

    database = await Database.open(url, max_size=2, application_name="mnemo backup", require_fsync=False)
    try:
        yield database
    finally:
        await database.close()


def _back_to(tenant: str, space: str, revision: int, master_keys_file: Path | None) -> BackTo:
    from mnemo_embedded.backup import BackTo
    from mnemocore.ids import Tenant
    from mnemocore.master_keys import FixedMasterKeys, MasterKeyFile
    from mnemocore.sealing import MasterKeys

    keys = MasterKeyFile(master_keys_file, "--master-keys-file") if master_keys_file else FixedMasterKeys(MasterKeys())
    return BackTo(Tenant(tenant), space.removeprefix("spaces/"), revision, keys)


async def _until_sigterm(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; SIGTERM ends it as Ctrl-C does, so that nothing half is left."""
    loop, task, ended = asyncio.get_running_loop(), asyncio.ensure_future(work), []

    def end() -> None:
        ended.append(True)
        task.cancel()

    loop.add_signal_handler(signal.SIGTERM, end)
    try:
        return await task
    except asyncio.CancelledError:
        if ended:
            raise Failure("ended by SIGTERM; nothing of it is left") from None
        raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


@contextlib.contextmanager
def _damage_has_its_own_exit_code() -> Iterator[None]:
    try:
        yield
    except BackupDamagedError as error:
        raise Damaged(str(error)) from None


def _passphrase(file: Path | None) -> bytes | None:
    """The passphrase, without the line break at its end. Raises UsageError if it is empty."""
    if file is not None:
        content, name = file.read_bytes().rstrip(b"\r\n"), str(file)
    elif PASSPHRASE_VARIABLE in os.environ:
        content, name = os.environb[PASSPHRASE_VARIABLE.encode()], PASSPHRASE_VARIABLE
    else:
        return None
    if not content:
        raise click.UsageError(f"{name} is empty; it must hold a passphrase")
    return content


# What is shown


@contextlib.contextmanager
def _progress_bar(what: str, *, shown: bool) -> Iterator[Progress]:
    """A bar on standard error, if that is a terminal, and what moves it."""
    if not shown or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print_outcome(what: str, path: Path, manifest: Manifest, started: float, as_json: bool, **more: object) -> None:
    seconds, size = round(time.monotonic() - started, 3), path.stat().st_size
    spaces = manifest.contents.get("memory", {}).get("spaces", [])
    if as_json:
        outcome = {
            "path": path,
            "bytes": size,
            "rows": manifest.rows,
            "spaces": len(spaces),
            "created_at": manifest.created_at,
            "product": manifest.product,
            "tables": manifest.tables,
            "seconds": seconds,
        }
        print_json({**outcome, **more})
        return
    memories = sum(space["memories"] for space in spaces)
    click.echo(
        f"{what} {path}: {memories} memories in {len(spaces)} spaces, {manifest.rows} rows in all, "
        f"{size / 1e6:.1f} MB, {seconds:.1f} s"
    )


def _remark(listed: Any) -> str:
    return one_line(listed.problem) if listed.problem else "encrypted" if listed.encrypted else ""


def _print_report(report: Report, as_json: bool) -> None:
    if as_json:
        print_json({"passed": report.passed, **_fields(report)})
        return
    click.echo(f"backup {report.archive} of {report.created_at}")
    click.echo(
        f"restored: {report.rows} rows in {report.tables} tables, {report.memories} memories, {report.spaces} spaces"
    )
    click.echo(f"living installation: {report.live}")
    click.echo(f"recalls: {report.recalls}, {report.compared_with_live} of them compared with the living installation")
    for difference in report.differences:
        click.echo(f"difference: {one_line(difference)}")
    if report.found > len(report.differences):
        click.echo(f"and {report.found - len(report.differences)} more differences")
    click.echo(f"{'passed' if report.passed else 'FAILED'} in {report.seconds:.1f} s")


def _fields(report: Report) -> dict[str, object]:
    import dataclasses

    return dataclasses.asdict(report)
