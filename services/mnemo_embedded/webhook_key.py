"""The master key of a data directory for the secrets of webhooks: a file that only its owner can read."""

from __future__ import annotations

import base64
import os
import secrets
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
    """The directory's file `webhooks.key` (mode 0600), made with a new key at the first call."""
    path = directory / FILE_NAME
    draft = directory / f".{FILE_NAME}.{secrets.token_hex(8)}"
    key = base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()
    try:
        if path.exists():
            return path
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(f"webhooks-{secrets.token_hex(4)} {key}\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise DataDirectoryError(f"{path}: {error.strerror}", path=str(directory)) from error
    return path
