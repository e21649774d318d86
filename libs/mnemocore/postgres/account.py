"""The system account PostgreSQL runs as: our own, or one without rights when we are root, whom PostgreSQL refuses."""

from __future__ import annotations

import logging
import os
import pwd
import shutil
import stat
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger("mnemocore.postgres")
_NAME: Final = "pgserver"
_FALLBACK: Final = "nobody"


@dataclass(frozen=True, slots=True)
class Account:
    """The numbers of the account, and whether it differs from the one we run as."""

    uid: int
    gid: int
    foreign: bool

    @classmethod
    def for_server(cls) -> Account:
        """Our own account; as root `pgserver`, which is created where possible, else `nobody`."""
        if os.geteuid() != 0:
            return cls(os.geteuid(), os.getegid(), foreign=False)
        entry = _existing(_NAME) or _created(_NAME) or pwd.getpwnam(_FALLBACK)
        return cls(entry.pw_uid, entry.pw_gid, foreign=True)

    def process_options(self) -> dict[str, Any]:
        """Arguments of `subprocess.Popen` that run a program under this account, out of reach of Ctrl-C."""
        options: dict[str, Any] = {"start_new_session": True}
        if self.foreign:
            options |= {"user": self.uid, "group": self.gid, "extra_groups": []}
        return options

    def own_folder(self, folder: Path) -> None:
        """Make `folder` (created where needed, not its parents) private to the account."""
        folder.mkdir(mode=0o700, exist_ok=True)
        if self.foreign:
            os.chown(folder, self.uid, self.gid, follow_symlinks=False)
        folder.chmod(0o700)

    def owns_privately(self, folder: Path) -> bool:
        """Whether `folder` is a real folder of the account that nobody else can enter."""
        status = folder.lstat()
        return stat.S_ISDIR(status.st_mode) and status.st_uid == self.uid and not status.st_mode & 0o077

    def open_way_to(self, path: Path) -> None:
        """Let the account pass through the parents of `path`; it may not list them or read anything else there."""
        if not self.foreign:
            return
        for folder in path.resolve().parents:
            mode = stat.S_IMODE(folder.stat().st_mode)
            if not mode & stat.S_IXOTH:
                folder.chmod(mode | stat.S_IXOTH)
                _log.info("%s: others may pass through now (mode %o), for PostgreSQL's account", folder, mode | 1)


def _existing(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _created(name: str) -> pwd.struct_passwd | None:
    program = shutil.which("useradd")
    if program is None:
        return None
    subprocess.run([program, "--system", "--no-create-home", name], capture_output=True, check=False)
    return _existing(name)
