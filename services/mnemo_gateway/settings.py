"""What an operator can turn in the gateway. Variables begin with `MNEMO_GATEWAY_`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mnemocore.server import MAX_STREAMS
from mnemocore.settings import setting

PREFIX: Final = "MNEMO_GATEWAY_"


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Settings of the gateway."""

    database_url: str = setting(doc="PostgreSQL URL of the store of API keys.", secret=True)
    internal_token: str = setting(doc="Secret that the services of one installation share.", secret=True)
    admin_key: str = setting(
        "", doc="An API key that may do everything, for the first steps; empty: none.", secret=True
    )
    listen: str = setting("127.0.0.1:7400", doc="Address to serve on: host:port or unix:PATH.")
    memory_target: str = setting("127.0.0.1:7401", doc="Address of memory-core.")
    index_target: str = setting(
        "127.0.0.1:7402",
        doc="Address of the index service; several, separated by commas, of replicas that share the spaces.",
    )
    cognitive_target: str = setting("127.0.0.1:7403", doc="Address of cognitive.")
    events_target: str = setting("127.0.0.1:7404", doc="Address of the event-bus.")
    max_streams: int = setting(
        MAX_STREAMS, doc="Streams that are open at once; the next is refused.", minimum=1, maximum=100_000
    )
    pool_size: int = setting(5, doc="Greatest number of connections to PostgreSQL.", minimum=2, maximum=500)
    breaker_reset_seconds: float = setting(
        30.0, doc="How long calls to a service that failed repeatedly are suspended.", minimum=0.1, maximum=3600
    )
    log_format: str = setting("json", doc="Form of log lines.", choices=("json", "text"))
    log_level: str = setting("INFO", doc="Least level of log lines.", choices=("DEBUG", "INFO", "WARNING", "ERROR"))
    otlp_endpoint: str = setting("", doc="OTLP/gRPC endpoint for traces and metrics; empty: none.")
