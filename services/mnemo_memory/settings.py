"""What an operator can turn in memory-core. Variables begin with `MNEMO_MEMORY_`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mnemocore.settings import setting

PREFIX: Final = "MNEMO_MEMORY_"


@dataclass(frozen=True, slots=True)
class MemorySettings:
    """Settings of memory-core."""

    database_url: str = setting(doc="PostgreSQL URL of the store.", secret=True)
    internal_token: str = setting(doc="Secret that the services of one installation share.", secret=True)
    listen: str = setting("127.0.0.1:7401", doc="Address to serve on: host:port or unix:PATH.")
    index_target: str = setting(
        "127.0.0.1:7402",
        doc="Address of the index service; several, separated by commas, of replicas that share the spaces.",
    )
    events_target: str = setting("127.0.0.1:7404", doc="Address of the event-bus.")
    pool_size: int = setting(10, doc="Greatest number of connections to PostgreSQL.", minimum=2, maximum=500)
    relay_poll_seconds: float = setting(
        1.0, doc="How often the relay looks for revisions that another replica committed.", minimum=0.05, maximum=60
    )
    store_folder: str = setting(
        "", doc="Folder of a PostgreSQL on this machine: writes are refused before its disk is full. Empty: elsewhere."
    )
    index_check_seconds: float = setting(
        3600.0,
        doc="How often every space is compared with what the index holds of it, and healed if they differ; 0: never.",
        minimum=0,
        maximum=7 * 86400,
    )
    consolidation_seconds: float = setting(
        60.0, doc="How often working memory is consolidated; 0: never.", minimum=0, maximum=3600
    )
    master_keys: str = setting(
        "",
        doc="Master keys of encrypted spaces: ID:BASE64 of 32 bytes each, separated by commas, the current one first.",
        secret=True,
    )
    master_keys_file: str = setting(
        "", doc="File of master keys, one `ID BASE64` a line, the current one first; read again when it changes."
    )
    breaker_reset_seconds: float = setting(
        30.0, doc="How long calls to a service that failed repeatedly are suspended.", minimum=0.1, maximum=3600
    )
    log_format: str = setting("json", doc="Form of log lines.", choices=("json", "text"))
    log_level: str = setting("INFO", doc="Least level of log lines.", choices=("DEBUG", "INFO", "WARNING", "ERROR"))
    otlp_endpoint: str = setting("", doc="OTLP/gRPC endpoint for traces and metrics; empty: none.")
