"""A space as a whole: what it is and holds, its policy, its key, and its end."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Any

from google.protobuf.field_mask_pb2 import FieldMask

from mnemocore.client import convert, values
from mnemocore.client.handle import SpaceHandle
from mnemocore.client.values import UNCHANGED, Unchanged
from mnemocore.memory.v1 import resources_pb2
from mnemocore.memory.v1 import space_service_pb2 as wire

if TYPE_CHECKING:
    from datetime import timedelta

    from google.protobuf.message import Message


def space_from_wire(message: resources_pb2.Space) -> values.SpaceInfo:
    """A space and its counts."""
    return values.SpaceInfo(
        id=convert.last_part(message.name),
        uid=message.uid,
        description=message.description,
        revision=message.revision,
        active_memories=message.active_memories,
        archived_memories=message.archived_memories,
        published_revision=message.published_revision,
        create_time=convert.time_from_wire(message, "create_time"),
        policy=policy_from_wire(message.policy),
        encrypted=message.encrypted,
        etag=message.etag,
        role=convert.enum_from_wire(values.GrantRole, message.role),
        owner=message.owner,
    )


def policy_from_wire(message: resources_pb2.SpacePolicy) -> values.SpacePolicy:
    """The policy of a space; what is not named has its default."""
    limits, retention = message.limits, message.retention
    access, gate = message.access, message.novelty_gate
    return values.SpacePolicy(
        access=convert.enum_from_wire(values.SpaceAccess, access) if access else values.SpaceAccess.TENANT,
        novelty_gate=convert.enum_from_wire(values.NoveltyGate, gate) if gate else values.NoveltyGate.OFF,
        retention=values.RetentionPolicy(
            _duration(retention, "erase_expired_after"), _duration(retention, "erase_archived_after")
        ),
        limits=values.SpaceLimits(
            limits.max_memories or None, limits.max_bytes or None, limits.max_content_bytes or None
        ),
    )


def policy_to_wire(policy: values.SpacePolicy) -> resources_pb2.SpacePolicy:
    """The message for a policy. Raises InvalidFieldError."""
    message = resources_pb2.SpacePolicy()
    parts = {
        "access": policy.access,
        "novelty_gate": policy.novelty_gate,
        "erase_expired_after": policy.retention.erase_expired_after,
        "erase_archived_after": policy.retention.erase_archived_after,
        "max_memories": policy.limits.max_memories,
        "max_bytes": policy.limits.max_bytes,
        "max_content_bytes": policy.limits.max_content_bytes,
    }
    _write_parts(message, parts)
    return message


def receipt_from_wire(message: wire.ErasureReceipt) -> values.ErasureReceipt:
    """The receipt of an erasure."""
    return values.ErasureReceipt(
        id=message.id,
        space_uid=message.space_uid,
        principal=message.principal,
        reason=message.reason,
        erase_time=convert.time_from_wire(message, "erase_time"),
        log_erase_time=convert.time_from_wire(message, "log_erase_time"),
        memories=message.memories,
        revisions=message.revisions,
        media=message.media,
        associations=message.associations,
    )


def stats_from_wire(message: wire.SpaceStats) -> values.SpaceStats:
    """The counts of a space."""
    return values.SpaceStats(
        kinds={convert.enum_from_wire(values.MemoryKind, item.kind): item.memories for item in message.kinds},
        states={convert.enum_from_wire(values.MemoryState, item.state): item.memories for item in message.states},
        tiers={convert.enum_from_wire(values.Tier, item.tier): item.memories for item in message.tiers},
        content_bytes=message.content_bytes,
        media_bytes=message.media_bytes,
        associations=message.associations,
        growth=tuple(
            values.DayCount(item.day.ToDatetime(tzinfo=UTC).date(), item.memories, item.content_bytes)
            for item in message.growth
        ),
    )


class Administration(SpaceHandle):
    """What is done with a space as a whole."""

    async def info(self) -> values.SpaceInfo:
        """The description, the policy and the counts of the space."""
        request = wire.GetSpaceRequest(name=self._name)
        return space_from_wire((await self._services.call(self._services.spaces.GetSpace, request)).space)

    async def stats(self, *, growth_days: int = 30) -> values.SpaceStats:
        """What is in the space: by kind, state and tier, in bytes, and its growth in the last days (1 to 366)."""
        request = wire.GetSpaceStatsRequest(name=self._name)
        convert.assign(request, "growth_days", growth_days)
        return stats_from_wire((await self._services.call(self._services.spaces.GetSpaceStats, request)).stats)

    async def update_space(
        self,
        *,
        description: str | Unchanged = UNCHANGED,
        policy: values.SpacePolicy | Unchanged = UNCHANGED,
        etag: str = "",
    ) -> values.SpaceInfo:
        """Change the description, or replace the whole policy; `set_policy` changes parts of it.

        Raises SpaceEtagMismatchError if the space has changed since `etag` was read.
        """
        request = wire.UpdateSpaceRequest(name=self._name)
        mask = []
        if description is not UNCHANGED:
            convert.assign(request, "description", description)
            mask.append("description")
        if policy is not UNCHANGED:
            request.policy.CopyFrom(policy_to_wire(policy))
            mask.append("policy")
        return await self._update(request, mask, etag)

    async def set_policy(
        self,
        *,
        access: values.SpaceAccess | str | Unchanged = UNCHANGED,
        novelty_gate: values.NoveltyGate | str | Unchanged = UNCHANGED,
        erase_expired_after: timedelta | Unchanged | None = UNCHANGED,
        erase_archived_after: timedelta | Unchanged | None = UNCHANGED,
        max_memories: int | Unchanged | None = UNCHANGED,
        max_bytes: int | Unchanged | None = UNCHANGED,
        max_content_bytes: int | Unchanged | None = UNCHANGED,
        etag: str = "",
    ) -> values.SpaceInfo:
        """Change the given parts of the policy and nothing else; None takes a period or a limit away.

        Raises SpaceEtagMismatchError if the space has changed since `etag` was read.
        """
        parts = {
            "access": access,
            "novelty_gate": novelty_gate,
            "erase_expired_after": erase_expired_after,
            "erase_archived_after": erase_archived_after,
            "max_memories": max_memories,
            "max_bytes": max_bytes,
            "max_content_bytes": max_content_bytes,
        }
        given = {part: value for part, value in parts.items() if value is not UNCHANGED}
        request = wire.UpdateSpaceRequest(name=self._name)
        _write_parts(request.policy, given)
        return await self._update(request, [f"policy.{_PLACES.get(part, '')}{part}" for part in given], etag)

    async def delete(self) -> None:
        """Remove the space, which must be empty. Raises SpaceNotEmptyError."""
        await self._services.call(self._services.spaces.DeleteSpace, wire.DeleteSpaceRequest(name=self._name))
        self._services.freshness(self.id).forget()

    async def erase(self, *, confirm: str, etag: str = "", reason: str = "") -> values.ErasureReceipt:
        """Erase the space with every trace of it, for good; `confirm` is its id once more.

        The log and the index follow within moments. Raises InvalidFieldError if `confirm` is not the id,
        SpaceEtagMismatchError if the space has changed since `etag` was read.
        """
        request = wire.EraseSpaceRequest(name=self._name, confirm=confirm, etag=etag)
        convert.assign(request, "reason", reason)
        response = await self._services.call(self._services.spaces.EraseSpace, request)
        self._services.freshness(self.id).forget()
        return receipt_from_wire(response.receipt)

    async def rotate_key(self) -> values.KeyRotation:
        """Give an encrypted space a new key and encrypt everything in it anew; call it again if it was interrupted.

        Raises SpaceNotEncryptedError, KeyUnavailableError.
        """
        request = wire.RotateSpaceKeyRequest(name=self._name)
        response = await self._services.call(self._services.spaces.RotateSpaceKey, request)
        return values.KeyRotation(response.key_id, response.sealed_again)

    async def republish(self) -> int:
        """Publish every active memory again, so that indexes can be rebuilt; returns their number."""
        request = wire.RepublishSpaceRequest(name=self._name)
        return (await self._services.call(self._services.spaces.RepublishSpace, request)).memories

    async def _update(self, request: wire.UpdateSpaceRequest, mask: list[str], etag: str) -> values.SpaceInfo:
        if not mask:
            raise convert.invalid("update_mask", "names no field; give at least one field to change")
        request.update_mask.CopyFrom(FieldMask(paths=mask))
        request.etag = etag
        return space_from_wire((await self._services.call(self._services.spaces.UpdateSpace, request)).space)


_PLACES = {
    "erase_expired_after": "retention.",
    "erase_archived_after": "retention.",
    "max_memories": "limits.",
    "max_bytes": "limits.",
    "max_content_bytes": "limits.",
}


def _write_parts(policy: resources_pb2.SpacePolicy, parts: dict[str, Any]) -> None:
    """Write the parts that are not None."""
    for part, value in parts.items():
        if value is None:
            continue
        if part == "access":
            policy.access = convert.enum_to_wire(values.SpaceAccess, value, part)
        elif part == "novelty_gate":
            policy.novelty_gate = convert.enum_to_wire(values.NoveltyGate, value, part)
        elif _PLACES[part] == "retention.":
            convert.duration_to_wire(value, getattr(policy.retention, part), part)
        else:
            convert.assign(policy.limits, part, value)


def _duration(message: Message, field: str) -> timedelta | None:
    if not message.HasField(field):
        return None
    duration: timedelta = getattr(message, field).ToTimedelta()
    return duration
