"""What an operator can turn in event-bus. Variables begin with `MNEMO_EVENTS_`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mnemocore.settings import setting

PREFIX: Final = "MNEMO_EVENTS_"


@dataclass(frozen=True, slots=True)
class EventsSettings:
    """Settings of event-bus."""

    database_url: str = setting(doc="PostgreSQL URL of the log.", secret=True)
    internal_token: str = setting(doc="Secret that the services of one installation share.", secret=True)
    listen: str = setting("127.0.0.1:7404", doc="Address to serve on: host:port or unix:PATH.")
    pool_size: int = setting(10, doc="Greatest number of connections to PostgreSQL.", minimum=2, maximum=500)
    poll_seconds: float = setting(
        5.0, doc="How often subscribers look again, should news of another replica be lost.", minimum=0.05, maximum=60
    )
    log_format: str = setting("json", doc="Form of log lines.", choices=("json", "text"))
    log_level: str = setting("INFO", doc="Least level of log lines.", choices=("DEBUG", "INFO", "WARNING", "ERROR"))
    otlp_endpoint: str = setting("", doc="OTLP/gRPC endpoint for traces and metrics; empty: none.")
