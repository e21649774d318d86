"""The master key of a data directory for the secrets of webhooks: a file that only its owner can read."""

from __future__ import annotations

import base64
import os
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from mnemocore.errors import DataDirectoryError
from mnemocore.sealing import KEY_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILE_NAME: Final = "webhooks.key"
MASTER_KEYS: Final = "MNEMO_EVENTS_MASTER_KEYS"
"""The variable that holds other master keys; with `_FILE` appended, the one that names a file of them."""


def master_keys_file(directory: Path, environ: Mapping[str, str]) -> str:
    """The file of master keys that event-bus is to use: what the environment chooses, else the directory's own.

    Empty if the environment gives the keys themselves. Raises DataDirectoryError.
    """
    if environ.get(MASTER_KEYS) or environ.get(f"{MASTER_KEYS}_FILE"):
        return environ.get(f"{MASTER_KEYS}_FILE", "")
    return str(_read_or_make(directory))


def _read_or_make(directory: Path) -> Path:
    """The directory's file `webhooks.key` (mode 0600), made with a new key at the first call.

    It is there as a whole or not at all, and never replaced: of those who make it at the same time one wins.
    """
    path = directory / FILE_NAME
    draft = directory / f".{FILE_NAME}.{secrets.token_hex(8)}"
    try:
        if path.exists():
            return path
        try:
            _write_key(draft)
            with suppress(FileExistsError):  # somebody else was first
                path.hardlink_to(draft)
        finally:
            draft.unlink(missing_ok=True)
        _sync(directory)
    except OSError as error:
        raise DataDirectoryError(f"{path}: {error.strerror}", path=str(directory)) from error
    return path


def _write_key(path: Path) -> None:
    """A new file with a new key, on disk."""
    key = base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(f"webhooks-{secrets.token_hex(4)} {key}\n")
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    """Let the names in a directory outlast a crash of the machine."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
