"""Receipts of erasures, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnemo_cli.shown import moment, print_columns, print_facts, print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnemocore.client import ErasureReceipt


def print_receipt(receipt: ErasureReceipt, as_json: bool) -> None:
    """Print one receipt."""
    if as_json:
        print_json(receipt)
        return
    print_facts(
        {
            "receipt": receipt.id,
            "space uid": receipt.space_uid,
            "erased": f"{moment(receipt.erase_time)} by {receipt.principal}",
            "reason": receipt.reason,
            "event log": _log(receipt),
            "memories": str(receipt.memories),
            "revisions": str(receipt.revisions),
            "media": str(receipt.media),
            "links": str(receipt.associations),
        }
    )


def print_receipts(receipts: Sequence[ErasureReceipt], as_json: bool) -> None:
    """Print many receipts, one a row."""
    if as_json:
        print_json(receipts)
        return
    rows = (
        (item.id, item.space_uid, moment(item.erase_time), str(item.memories), _log(item), item.reason)
        for item in receipts
    )
    print_columns(("RECEIPT", "SPACE UID", "ERASED", "MEMORIES", "EVENT LOG", "REASON"), rows)


def _log(receipt: ErasureReceipt) -> str:
    return f"erased {moment(receipt.log_erase_time)}" if receipt.log_erase_time else "not confirmed yet"
