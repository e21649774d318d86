"""What receivers of webhooks believe."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from mnemo_events.domain.signature import signature
from mnemocore import verify_signature

SECRET = "0123456789abcdef"
BODY = '{"type":"order.placed","data":{"who":"Zoë"}}'.encode()
SENT = 1_770_000_000
HEADER = signature([SECRET], BODY, SENT)


def test_what_was_signed_is_believed() -> None:
    assert verify_signature(SECRET, HEADER, BODY, SENT)
    assert verify_signature(SECRET, HEADER, BODY, datetime.fromtimestamp(SENT, UTC))
    assert verify_signature(SECRET, HEADER, BODY, SENT + 300)
    assert verify_signature(SECRET, HEADER, BODY, SENT - 300)
    assert verify_signature(SECRET, HEADER, BODY, SENT + 301, 301)
    assert verify_signature(SECRET, HEADER.replace(",", ", "), BODY, SENT)


def test_while_a_secret_is_changed_both_are_believed() -> None:
    header = signature(["another secret, the old", SECRET], BODY, SENT)
    assert verify_signature(SECRET, header, BODY, SENT)
    assert verify_signature("another secret, the old", header, BODY, SENT)
    assert not verify_signature("a third secret, unknown", header, BODY, SENT)


def test_now_is_this_moment() -> None:
    assert not verify_signature(SECRET, HEADER, BODY)
    fresh = signature([SECRET], BODY, int(datetime.now(UTC).timestamp()))
    assert verify_signature(SECRET, fresh, BODY)


@pytest.mark.parametrize(
    ("header", "body", "now"),
    [
        (HEADER, BODY + b" ", SENT),
        (HEADER, BODY, SENT + 301),
        (HEADER, BODY, SENT - 301),
        (HEADER.replace(f"t={SENT}", f"t={SENT + 1}"), BODY, SENT),
        (HEADER + "0", BODY, SENT),
        (f"t={SENT}", BODY, SENT),
        (f"t={SENT},v1=", BODY, SENT),
        (f"t={SENT},v1=é", BODY, SENT),
        (f"t={SENT},{HEADER}", BODY, SENT),
        (HEADER.replace("t=", "t=+"), BODY, SENT),
        (HEADER.partition(",")[2], BODY, SENT),
        ("t=²,v1=00", BODY, SENT),
        (f"t={'9' * 400},v1=00", BODY, SENT),
        ("", BODY, SENT),
        (",,=,", BODY, SENT),
    ],
)
def test_nothing_else_is(header: str, body: bytes, now: int) -> None:
    assert not verify_signature(SECRET, header, body, now)
