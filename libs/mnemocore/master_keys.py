"""Where the master keys of an installation come from: a setting, or a file that may change while it is served.

A line of the file is `ID BASE64`: an id of 1 to 64 letters, digits, `.`, `_` and `-`, and 32 bytes in base64. The first
line is the current key. Empty lines and lines that begin with `#` count for nothing. The setting holds the same as
`ID:BASE64`, separated by commas. No error and no log line ever shows a key.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from mnemocore.errors import InvalidSettingError
from mnemocore.sealing import KEY_BYTES, MasterKey, MasterKeys

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

VARIABLE: Final = "MNEMO_MEMORY_MASTER_KEYS"
"""The variable that holds master keys; with `_FILE` appended, the one that names a file of them."""

_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MAX_FILE_BYTES: Final = 1024 * 1024
_log = logging.getLogger(__name__)


class MasterKeySource(Protocol):
    """Knows the master keys of now."""

    async def keys(self) -> MasterKeys:
        """The master keys. Raises InvalidSettingError if they were never readable."""
        ...


class FixedMasterKeys:
    """Master keys that stay the same until the process ends."""

    def __init__(self, keys: MasterKeys) -> None:
        self._keys = keys

    async def keys(self) -> MasterKeys:
        """The master keys."""
        return self._keys


class MasterKeyFile:
    """The master keys in a file, read again when the file has changed.

    A file that cannot be read or understood any more is an error in the log, and the keys of before stay in use.
    Only its owner may read it; if that is root, its group may too.
    """

    def __init__(self, path: Path, setting: str) -> None:
        self._path = path
        self._setting = setting
        self._keys: MasterKeys | None = None
        self._seen: tuple[int, ...] | None = None
        self._lock = asyncio.Lock()

    async def keys(self) -> MasterKeys:
        """The master keys of the file as it is now. Raises InvalidSettingError if it was never readable."""
        async with self._lock:
            keys, self._seen = await asyncio.to_thread(self._read, self._keys, self._seen)
            self._keys = keys
            return keys

    def _read(
        self, before: MasterKeys | None, seen: tuple[int, ...] | None
    ) -> tuple[MasterKeys, tuple[int, ...] | None]:
        """The keys, and what the file looked like; those of `before` if it still looks like `seen`."""
        look: tuple[int, ...] = ()
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno())
                look = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
                if before is not None and look == seen:
                    return before, seen
                self._refuse_open_to_others(found)
                keys = self._parsed(file.read(_MAX_FILE_BYTES))
        except OSError as error:
            reason = f"{self._setting}: cannot read {self._path}: {error.strerror}"
            return self._kept(before, seen, look, InvalidSettingError(reason, setting=self._setting)), look
        except InvalidSettingError as error:
            return self._kept(before, seen, look, error), look
        if before is not None:
            _log.info("master keys read again: %s", ", ".join(keys.ids) or "none")
        return keys, look

    def _parsed(self, content: bytes) -> MasterKeys:
        keys = parse(_decoded(content, str(self._path)).splitlines(), str(self._path))
        if not keys.ids:
            raise _refused(str(self._path), "holds no key; allowed are lines of an id and a key", self._setting)
        return keys

    def _kept(
        self,
        before: MasterKeys | None,
        seen: tuple[int, ...] | None,
        look: tuple[int, ...],
        error: InvalidSettingError,
    ) -> MasterKeys:
        if before is None:
            raise error
        if look != seen:
            _log.error("%s; the master keys of before stay in use: %s", error, ", ".join(before.ids))
        return before

    def _refuse_open_to_others(self, found: os.stat_result) -> None:
        allowed = 0o640 if found.st_uid == 0 else 0o600
        mode = stat.S_IMODE(found.st_mode)
        if mode & ~allowed & 0o077:
            raise InvalidSettingError(
                f"{self._setting}: {self._path} has mode {mode:04o}; allowed is at most {allowed:04o}, for it holds "
                "secrets",
                setting=self._setting,
            )


def from_environment(environ: Mapping[str, str]) -> MasterKeySource:
    """The master keys that the environment gives or names; none if it does neither. Raises InvalidSettingError."""
    return source(environ.get(VARIABLE, ""), environ.get(f"{VARIABLE}_FILE", ""))


def source(keys: str, file: str, setting: str = VARIABLE) -> MasterKeySource:
    """The master keys of two settings, at most one given: `setting`, the keys themselves, and `setting`_FILE.

    Does not touch the file. Raises InvalidSettingError.
    """
    if keys and file:
        raise InvalidSettingError(f"{setting} and {setting}_FILE are both set: allowed is one of them", setting=setting)
    if file:
        return MasterKeyFile(Path(file), f"{setting}_FILE")
    lines = [each.strip().replace(":", " ", 1) for each in keys.split(",")]
    return FixedMasterKeys(parse(lines, setting, "item"))


def parse(lines: Iterable[str], where: str, unit: str = "line") -> MasterKeys:
    """Master keys, one a line. Raises InvalidSettingError that names the line and what is allowed, never a key."""
    keys: dict[str, MasterKey] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        place = f"{where}, {unit} {number}"
        parts = line.split()
        if len(parts) != 2:
            raise _refused(place, "is not an id and a key", where)
        key_id, text = parts
        if not _ID.fullmatch(key_id):
            raise _refused(
                place, "begins with what is no id; allowed are 1 to 64 letters, digits, '.', '_' and '-'", where
            )
        if key_id in keys:
            raise _refused(place, f"has the id {key_id!r} of an earlier one; allowed is each id once", where)
        keys[key_id] = MasterKey(key_id, _key(text, place, where))
    return MasterKeys(list(keys.values()))


def _key(text: str, place: str, where: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise _refused(place, f"has a key that is not base64; allowed are {KEY_BYTES} bytes in base64", where) from None
    if len(key) != KEY_BYTES:
        raise _refused(place, f"has a key of {len(key)} bytes; allowed are {KEY_BYTES} bytes in base64", where)
    return key


def _decoded(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise _refused(where, "is not text; allowed are lines of an id and a key", where) from None


def _refused(place: str, reason: str, where: str) -> InvalidSettingError:
    return InvalidSettingError(f"master keys: {place} {reason}", setting=where)
