"""Snapshots: the state of each space in one file, so that a restart encodes nothing and replays little.

A file is a magic, the length of a JSON header, the header, the sections it names, and the SHA-256 of all of that. It is
written beside the old one, made durable, and put in its place in one step: a reader finds the old or the new one whole.
Vectors are stored as float16, which is the precision the index keeps. A file that is damaged or of a foreign format is
set aside and reported, never half believed. One that another version of the index wrote is removed: its space is built
anew from the log. The file of an encrypted space holds sealed bytes and numbers only.
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

from mnemo_index.domain.state import SpaceState
from mnemocore.errors import StoreFullError
from mnemocore.ids import SpaceUid, is_uuid

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

MAGIC: Final = b"MNEMOIX2"
"""What a file begins with: whose it is, and the version of its format, one character."""
SUFFIX: Final = ".snapshot"
POSITION: Final = "position"

_LIST: Final = "list "
_DIGEST: Final = hashlib.sha256().digest_size
_AT_ONCE: Final = 1 << 22
_log = logging.getLogger(__name__)


class SnapshotStore:
    """The snapshots of one directory. Blocking: call it from worker threads, one space at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)  # words and vectors tell what the texts say

    def save(self, space_uid: SpaceUid, state: SpaceState) -> None:
        """Keep `state` durably in place of what was kept of the space before.

        Raises StoreFullError if the disk is full; the old snapshot is then still there.
        """
        with _replacing(self._path(space_uid)) as file:
            _write(file, state)

    def save_position(self, position: int) -> None:
        """Say that the snapshots that are there now contain everything of the log up to `position`."""
        self._write_position(position, self.spaces())

    def forget(self, space_uid: SpaceUid) -> None:
        """Remove whatever is kept of a space, also what was set aside."""
        position, expected = self._position()
        if space_uid in expected:
            self._write_position(position, sorted(expected - {space_uid}))
        for path in self._directory.glob(f"{self._path(space_uid).name}*"):
            path.unlink()
        _make_durable(self._directory)

    def load(self) -> tuple[int, Iterator[tuple[SpaceUid, SpaceState]]]:
        """The position up to which nothing is missing, and the states that can be used.

        A file that cannot be used is renamed `*.corrupt-<n>`, one of another version removed. If there was one, or one
        is missing, the position is 0: its space has to be built anew from the log.
        """
        for left in self._directory.glob("*.tmp"):  # of a process that ended while it wrote
            left.unlink()
        self._remove_other_versions()
        position, expected = self._position()
        sound = {space_uid for space_uid in self.spaces() if self._checked(space_uid)}
        for space_uid in sorted(expected - sound):
            _log.error("space %s has no usable snapshot and is built anew from the log", space_uid)
        complete = expected <= sound
        return position if complete else 0, ((space_uid, _read(self._path(space_uid))) for space_uid in sorted(sound))

    def spaces(self) -> list[SpaceUid]:
        """The spaces that have a snapshot, usable or not, in order."""
        names = (path.name.removesuffix(SUFFIX) for path in self._directory.glob(f"*{SUFFIX}"))
        return sorted(SpaceUid(name) for name in names if is_uuid(name))

    def _remove_other_versions(self) -> None:
        """Remove the snapshots that another version of the index wrote, once it is noted that the log is replayed."""
        others = [space_uid for space_uid in self.spaces() if _is_of_another_version(self._path(space_uid))]
        if others:
            _, expected = self._position()
            self._write_position(0, sorted(expected.difference(others)))
        for space_uid in others:
            _log.info("space %s was indexed by another version and is built anew from the log", space_uid)
            self._path(space_uid).unlink()

    def _write_position(self, position: int, spaces: list[SpaceUid]) -> None:
        text = json.dumps({"position": position, "spaces": spaces})
        with _replacing(self._directory / POSITION) as file:
            file.write(f"{_checksum(text)}\n{text}\n".encode())

    def _path(self, space_uid: SpaceUid) -> Path:
        if not is_uuid(space_uid):
            raise ValueError(f"space_uid {space_uid!r} is not a UUID")
        return self._directory / f"{space_uid}{SUFFIX}"

    def _position(self) -> tuple[int, set[SpaceUid]]:
        """The kept position and the spaces it speaks of; 0 and none if there is none or it is damaged."""
        path = self._directory / POSITION
        try:
            checksum, text = path.read_bytes().decode(errors="replace").removesuffix("\n").split("\n")
        except FileNotFoundError:
            return 0, set()
        except ValueError:
            checksum, text = "", ""
        if checksum != _checksum(text):
            _log.error("file %s is damaged; set aside as %s, the log is replayed", path.name, _set_aside(path).name)
            return 0, set()
        kept = json.loads(text)
        return int(kept["position"]), {SpaceUid(space_uid) for space_uid in kept["spaces"]}

    def _checked(self, space_uid: SpaceUid) -> bool:
        """Whether the snapshot is whole; one that is not is set aside."""
        path = self._path(space_uid)
        damage = _damage(path)
        if damage:
            _log.error("snapshot of space %s: %s; set aside as %s", space_uid, damage, _set_aside(path).name)
        return not damage


def _write(file: BinaryIO, state: SpaceState) -> None:
    sections: dict[str, NDArray[Any]] = dict(state.arrays)
    if not state.sealed:
        sections["vectors"] = sections["vectors"].astype(np.float16)
    for name, strings in state.lists.items():
        sections[f"{_LIST}{name}"] = np.frombuffer(json.dumps(strings).encode(), dtype=np.uint8)
    header = {
        "model": state.model,
        "applied_revision": state.applied_revision,
        "ahead": state.ahead,
        "removed": state.removed,
        "sections": [(name, array.dtype.str, array.shape) for name, array in sections.items()],
    }
    encoded = json.dumps(header).encode()
    digest = hashlib.sha256()
    for part in (MAGIC, len(encoded).to_bytes(8, "little"), encoded):
        digest.update(part)
        file.write(part)
    for array in sections.values():
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        for start in range(0, len(flat), _AT_ONCE):
            digest.update(flat[start : start + _AT_ONCE].data)
            file.write(flat[start : start + _AT_ONCE].data)
    file.write(digest.digest())


def _is_of_another_version(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(len(MAGIC))
    return start != MAGIC and start[:-1] == MAGIC[:-1]


def _damage(path: Path) -> str:
    """What is wrong with a snapshot; empty if nothing is."""
    with path.open("rb") as file:
        left = path.stat().st_size - _DIGEST
        digest, first = hashlib.sha256(), True
        while left > 0:
            part = file.read(min(left, _AT_ONCE))
            if first and not part.startswith(MAGIC):
                return "it is of another format"
            digest.update(part)
            left, first = left - len(part), False
        if first or file.read() != digest.digest():
            return "its checksum is wrong, it is truncated or damaged"
    return ""


def _read(path: Path) -> SpaceState:
    """The state in a snapshot that is whole."""
    content = np.fromfile(path, dtype=np.uint8)
    start = len(MAGIC) + 8
    end = start + int.from_bytes(content[len(MAGIC) : start].tobytes(), "little")
    header = json.loads(content[start:end].tobytes())
    lists: dict[str, list[str]] = {}
    arrays: dict[str, NDArray[Any]] = {}
    for name, dtype, shape in header["sections"]:
        start, end = end, end + int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        if name.startswith(_LIST):
            lists[name.removeprefix(_LIST)] = json.loads(content[start:end].tobytes())
        else:
            arrays[name] = content[start:end].copy().view(dtype).reshape(shape)
    return SpaceState(
        model=header["model"],
        applied_revision=header["applied_revision"],
        ahead=tuple(header["ahead"]),
        removed=header["removed"],
        lists=lists,
        arrays=arrays,
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
