"""Runs one service as a child of `mnemo up`: like `python -m <service>`, but ends when its parent does.

The parent holds the other end of this process's standard input; however the parent dies, the pipe closes.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def main() -> None:
    """Run the module named by the first argument."""
    threading.Thread(target=_end_with_parent, name="parent watch", daemon=True).start()
    runpy.run_module(sys.argv[1], run_name="__main__")


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
