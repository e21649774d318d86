"""A TCP port for a server that is started in a moment, by another process or again and again."""

from __future__ import annotations

import errno
import random
import socket
from typing import Final

from mnemocore.errors import InvalidSettingError

_FIRST: Final = 16_384
_END: Final = 32_768
"""Where systems begin with the ports that they give to outgoing connections."""
_TRIES: Final = 1000


def free_port(host: str = "127.0.0.1") -> int:
    """A port of `host`, an address without brackets, that nobody listens on.

    It is none of those that outgoing connections are given, one of which could take it before the server does.
    Raises InvalidSettingError if 1,000 ports are in use, and OSError if `host` is no address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    chance = random.SystemRandom()
    for _ in range(_TRIES):
        port = chance.randrange(_FIRST, _END)
        with socket.socket(family) as free:
            try:
                free.bind((host, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return port
    raise InvalidSettingError(f"listen = {host!r}: no port from {_FIRST} to {_END - 1} is free", setting="listen")
