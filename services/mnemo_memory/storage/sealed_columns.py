"""Every column that holds sealed bytes of encrypted spaces, and for which subject they are sealed.

What is not listed here is not sealed again when a space changes its key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mnemo_memory.storage.postgres_grants import tags_subject
from mnemo_memory.storage.postgres_media import hash_subject, part_subject

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

KEY_OF: Final = "substring({} FROM 2 FOR 16)"
"""The id of the key that sealed the bytes of a column, as the indexes have it."""


@dataclass(frozen=True, slots=True)
class SealedColumn:
    """A column of sealed bytes. `keys` are the columns that name its row in a space, with their types.

    `condition` holds for the rows of encrypted spaces, and perhaps for others. `at_once` rows are taken in one step.
    """

    table: str
    name: str
    keys: Mapping[str, str]
    subject: Callable[[Mapping[str, Any]], str]
    condition: str
    at_once: int = 256


SEALED_COLUMNS: Final = (
    SealedColumn("memories", "sealed", {"id": "uuid"}, lambda row: str(row["id"]), "sealed IS NOT NULL"),
    SealedColumn(
        "revisions",
        "sealed",
        {"revision": "bigint", "memory_id": "uuid"},
        lambda row: f"{row['memory_id']}@{row['revision']}",
        "sealed IS NOT NULL",
    ),
    SealedColumn("media", "sha256", {"id": "uuid"}, lambda row: hash_subject(str(row["id"])), "length(sha256) > 32"),
    SealedColumn(
        "media_parts",
        "data",
        {"media_id": "uuid", "number": "integer"},
        lambda row: part_subject(str(row["media_id"]), row["number"]),
        "true",
        at_once=8,
    ),
    SealedColumn(
        "working_items", "sealed", {"id": "uuid"}, lambda row: f"working-item/{row['id']}", "sealed IS NOT NULL"
    ),
    SealedColumn(
        "sessions", "sealed", {"session": "text"}, lambda row: f"session/{row['session']}", "sealed IS NOT NULL"
    ),
    SealedColumn("grants", "sealed", {"id": "uuid"}, lambda row: tags_subject(str(row["id"])), "sealed IS NOT NULL"),
    SealedColumn(
        "checkpoints",
        "sealed_label",
        {"session": "text", "id": "uuid"},
        lambda row: f"checkpoint/{row['id']}/label",
        "sealed_label IS NOT NULL",
    ),
    SealedColumn(
        "checkpoints",
        "sealed_body",
        {"session": "text", "id": "uuid"},
        lambda row: f"checkpoint/{row['id']}/body",
        "sealed_body IS NOT NULL",
        at_once=8,
    ),
)
