"""What receivers of webhooks do with a delivery before they believe it."""

from __future__ import annotations

import hmac
from datetime import UTC, datetime
from typing import Final

TOLERANCE: Final = 300
"""Seconds by which the time of a delivery may be off."""


def verify_signature(
    secret: str, header: str, body: bytes, now: datetime | float | None = None, tolerance: float = TOLERANCE
) -> bool:
    """Whether a delivery is from somebody who knows `secret`, and was sent within `tolerance` seconds of `now`.

    `header` is the value of `X-MnemoCore-Signature`, `t=<unix seconds>,v1=<hex>` with one or more `v1`; `body` is what
    came, byte by byte. `now` is a time or unix seconds, None for this moment. HMAC-SHA256 over `<t>.<body>`, compared
    in constant time. False for everything that is not well-formed.
    """
    fields = [part.strip().partition("=") for part in header.split(",")]
    times = [value for name, _, value in fields if name == "t"]
    proofs = [value.encode() for name, _, value in fields if name == "v1"]
    if len(times) != 1 or not (times[0].isascii() and times[0].isdecimal() and len(times[0]) <= 12):
        return False
    if abs(_seconds(now) - int(times[0])) > tolerance:
        return False
    expected = hmac.new(secret.encode(), times[0].encode() + b"." + body, "sha256").hexdigest().encode()
    return any(hmac.compare_digest(expected, proof) for proof in proofs)


def _seconds(now: datetime | float | None) -> float:
    if now is None:
        return datetime.now(UTC).timestamp()
    return now.timestamp() if isinstance(now, datetime) else now
