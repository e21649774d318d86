"""The system account PostgreSQL runs as: our own, or one without rights when we are root, whom PostgreSQL refuses."""

from __future__ import annotations

import logging
import os
import pwd
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger("mnemocore.postgres")
_NAME: Final = "pgserver"
_FALLBACK: Final = "nobody"


_BECOME: Final = """
import os, sys
uid, gid = map(int, sys.argv[1:3])
os.setgroups([])
os.setgid(gid)
os.setuid(uid)
os.execv(sys.argv[3], sys.argv[3:])
"""


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

    def command(self, *command: str | Path) -> list[str]:
        """What runs a program (an absolute path, and arguments) under this account.

        The program itself changes the account, in an interpreter that becomes it: `subprocess` does so only in a forked
        copy of this process, and where gRPC has threads at work such a copy may end before it gets there.
        """
        words = [str(word) for word in command]
        if not self.foreign:
            return words
        return [sys.executable, "-I", "-S", "-c", _BECOME, str(self.uid), str(self.gid), *words]

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
