"""The data directory: one folder, one format, one serving process at a time."""

from __future__ import annotations

import fcntl
import json
import os
import time
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mnemocore.errors import DataDirectoryError

if TYPE_CHECKING:
    from pathlib import Path

FORMAT: Final = 1
"""The newest layout of a data directory that this version reads, and the one it writes."""

_LOCK_FILE: Final = "mnemo.lock"
_FORMAT_FILE: Final = "FORMAT"
_UNFINISHED: Final = "unfinished"
"""Stands in the format file of a directory that is being filled."""
_PROBE_GRACE: Final = 0.5
"""Seconds for which a taken lock is tried again: `served_by` of another process holds it for a moment."""


@dataclass(frozen=True, slots=True)
class Served:
    """Who serves a data directory: the process and the address its clients use ("" until it is published)."""

    pid: int
    address: str


_held: weakref.WeakSet[DataDirectory] = weakref.WeakSet()


class DataDirectory:
    """A data directory this process holds; nobody else can hold it until `release` or the death of the process."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock
        _held.add(self)

    @classmethod
    def acquire(cls, path: Path) -> DataDirectory:
        """Create the directory where needed and take it.

        Raises DataDirectoryError with one line that says why it cannot be used: not writable, served by another
        process, or written by a newer version.
        """
        path = path.absolute()
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(path / _LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise _unusable(path, f"cannot be written: {error.strerror}") from error
        directory = cls(path, lock)
        try:
            directory._take_lock()
            directory._check_format()
            directory.publish_address("")
        except OSError as error:
            os.close(lock)
            raise _unusable(path, f"cannot be written: {error.strerror}") from error
        except DataDirectoryError:
            os.close(lock)
            raise
        return directory

    @classmethod
    def served_by(cls, path: Path) -> Served | None:
        """Who serves the directory now; None if nobody does or there is none."""
        try:
            lock = os.open(path / _LOCK_FILE, os.O_RDONLY)
        except OSError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _read_served(lock)
        finally:
            os.close(lock)
        return None

    def publish_address(self, address: str) -> None:
        """Tell `served_by` where this process answers, such as `127.0.0.1:7400`."""
        content = json.dumps({"pid": os.getpid(), "address": address}).encode()
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, content, 0)

    def mark_unfinished(self) -> None:
        """Say that it is being filled: nobody can take it until `mark_finished`, however this process ends."""
        _write_durably(self.path / _FORMAT_FILE, f"{_UNFINISHED}\n")

    def mark_finished(self) -> None:
        """Say that everything is there."""
        _write_durably(self.path / _FORMAT_FILE, f"{FORMAT}\n")

    @classmethod
    def is_unfinished(cls, path: Path) -> bool:
        """Whether somebody began to fill the directory and neither ended nor goes on."""
        try:
            unfinished = (path / _FORMAT_FILE).read_text().strip() == _UNFINISHED
        except (OSError, UnicodeDecodeError):
            return False
        return unfinished and cls.served_by(path) is None

    def release(self) -> None:
        """Let the directory go. A second release does nothing."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def let_go_in_child(self) -> None:
        """Close what a forked child has inherited: the lock stays with the parent, and with it alone."""
        self.release()

    def _take_lock(self) -> None:
        give_up = time.monotonic() + _PROBE_GRACE
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise self._taken() from None
                time.sleep(0.02)
            else:
                return

    def _taken(self) -> DataDirectoryError:
        served = _read_served(self._lock)
        where = f" at {served.address}" if served.address else ""
        return _unusable(self.path, f"is already served by process {served.pid}{where}")

    def _check_format(self) -> None:
        file = self.path / _FORMAT_FILE
        if not file.exists():
            file.write_text(f"{FORMAT}\n")
            return
        text = file.read_text().strip()
        if text == _UNFINISHED:
            raise _unusable(self.path, "holds half of a backup, for a restore was interrupted; restore it once more")
        if not text.isdecimal():
            raise _unusable(self.path, f"has a damaged {_FORMAT_FILE} file: {text[:40]!r}; allowed is a whole number")
        if int(text) > FORMAT:
            reason = f"was written by a newer version (format {text}, this version reads up to {FORMAT})"
            raise _unusable(self.path, reason)


def _read_served(lock: int) -> Served:
    try:
        content = json.loads(os.pread(lock, 4096, 0))
    except ValueError:  # between truncation and writing
        return Served(0, "")
    return Served(content["pid"], content["address"])


def _write_durably(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _unusable(path: Path, reason: str) -> DataDirectoryError:
    return DataDirectoryError(f"data directory {path} {reason}", path=str(path))


def _let_go_in_child() -> None:
    for directory in list(_held):
        directory.let_go_in_child()


os.register_at_fork(after_in_child=_let_go_in_child)
