"""What proves to an endpoint that a delivery is ours: HMAC-SHA256 over the time and the body."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

HEADER: Final = "X-MnemoCore-Signature"
"""The header that carries the signature."""


def signature(secrets: Sequence[str], body: bytes, timestamp: int) -> str:
    """The value of the header: `t=<unix seconds>` and for each secret a `v1=<hex>` of `<t>.<body>`."""
    signed = b"%d." % timestamp + body
    proofs = (f"v1={hmac.new(secret.encode(), signed, 'sha256').hexdigest()}" for secret in secrets)
    return ",".join((f"t={timestamp}", *proofs))
