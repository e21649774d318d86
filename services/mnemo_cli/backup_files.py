"""The backups in a folder: their names, what can be read of them without a key, and which are kept."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from mnemocore.errors import BackupDamagedError, MnemoError
from mnemocore.postgres.archive import PARTIAL_SUFFIX, read_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

SUFFIX: Final = ".mbk"
STALE_SECONDS: Final = 24 * 3600.0
"""After so long nobody writes to a half archive any more: its writer was killed."""

_FORM: Final = "mnemo-%Y%m%dT%H%M%SZ"
_NAME: Final = re.compile(r"mnemo-\d{8}T\d{6}Z\.mbk")


@dataclass(frozen=True, slots=True)
class BackupFile:
    """A backup by its name. `created_at` is the time in the name, UTC."""

    path: Path
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Listed:
    """What can be read of a backup without its key. `problem` says why that could not be read; empty if it could."""

    path: Path
    created_at: datetime
    size: int
    product: str
    encrypted: bool
    problem: str


@dataclass(frozen=True, slots=True)
class Keep:
    """How many days, weeks and months keep their newest backup."""

    daily: int = 7
    weekly: int = 4
    monthly: int = 12


def name_at(moment: datetime) -> str:
    """The name of a backup of `moment` (UTC, whole seconds)."""
    return moment.astimezone(UTC).strftime(_FORM) + SUFFIX


def find(folder: Path) -> list[BackupFile]:
    """The backups in a folder that have a name of ours, newest first. Raises OSError."""
    found = []
    for path in folder.iterdir():
        moment = _moment(path.name)
        if moment is not None and path.is_file() and not path.is_symlink():
            found.append(BackupFile(path, moment))
    return sorted(found, key=lambda file: file.created_at, reverse=True)


def look_at(file: BackupFile) -> Listed:
    """A backup and its header."""
    size = file.path.stat().st_size
    try:
        header = read_header(file.path)
    except MnemoError as error:
        return Listed(file.path, file.created_at, size, "", encrypted=False, problem=str(error))
    return Listed(file.path, header.created_at, size, header.product, header.encrypted, "")


def newest(folder: Path) -> Path:
    """The newest backup of a folder. Raises BackupDamagedError if there is none."""
    found = find(folder)
    if not found:
        raise BackupDamagedError(f"there is no backup in {folder}", path=str(folder))
    return found[0].path


def kept(moments: Iterable[datetime], keep: Keep) -> set[datetime]:
    """Which of the times are kept: the newest of all, and the newest of each of the last days, weeks and months.

    Days, weeks (from Monday) and months are those of UTC that have a backup; one without takes nobody's place.
    """
    ordered = sorted(moments, reverse=True)
    chosen = set(ordered[:1])
    rules: tuple[tuple[int, Callable[[datetime], object]], ...] = (
        (keep.daily, lambda moment: moment.date()),
        (keep.weekly, lambda moment: tuple(moment.isocalendar())[:2]),
        (keep.monthly, lambda moment: (moment.year, moment.month)),
    )
    for count, period in rules:
        newest_of: dict[object, datetime] = {}
        for moment in ordered:
            newest_of.setdefault(period(moment), moment)
        chosen.update(list(newest_of.values())[:count])
    return chosen


def superfluous(folder: Path, keep: Keep) -> list[Path]:
    """The files that `keep` does not keep: backups with names of ours, oldest first, and what killed writers left."""
    files = find(folder)
    wanted = kept([file.created_at for file in files], keep)
    old = [file.path for file in reversed(files) if file.created_at not in wanted]
    return old + [path for path in sorted(folder.iterdir()) if _is_left_over(path)]


def _moment(name: str) -> datetime | None:
    """The time in a name of ours; None for any other name."""
    if not _NAME.fullmatch(name):
        return None
    try:
        return datetime.strptime(name, _FORM + SUFFIX).replace(tzinfo=UTC)
    except ValueError:
        return None


def _is_left_over(path: Path) -> bool:
    if not (path.name.startswith(".") and path.name.endswith(PARTIAL_SUFFIX)):
        return False
    if _moment(path.name[1 : -len(PARTIAL_SUFFIX)]) is None or path.is_symlink():
        return False
    return time.time() - path.stat().st_mtime > STALE_SECONDS
