"""What an operator can turn in the index. Variables begin with `MNEMO_INDEX_`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mnemocore.settings import setting

PREFIX: Final = "MNEMO_INDEX_"


@dataclass(frozen=True, slots=True)
class IndexSettings:
    """Settings of the index."""

    data_dir: Path = setting(doc="Folder for snapshots; the index is built anew from the event log without them.")
    internal_token: str = setting(doc="Secret that the services of one installation share.", secret=True)
    listen: str = setting("127.0.0.1:7402", doc="Address to serve on: host:port or unix:PATH.")
    events_target: str = setting("127.0.0.1:7404", doc="Address of the event-bus.")
    search_threads: int = setting(2, doc="Threads that encode and search.", minimum=1, maximum=256)
    save_seconds: float = setting(
        30.0, doc="How often snapshots are written; more often means a shorter restart.", minimum=1, maximum=3600
    )
    breaker_reset_seconds: float = setting(
        30.0, doc="How long calls to a service that failed repeatedly are suspended.", minimum=0.1, maximum=3600
    )
    log_format: str = setting("json", doc="Form of log lines.", choices=("json", "text"))
    log_level: str = setting("INFO", doc="Least level of log lines.", choices=("DEBUG", "INFO", "WARNING", "ERROR"))
    otlp_endpoint: str = setting("", doc="OTLP/gRPC endpoint for traces and metrics; empty: none.")
