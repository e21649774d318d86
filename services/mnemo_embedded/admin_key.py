"""The key with which the owner of a data directory gets in: a file that only they can read."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING, Final

from mnemocore.errors import DataDirectoryError

if TYPE_CHECKING:
    from pathlib import Path

FILE_NAME: Final = "admin.key"


def read_or_make_admin_key(directory: Path) -> str:
    """The key in the directory's file `admin.key` (mode 0600), made at the first call. Raises DataDirectoryError."""
    path = directory / FILE_NAME
    try:
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return path.read_text().strip()
        with os.fdopen(handle, "w") as file:
            key = f"mnemo_admin_{secrets.token_urlsafe(32)}"
            file.write(key + "\n")
            return key
    except OSError as error:
        raise DataDirectoryError(f"{path}: {error.strerror}", path=str(directory)) from error
