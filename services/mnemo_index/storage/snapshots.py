"""Snapshots: the state of each space in one file, so that a restart encodes nothing and replays little.

A file is a magic, the length of a JSON header, the header, the SHA-256 of that, the sections the header names, and the
SHA-256 of all. A start reads headers only; the rest is read, and checked while it is read, when its space is used. A
file is written beside the old one, made durable, and put in its place in one step: a reader finds the old or the new
one whole. Vectors are stored as float16, which is the precision the index keeps. A file that is damaged or of a foreign
format is set aside and reported, never half believed. One that another version of the index wrote is removed: its space
is built anew from the log. The file of an encrypted space holds sealed bytes and numbers only.

The file `position` says how far the snapshots are, and which ones there are. It is written after them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np

from mnemo_index.domain.ports import UnusableSnapshotError
from mnemo_index.domain.share import Share
from mnemo_index.domain.state import Head, Kept, Progress, SpaceState
from mnemocore.errors import StoreFullError
from mnemocore.ids import SpaceUid, is_uuid

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

MAGIC: Final = b"MNEMOIX4"
"""What a file begins with: whose it is, and the version of its format, one character."""
SUFFIX: Final = ".snapshot"
POSITION: Final = "position"

_LIST: Final = "list "
_DIGEST: Final = hashlib.sha256().digest_size
_AT_ONCE: Final = 1 << 22
_log = logging.getLogger(__name__)


class SnapshotStore:
    """The snapshots of one directory. Blocking: call it from worker threads, one call that writes at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._revisions: dict[SpaceUid, int] = {}
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)  # words and vectors tell what the texts say

    def kept(self) -> Kept:
        """What there is, by the headers of the files. Called once, before anything else.

        A file that cannot be used is renamed `*.corrupt-<n>`, one of another version removed. If there was one, or one
        is missing or older than it has to be, what is kept is not complete: its space has to be built anew.
        """
        for left in self._directory.glob("*.tmp"):  # of a process that ended while it wrote
            left.unlink()
        self._remove_other_versions()
        progress, expected = self._position()
        heads = {space_uid: head for space_uid in self.spaces() if (head := self._head(space_uid)) is not None}
        missing = [uid for uid, revision in expected.items() if uid not in heads or heads[uid][1] < revision]
        for space_uid in sorted(missing):
            _log.error("space %s has no usable snapshot and is built anew from the log", space_uid)
            if heads.pop(space_uid, None) is not None:
                _set_aside(self._path(space_uid))
        self._revisions = {space_uid: head.applied_revision for space_uid, head in heads.items()}
        return Kept(progress, heads, not missing)

    def load(self, space_uid: SpaceUid) -> SpaceState:
        """The state in a snapshot.

        Raises UnusableSnapshotError if there is none that is whole; a damaged one is then set aside.
        """
        path = self._path(space_uid)
        try:
            return _read(path)
        except FileNotFoundError as error:
            self._revisions.pop(space_uid, None)
            raise UnusableSnapshotError("there is none") from error
        except (OSError, UnusableSnapshotError) as error:
            self._revisions.pop(space_uid, None)
            self._report(space_uid, error)
            raise UnusableSnapshotError(str(error)) from error

    def save(self, space_uid: SpaceUid, state: SpaceState) -> None:
        """Keep `state` durably in place of what was kept of the space before.

        Raises StoreFullError if the disk is full; the old snapshot is then still there.
        """
        with _replacing(self._path(space_uid)) as file:
            _write(file, state)
        self._revisions[space_uid] = state.applied_revision

    def save_progress(self, progress: Progress) -> None:
        """Say how far the snapshots are that are there now. Raises StoreFullError; what was said before then holds."""
        self._write_position(progress, self._revisions)

    def forget(self, space_uid: SpaceUid) -> None:
        """Remove whatever is kept of a space, also what was set aside."""
        progress, expected = self._position()
        if expected.pop(space_uid, None) is not None:
            self._write_position(progress, expected)
        self._revisions.pop(space_uid, None)
        for path in self._directory.glob(f"{self._path(space_uid).name}*"):
            path.unlink()
        _make_durable(self._directory)

    def clear(self) -> None:
        """Remove all snapshots, once it is noted that the log is replayed."""
        progress, _ = self._position()
        self._write_position(Progress(share=progress.share), {})
        for space_uid in self.spaces():
            self._path(space_uid).unlink()

    def write_file(self, name: str, text: str) -> None:
        """Keep a text durably in a file of the folder. Raises StoreFullError."""
        with _replacing(self._directory / name) as file:
            file.write(text.encode())

    def spaces(self) -> list[SpaceUid]:
        """The spaces that have a snapshot, usable or not, in order."""
        names = (path.name.removesuffix(SUFFIX) for path in self._directory.glob(f"*{SUFFIX}"))
        return sorted(SpaceUid(name) for name in names if is_uuid(name))

    def _remove_other_versions(self) -> None:
        """Remove the snapshots that another version of the index wrote, once it is noted that the log is replayed."""
        others = [space_uid for space_uid in self.spaces() if _is_of_another_version(self._path(space_uid))]
        if others:
            progress, expected = self._position()
            left = {space_uid: revision for space_uid, revision in expected.items() if space_uid not in others}
            self._write_position(Progress(share=progress.share), left)
        for space_uid in others:
            _log.info("space %s was indexed by another version and is built anew from the log", space_uid)
            self._path(space_uid).unlink()

    def _write_position(self, progress: Progress, revisions: dict[SpaceUid, int]) -> None:
        content = {
            "position": progress.position,
            "spaces": revisions,
            "owed": progress.owed,
            "building": sorted(progress.building),
            "replica": progress.share.replica,
            "replicas": sorted(progress.share.replicas),
        }
        text = json.dumps(content, sort_keys=True)
        with _replacing(self._directory / POSITION) as file:
            file.write(f"{_checksum(text)}\n{text}\n".encode())

    def _path(self, space_uid: SpaceUid) -> Path:
        if not is_uuid(space_uid):
            raise ValueError(f"space_uid {space_uid!r} is not a UUID")
        return self._directory / f"{space_uid}{SUFFIX}"

    def _position(self) -> tuple[Progress, dict[SpaceUid, int]]:
        """How far the snapshots are, and the revisions of all of them; nothing and none if that is not known."""
        path = self._directory / POSITION
        try:
            checksum, text = path.read_bytes().decode(errors="replace").removesuffix("\n").split("\n")
        except FileNotFoundError:
            return Progress(), {}
        except (OSError, ValueError):
            checksum, text = "", ""
        if checksum != _checksum(text):
            _log.error("file %s is damaged; set aside as %s, the log is replayed", path.name, _set_aside(path).name)
            return Progress(), {}
        return _parsed(json.loads(text))

    def _head(self, space_uid: SpaceUid) -> Head | None:
        """What the header of a snapshot says; None if it cannot be used, then it is set aside."""
        path = self._path(space_uid)
        try:
            with path.open("rb") as file:
                header, _ = _header(file)
        except (OSError, UnusableSnapshotError) as error:
            self._report(space_uid, error)
            return None
        return Head(header["model"], header["applied_revision"], header["size"], header.get("waiting", 0))

    def _report(self, space_uid: SpaceUid, damage: Exception) -> None:
        _log.error(
            "snapshot of space %s: %s; set aside as %s", space_uid, damage, _set_aside(self._path(space_uid)).name
        )


def _parsed(kept: dict[str, Any]) -> tuple[Progress, dict[SpaceUid, int]]:
    """What a whole file says. One that another version wrote tells nothing: then the log is replayed."""
    if not isinstance(kept.get("spaces"), dict):
        return Progress(), {}
    share = Share(kept["replica"], frozenset(kept["replicas"]))
    building = frozenset(SpaceUid(space_uid) for space_uid in kept["building"])
    revisions = {SpaceUid(space_uid): int(revision) for space_uid, revision in kept["spaces"].items()}
    return Progress(int(kept["position"]), share, int(kept["owed"]), building), revisions


def _write(file: BinaryIO, state: SpaceState) -> None:
    sections: dict[str, NDArray[Any]] = dict(state.arrays)
    if not state.sealed:
        sections["vectors"] = sections["vectors"].astype(np.float16, copy=False)
    for name, strings in state.lists.items():
        sections[f"{_LIST}{name}"] = np.frombuffer(json.dumps(strings).encode(), dtype=np.uint8)
    header = {
        "model": state.model,
        "applied_revision": state.applied_revision,
        "size": state.size,
        "waiting": state.waiting,
        "ahead": state.ahead,
        "removed": state.removed,
        "sections": [(name, array.dtype.str, array.shape) for name, array in sections.items()],
    }
    encoded = json.dumps(header).encode()
    digest = hashlib.sha256()
    for part in (MAGIC, len(encoded).to_bytes(8, "little"), encoded):
        digest.update(part)
        file.write(part)
    file.write(digest.digest())
    for array in sections.values():
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        for start in range(0, len(flat), _AT_ONCE):
            digest.update(flat[start : start + _AT_ONCE].data)
            file.write(flat[start : start + _AT_ONCE].data)
    file.write(digest.digest())


def _is_of_another_version(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(len(MAGIC))
    except OSError:
        return False
    return len(start) == len(MAGIC) and start != MAGIC and start[:-1] == MAGIC[:-1]


def _header(file: BinaryIO) -> tuple[dict[str, Any], hashlib._Hash]:
    """The header, and the digest of what was read so far; `file` then stands at the sections.

    Raises UnusableSnapshotError if the header is damaged, or the file is not as long as the header says.
    """
    start = file.read(len(MAGIC) + 8)
    if not start.startswith(MAGIC):
        raise UnusableSnapshotError("it is of another format")
    total = os.fstat(file.fileno()).st_size
    encoded = file.read(min(int.from_bytes(start[len(MAGIC) :], "little"), total))
    digest = hashlib.sha256(start + encoded)
    if file.read(_DIGEST) != digest.digest():
        raise UnusableSnapshotError("the checksum of its header is wrong, it is truncated or damaged")
    header: dict[str, Any] = json.loads(encoded)
    sections = sum(
        int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize for _, kind, shape in header["sections"]
    )
    if total != file.tell() + sections + _DIGEST:
        raise UnusableSnapshotError("it is not of the length that it should have, it is truncated or damaged")
    return header, digest


def _read(path: Path) -> SpaceState:
    """The state in a snapshot. Raises UnusableSnapshotError if it is not whole, OSError if it cannot be read."""
    sections: dict[str, NDArray[Any]] = {}
    with path.open("rb") as file:
        header, digest = _header(file)
        for name, kind, shape in header["sections"]:
            section = np.empty(shape, np.dtype(kind))
            flat = section.reshape(-1).view(np.uint8)
            for start in range(0, len(flat), _AT_ONCE):
                part = flat[start : start + _AT_ONCE].data
                file.readinto(part)
                digest.update(part)
            sections[name] = section
        if file.read() != digest.digest():
            raise UnusableSnapshotError("its checksum is wrong, it is damaged")
    return SpaceState(
        model=header["model"],
        applied_revision=header["applied_revision"],
        ahead=tuple(header["ahead"]),
        removed=header["removed"],
        lists={
            name.removeprefix(_LIST): json.loads(section.tobytes())
            for name, section in sections.items()
            if name.startswith(_LIST)
        },
        arrays={name: section for name, section in sections.items() if not name.startswith(_LIST)},
    )


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the block ends well, and leaves no trace when it does not."""
    written = path.with_name(f"{path.name}.tmp")
    try:
        with written.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        written.replace(path)
        _make_durable(path.parent)
    except OSError as error:
        written.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFullError from error
        raise
    except BaseException:
        written.unlink(missing_ok=True)
        raise


def _make_durable(directory: Path) -> None:
    """Make the names in `directory` survive a power cut."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _set_aside(path: Path) -> Path:
    number = 1
    while (kept := path.with_name(f"{path.name}.corrupt-{number}")).exists():
        number += 1
    path.rename(kept)
    return kept


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
