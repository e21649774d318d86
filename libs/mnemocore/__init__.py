"""Memory for AI agents.

`connect` opens a client, `MemoryInput` is what it keeps. Importing this package loads neither grpc nor numpy: names
are resolved when they are first used (PEP 562).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mnemocore.version import __version__

if TYPE_CHECKING:
    from mnemocore.client import (
        Connection,
        Event,
        EventInput,
        InvalidEvent,
        Media,
        Memory,
        MemoryFilter,
        MemoryInput,
        Provenance,
        RecallHit,
        Reject,
        Retry,
        Session,
        Space,
        SpacePolicy,
        Task,
        WorkingMemory,
        connect,
        verify_signature,
    )
    from mnemocore.errors import MnemoError

__all__ = [
    "Connection",
    "Event",
    "EventInput",
    "InvalidEvent",
    "Media",
    "Memory",
    "MemoryFilter",
    "MemoryInput",
    "MnemoError",
    "Provenance",
    "RecallHit",
    "Reject",
    "Retry",
    "Session",
    "Space",
    "SpacePolicy",
    "Task",
    "WorkingMemory",
    "__version__",
    "connect",
    "verify_signature",
]


def __getattr__(name: str) -> Any:
    if name == "MnemoError":
        from mnemocore.errors import MnemoError

        return MnemoError
    if name in __all__:
        import mnemocore.client

        return getattr(mnemocore.client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
