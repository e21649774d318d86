"""What an operator can turn in event-bus. Variables begin with `MNEMO_EVENTS_`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mnemocore.settings import setting

MAX_STREAMS: Final = 1024
"""Four times those of a gateway: however many its clients have open, the services can follow the log."""
PREFIX: Final = "MNEMO_EVENTS_"


@dataclass(frozen=True, slots=True)
class EventsSettings:
    """Settings of event-bus."""

    database_url: str = setting(doc="PostgreSQL URL of the log and of everything else of the service.", secret=True)
    internal_token: str = setting(doc="Secret that the services of one installation share.", secret=True)
    listen: str = setting("127.0.0.1:7404", doc="Address to serve on: host:port or unix:PATH.")
    max_streams: int = setting(
        MAX_STREAMS, doc="Streams that are open at once; the next is refused.", minimum=1, maximum=100_000
    )
    pool_size: int = setting(10, doc="Greatest number of connections to PostgreSQL.", minimum=2, maximum=500)
    poll_seconds: float = setting(
        5.0, doc="How often subscribers look again, should news of another replica be lost.", minimum=0.05, maximum=60
    )
    log_url: str = setting(
        "",
        doc="URL of a Redis for the log and the consumer groups (redis://, rediss:// or unix://); empty: PostgreSQL.",
        secret=True,
    )
    keep_days: int = setting(
        0, doc="Days after which events of no space are removed from the log; 0: never.", minimum=0, maximum=36_500
    )
    keep_events: int = setting(
        0, doc="How many events of no space the log keeps, the newest; 0: all.", minimum=0, maximum=10**12
    )
    keep_mib: int = setting(
        0,
        doc="How many MiB of data the events of no space have at most that the log keeps, the newest; 0: all.",
        minimum=0,
        maximum=10**9,
    )
    master_keys: str = setting(
        "",
        doc="Master keys of the secrets of webhooks: ID:BASE64 of 32 bytes each, separated by commas, the current one "
        "first.",
        secret=True,
    )
    master_keys_file: str = setting(
        "", doc="File of master keys, one `ID BASE64` a line, the current one first; read again when it changes."
    )
    webhook_allow: str = setting(
        "",
        doc="Where webhooks may lead besides public addresses, also without TLS: networks and host names, separated by "
        "commas.",
    )
    webhook_connect_seconds: float = setting(
        5.0, doc="How long connecting to the endpoint of a webhook may take.", minimum=0.1, maximum=60
    )
    webhook_seconds: float = setting(
        10.0, doc="How long a request to the endpoint of a webhook may take.", minimum=0.1, maximum=60
    )
    webhook_suspend_after: int = setting(
        20, doc="Requests that fail in a row before a webhook is suspended.", minimum=1, maximum=10_000
    )
    log_format: str = setting("json", doc="Form of log lines.", choices=("json", "text"))
    log_level: str = setting("INFO", doc="Least level of log lines.", choices=("DEBUG", "INFO", "WARNING", "ERROR"))
    otlp_endpoint: str = setting("", doc="OTLP/gRPC endpoint for traces and metrics; empty: none.")
