"""Revisions as events carry them: those of encrypted spaces sealed but for what everybody may know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from google.protobuf.field_mask_pb2 import FieldMask

from mnemo_memory import wire
from mnemocore.memory.v1 import resources_pb2

if TYPE_CHECKING:
    from mnemo_memory.domain.memory import Revision, Space
    from mnemocore.sealing import SpaceCipher

OPEN_FIELDS: Final = (
    *("name", "kind", "state", "revision"),
    *("occurred_at", "create_time", "update_time", "valid_from", "valid_to", "expires_at"),
)
"""The fields of a memory that stay readable in the events of an encrypted space."""


def revision_message(space: Space, revision: Revision, cipher: SpaceCipher | None) -> resources_pb2.Revision:
    """A revision for an event.

    With a cipher `memory` has the OPEN_FIELDS only, and `sealed` is the whole memory, for the subject `id@revision`. Of
    an erased memory only the name is left in any case.
    """
    message = wire.from_revision(space, revision)
    if cipher is None or revision.memory is None:
        return message
    subject = f"{revision.memory_id}@{revision.revision}"
    message.sealed = cipher.seal(subject, message.memory.SerializeToString())
    shown = resources_pb2.Memory()
    FieldMask(paths=OPEN_FIELDS).MergeMessage(message.memory, shown)
    message.memory.CopyFrom(shown)
    return message
