"""What an operator can turn in the index. Variables begin with `MNEMO_INDEX_`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mnemo_index.domain.models import EncoderChoice
from mnemo_index.domain.share import Share
from mnemo_index.domain.words import LANGUAGES
from mnemocore import rendezvous
from mnemocore.errors import InvalidSettingError
from mnemocore.settings import setting

PREFIX: Final = "MNEMO_INDEX_"


@dataclass(frozen=True, slots=True)
class IndexSettings:
    """Settings of the index."""

    data_dir: Path = setting(doc="Folder for snapshots; the index is built anew from the event log without them.")
    internal_token: str = setting(doc="Secret that the services of one installation share.", secret=True)
    listen: str = setting("127.0.0.1:7402", doc="Address to serve on: host:port or unix:PATH.")
    events_target: str = setting("127.0.0.1:7404", doc="Address of the event-bus.")
    engine: str = setting(
        "local",
        doc="What holds the spaces: tables in this process, or Milvus. Encrypted spaces are in this process always.",
        choices=("local", "milvus"),
    )
    milvus_uri: str = setting(
        "", doc="Where Milvus is: http://HOST:PORT, https://HOST:PORT, or a path that ends with .db for milvus-lite."
    )
    milvus_token: str = setting("", doc="What Milvus is shown: a token, or USER:PASSWORD.", secret=True)
    search_threads: int = setting(2, doc="Threads that encode and search.", minimum=1, maximum=256)
    save_seconds: float = setting(
        30.0, doc="How often snapshots are written; more often means a shorter restart.", minimum=1, maximum=3600
    )
    language: str = setting(
        "english",
        doc="Language of the stems that words are compared by; none: words as they are. A change builds every space "
        "anew from the event log.",
        choices=LANGUAGES,
    )
    encoder: str = setting(
        "wordllama",
        doc="What makes vectors of texts: wordllama, sentence-transformers:DIRECTORY or openai:https://HOST/v1#MODEL.",
    )
    encoder_api_key: str = setting("", doc="Key of a remote encoder.", secret=True)
    former_encoder_api_key: str = setting(
        "", doc="Key of the remote encoder that made older vectors, if it is at another endpoint.", secret=True
    )
    encoder_dimension: int = setting(
        0, doc="Numbers a vector of a remote encoder has. 0: it is asked at the first start.", minimum=0, maximum=65536
    )
    encoder_timeout_seconds: float = setting(
        10.0, doc="How long a remote encoder may take to answer.", minimum=0.1, maximum=600
    )
    encoder_batch: int = setting(
        32, doc="Greatest number of texts in a request to a remote encoder.", minimum=1, maximum=2048
    )
    encrypted_to_remote_encoder: bool = setting(
        False,
        doc="Whether texts of encrypted spaces may be sent to a remote encoder. If not, wordllama encodes them here.",
    )
    keep_replaced_hours: float = setting(
        168.0,
        doc="How long older vectors are kept for a rollback after a space was encoded anew.",
        minimum=0,
        maximum=87600,
    )
    memory_budget_mib: int = setting(
        0,
        doc="RAM that spaces may take, in MiB, estimated: beyond it those not used for longest are kept on disk only. "
        "0: no limit.",
        minimum=0,
        maximum=1 << 20,
    )
    replicas: str = setting(
        "",
        doc="Addresses of all replicas among which the spaces are shared, separated by commas, as their callers know "
        "them. Empty: this replica holds every space.",
    )
    replica: str = setting("", doc="Which of MNEMO_INDEX_REPLICAS this one is.")
    breaker_reset_seconds: float = setting(
        30.0, doc="How long calls to a service that failed repeatedly are suspended.", minimum=0.1, maximum=3600
    )
    log_format: str = setting("json", doc="Form of log lines.", choices=("json", "text"))
    log_level: str = setting("INFO", doc="Least level of log lines.", choices=("DEBUG", "INFO", "WARNING", "ERROR"))
    otlp_endpoint: str = setting("", doc="OTLP/gRPC endpoint for traces and metrics; empty: none.")


def milvus_of(settings: IndexSettings) -> tuple[str, str] | None:
    """Address and token of Milvus; None if spaces are held in this process."""
    return (settings.milvus_uri, settings.milvus_token) if settings.engine == "milvus" else None


def encoder_of(settings: IndexSettings) -> EncoderChoice:
    """The encoder that the settings choose, as they say it: whether there is such a one is found out by opening it."""
    return EncoderChoice(
        setting=settings.encoder,
        api_key=settings.encoder_api_key,
        former_api_key=settings.former_encoder_api_key,
        dimension=settings.encoder_dimension,
        timeout=settings.encoder_timeout_seconds,
        batch=settings.encoder_batch,
        remote_for_encrypted=settings.encrypted_to_remote_encoder,
    )


def share_of(settings: IndexSettings) -> Share:
    """The share of the spaces that the settings name. Raises InvalidSettingError."""
    replicas = rendezvous.names(settings.replicas)
    if settings.replica not in (replicas or [""]):
        allowed = ", ".join(replicas) or "nothing, as long as MNEMO_INDEX_REPLICAS is empty"
        raise InvalidSettingError(
            f"{PREFIX}REPLICA = {settings.replica!r}: allowed is {allowed}", setting=f"{PREFIX}REPLICA"
        )
    return Share(settings.replica, frozenset(replicas))
