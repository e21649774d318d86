"""Opens channels: which options they have, and which targets there are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import grpc

from mnemocore import rendezvous
from mnemocore.calls import STREAM_WINDOW_BYTES
from mnemocore.client.breaker import DEFAULT_RULE, BreakerRule
from mnemocore.client.channel import ResilientChannel
from mnemocore.client.shared_channel import SharedChannel
from mnemocore.errors import InvalidFieldError, Violation

if TYPE_CHECKING:
    from pathlib import Path

    from mnemocore.client.credentials import Credentials
    from mnemocore.clock import Clock

MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024

_OPTIONS: Final[list[tuple[str, int | str]]] = [
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", STREAM_WINDOW_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # How long a server that came back may stay unnoticed. Calls fail at once until then.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # for one attempt to connect, whatever its name says
    ("grpc.max_reconnect_backoff_ms", 500),
]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the authorities to trust (None: those of the system), and our own certificate and key (None: none)."""

    authorities: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


def open_channel(
    target: str,
    credentials: Credentials | None = None,
    *,
    tls: bool | TlsFiles = False,
    clock: Clock | None = None,
    breaker_rule: BreakerRule = DEFAULT_RULE,
) -> ResilientChannel:
    """A channel to `HOST:PORT` (calls go round all addresses of the host) or `unix:PATH`. Connects with the first call.

    `tls` is False for plain text, True for the authorities of the system, or the files to use.
    Raises InvalidFieldError if the target is neither.
    """
    address = _address(target)
    if tls is False:
        inner = grpc.aio.insecure_channel(address, options=_OPTIONS)
    else:
        inner = grpc.aio.secure_channel(address, _tls_credentials(TlsFiles() if tls is True else tls), options=_OPTIONS)
    return ResilientChannel(inner, target, credentials=credentials, clock=clock, breaker_rule=breaker_rule)


def open_shared_channel(
    targets: str,
    credentials: Credentials | None = None,
    *,
    clock: Clock | None = None,
    breaker_rule: BreakerRule = DEFAULT_RULE,
) -> ResilientChannel | SharedChannel:
    """A channel to one target, or to several, separated by commas, which share the spaces between them.

    The names of replicas are their targets. Raises InvalidFieldError as `open_channel` does.
    """
    replicas = rendezvous.names(targets)
    if len(replicas) < 2:
        return open_channel(targets, credentials, clock=clock, breaker_rule=breaker_rule)
    return SharedChannel(
        {name: open_channel(name, credentials, clock=clock, breaker_rule=breaker_rule) for name in replicas}
    )


def _address(target: str) -> str:
    if target.startswith("unix:"):
        return target
    host, _, port = target.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        problem = f"{target!r} is not an address; allowed are HOST:PORT, unix:PATH and embedded:DIRECTORY"
        raise InvalidFieldError.of([Violation("target", problem)])
    return f"dns:///{target}"


def _tls_credentials(files: TlsFiles) -> grpc.ChannelCredentials:
    authorities, key, certificate = (
        path.read_bytes() if path else None for path in (files.authorities, files.key, files.certificate)
    )
    return grpc.ssl_channel_credentials(authorities, key, certificate)
