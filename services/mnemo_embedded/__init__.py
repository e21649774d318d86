"""All services in one process, and one installation in several processes."""

from __future__ import annotations

from mnemo_embedded.installation import Installation
from mnemo_embedded.local import open_embedded

__all__ = ["Installation", "open_embedded"]
