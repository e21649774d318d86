"""All services in one process, and one installation in several processes.

Importing this imports no service: who finds a server on the data directory needs none.
"""

from __future__ import annotations

from mnemo_embedded.local import open_embedded

__all__ = ["open_embedded"]
