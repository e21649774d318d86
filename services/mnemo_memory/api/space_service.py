"""SpaceService on the wire."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

from mnemo_memory import wire
from mnemo_memory.domain.memory import Limits, NoveltyGate, Policy, SpaceAccess
from mnemo_memory.domain.spaces import NewSpace
from mnemocore.calls import caller
from mnemocore.errors import InvalidFieldError, Violation
from mnemocore.memory.v1 import resources_pb2, space_service_pb2_grpc
from mnemocore.memory.v1 import space_service_pb2 as pb
from mnemocore.wire import to_timestamp

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import grpc

    from mnemo_memory.domain.erasure import Erasures, Receipt
    from mnemo_memory.domain.spaces import Spaces, SpaceView
    from mnemo_memory.domain.stats import SpaceStats, Stats

LONGEST_RETENTION: Final = timedelta(days=36_500)
_DURATIONS: Final[tuple[Literal["erase_expired_after", "erase_archived_after"], ...]] = (
    "erase_expired_after",
    "erase_archived_after",
)
_LIMITS: Final = ("max_memories", "max_bytes", "max_content_bytes")
UPDATABLE: Final = (
    "description",
    "policy",
    *("policy.access", "policy.novelty_gate", "policy.retention", "policy.limits"),
    *(f"policy.retention.{field}" for field in _DURATIONS),
    *(f"policy.limits.{field}" for field in _LIMITS),
)
"""The paths an update mask may name."""


class SpaceServicer(space_service_pb2_grpc.SpaceServiceServicer):
    """Converts, calls the domain, converts back."""

    def __init__(self, spaces: Spaces, stats: SpaceStats, erasures: Erasures) -> None:
        self._spaces = spaces
        self._stats = stats
        self._erasures = erasures

    async def CreateSpace(
        self, request: pb.CreateSpaceRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.CreateSpaceResponse:
        new = NewSpace(
            slug=request.space_id,
            description=wire.text("description", request.description),
            policy=_to_policy(request.policy),
            encrypted=request.encrypted,
        )
        return pb.CreateSpaceResponse(
            space=_from_view(await self._spaces.create(caller(), new, wire.request_of(request)))
        )

    async def GetSpace(
        self, request: pb.GetSpaceRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetSpaceResponse:
        return pb.GetSpaceResponse(space=_from_view(await self._spaces.get(caller(), wire.space_of(request.name))))

    async def ListSpaces(
        self, request: pb.ListSpacesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListSpacesResponse:
        views, token = await self._spaces.of_tenant(caller(), request.page_size, request.page_token)
        return pb.ListSpacesResponse(spaces=[_from_view(view) for view in views], next_page_token=token)

    async def UpdateSpace(
        self, request: pb.UpdateSpaceRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.UpdateSpaceResponse:
        view = await self._spaces.update(caller(), wire.space_of(request.name), _to_update(request), request.etag)
        return pb.UpdateSpaceResponse(space=_from_view(view))

    async def DeleteSpace(
        self, request: pb.DeleteSpaceRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.DeleteSpaceResponse:
        await self._erasures.delete(caller(), wire.space_of(request.name))
        return pb.DeleteSpaceResponse()

    async def GetSpaceStats(
        self, request: pb.GetSpaceStatsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetSpaceStatsResponse:
        stats = await self._stats.of(caller(), wire.space_of(request.name), request.growth_days)
        return pb.GetSpaceStatsResponse(stats=_from_stats(stats))

    async def EraseSpace(
        self, request: pb.EraseSpaceRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.EraseSpaceResponse:
        receipt = await self._erasures.erase(
            caller(), wire.space_of(request.name), request.confirm, request.etag, wire.text("reason", request.reason)
        )
        return pb.EraseSpaceResponse(receipt=_from_receipt(receipt))

    async def ListErasures(
        self, request: pb.ListErasuresRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListErasuresResponse:
        receipts, token = await self._erasures.receipts(caller(), request.page_size, request.page_token)
        return pb.ListErasuresResponse(receipts=[_from_receipt(each) for each in receipts], next_page_token=token)

    async def RotateSpaceKey(
        self, request: pb.RotateSpaceKeyRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.RotateSpaceKeyResponse:
        key_id, sealed = await self._spaces.rotate_key(caller(), wire.space_of(request.name))
        return pb.RotateSpaceKeyResponse(key_id=key_id, sealed_again=sealed)

    async def RepublishSpace(
        self, request: pb.RepublishSpaceRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.RepublishSpaceResponse:
        return pb.RepublishSpaceResponse(memories=await self._spaces.republish(caller(), wire.space_of(request.name)))


# Policies


def _to_policy(message: resources_pb2.SpacePolicy) -> Policy:
    """The policy of a request; what is not named has its default. Raises InvalidFieldError."""
    return Policy(
        access=SpaceAccess(message.access or SpaceAccess.TENANT),
        novelty_gate=NoveltyGate(message.novelty_gate or NoveltyGate.OFF),
        erase_expired_after=_to_duration(message.retention, "erase_expired_after"),
        erase_archived_after=_to_duration(message.retention, "erase_archived_after"),
        limits=Limits(*(getattr(message.limits, field) for field in _LIMITS)),
    )


def _to_duration(
    message: resources_pb2.RetentionPolicy, field: Literal["erase_expired_after", "erase_archived_after"]
) -> timedelta | None:
    """A period of retention. Raises InvalidFieldError for one that is negative or very long."""
    if not message.HasField(field):
        return None
    duration = getattr(message, field)
    limit = LONGEST_RETENTION.days
    if not 0 <= duration.seconds <= limit * 86_400 or not 0 <= duration.nanos < 1_000_000_000:
        described = f"{duration.seconds} s and {duration.nanos} ns; allowed are 0 to {limit} days"
        raise InvalidFieldError.of([Violation(f"policy.retention.{field}", described)])
    return timedelta(seconds=duration.seconds, microseconds=duration.nanos // 1000)


def _to_update(request: pb.UpdateSpaceRequest) -> Callable[[str, Policy], tuple[str, Policy]]:
    """What makes of a description and a policy what they are to be. Raises InvalidFieldError."""
    paths = list(request.update_mask.paths)
    _refuse_unknown(paths)
    new_description, new_policy = wire.text("description", request.description), _to_policy(request.policy)

    def alter(description: str, policy: Policy) -> tuple[str, Policy]:
        for path in paths:
            if path == "description":
                description = new_description
            else:
                policy = _with_part(policy, path, new_policy)
        return description, policy

    return alter


def _refuse_unknown(paths: Sequence[str]) -> None:
    allowed = ", ".join(UPDATABLE)
    if not paths:
        raise InvalidFieldError.of([Violation("update_mask", f"names nothing; allowed are {allowed}")])
    unknown = [
        Violation("update_mask", f"{path!r} cannot be updated; allowed are {allowed}")
        for path in paths
        if path not in UPDATABLE
    ]
    if unknown:
        raise InvalidFieldError.of(unknown)


def _with_part(policy: Policy, path: str, new: Policy) -> Policy:
    """`policy` with what `path` names from `new`."""
    part, _, field = path.removeprefix("policy").removeprefix(".").partition(".")
    if not part:
        return new
    if part == "retention":
        fields = (field,) if field else _DURATIONS
        return replace(policy, **{each: getattr(new, each) for each in fields})
    if part == "limits" and field:
        return replace(policy, limits=replace(policy.limits, **{field: getattr(new.limits, field)}))
    changes: dict[str, Any] = {part: getattr(new, part)}
    return replace(policy, **changes)


def _from_policy(policy: Policy) -> resources_pb2.SpacePolicy:
    message = resources_pb2.SpacePolicy(
        access=resources_pb2.SpaceAccess.ValueType(policy.access),
        novelty_gate=resources_pb2.NoveltyGate.ValueType(policy.novelty_gate),
        limits=resources_pb2.SpaceLimits(**{field: getattr(policy.limits, field) for field in _LIMITS}),
    )
    for field in _DURATIONS:
        duration: timedelta | None = getattr(policy, field)
        if duration is not None:
            getattr(message.retention, field).FromTimedelta(duration)
    return message


# Answers


def _from_view(view: SpaceView) -> resources_pb2.Space:
    space = view.space
    return resources_pb2.Space(
        name=space.name,
        uid=space.uid,
        description=space.description,
        revision=space.revision,
        published_revision=space.published_revision,
        active_memories=space.active,
        archived_memories=space.archived,
        create_time=to_timestamp(space.created_at),
        policy=_from_policy(space.policy),
        encrypted=space.encrypted,
        etag=space.etag,
        role=resources_pb2.GrantRole.ValueType(view.role),
        owner=space.owner,
    )


def _from_receipt(receipt: Receipt) -> pb.ErasureReceipt:
    message = pb.ErasureReceipt(
        id=receipt.id,
        space_uid=receipt.space_uid,
        principal=receipt.principal,
        reason=receipt.reason,
        erase_time=to_timestamp(receipt.erased_at),
        memories=receipt.memories,
        revisions=receipt.revisions,
        media=receipt.media,
        associations=receipt.associations,
    )
    if receipt.log_erased_at is not None:
        message.log_erase_time.CopyFrom(to_timestamp(receipt.log_erased_at))
    return message


def _from_stats(stats: Stats) -> pb.SpaceStats:
    return pb.SpaceStats(
        kinds=[
            pb.KindCount(kind=resources_pb2.MemoryKind.ValueType(kind), memories=count)
            for kind, count in sorted(stats.kinds.items())
        ],
        states=[
            pb.StateCount(state=resources_pb2.MemoryState.ValueType(state), memories=count)
            for state, count in sorted(stats.states.items())
        ],
        tiers=[
            pb.TierCount(tier=resources_pb2.Tier.ValueType(tier), memories=count)
            for tier, count in sorted(stats.tiers.items())
        ],
        content_bytes=stats.content_bytes,
        media_bytes=stats.media_bytes,
        associations=stats.associations,
        growth=[
            pb.DayCount(day=to_timestamp(day.start), memories=day.memories, content_bytes=day.content_bytes)
            for day in stats.growth
        ],
    )
