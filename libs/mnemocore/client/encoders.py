"""The models behind the vectors of an installation, and the change from one to another. For operators."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from mnemocore.index.v1 import encoder_service_pb2 as wire

if TYPE_CHECKING:
    from mnemocore.client.services import Services


class ReencodingState(StrEnum):
    """What is done about vectors of other models than the chosen one; UNKNOWN if this release does not know it."""

    DONE = "done"
    RUNNING = "running"
    PAUSED = "paused"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class EncoderModel:
    """A model whose vectors are held, were held, or are being made.

    `checksum` is a SHA-256 in hex, `setting` the value of MNEMO_INDEX_ENCODER that chooses it. `cause` says why it does
    not encode now, if that is known. `waiting_memories` have no vector yet and are found by their words.
    """

    name: str
    id: str
    version: str
    dimension: int
    checksum: str
    setting: str
    remote: bool
    chosen: bool
    open: bool
    cause: str
    spaces: int
    memories: int
    waiting_memories: int


@dataclass(frozen=True, slots=True)
class Reencoding:
    """How far the re-encoding is; encrypted spaces do not count.

    `spaces_kept` is the number of spaces of which older vectors are kept for a rollback, `spaces_stuck` of those that
    keep older ones because the event log does not tell all that they hold. `cause` says why it does not go on now.
    """

    model: str
    state: ReencodingState
    spaces: int
    spaces_done: int
    revisions: int
    revisions_done: int
    spaces_kept: int
    spaces_stuck: int
    space_uid: str
    cause: str


_STATES: Final = {
    wire.REENCODING_STATE_DONE: ReencodingState.DONE,
    wire.REENCODING_STATE_RUNNING: ReencodingState.RUNNING,
    wire.REENCODING_STATE_PAUSED: ReencodingState.PAUSED,
    wire.REENCODING_STATE_ROLLING_BACK: ReencodingState.ROLLING_BACK,
    wire.REENCODING_STATE_ROLLED_BACK: ReencodingState.ROLLED_BACK,
}


class Encoders:
    """The models of an installation. Every method needs the scope `gateway:admin`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def models(self) -> list[EncoderModel]:
        """The models that vectors were ever made with, by name."""
        services = self._services
        response = await services.call(services.encoders.ListModels, wire.ListModelsRequest())
        return [_model(message) for message in response.models]

    async def reencoding(self) -> Reencoding:
        """How far the re-encoding is."""
        services = self._services
        response = await services.call(services.encoders.GetReencoding, wire.GetReencodingRequest())
        return _reencoding(response.reencoding)

    async def pause(self) -> Reencoding:
        """Stop the re-encoding where it is."""
        services = self._services
        response = await services.call(services.encoders.PauseReencoding, wire.PauseReencodingRequest())
        return _reencoding(response.reencoding)

    async def resume(self) -> Reencoding:
        """Go on after a pause or a rollback."""
        services = self._services
        response = await services.call(services.encoders.ResumeReencoding, wire.ResumeReencodingRequest())
        return _reencoding(response.reencoding)

    async def rollback(self) -> Reencoding:
        """Begin to bring the older vectors back. Raises InvalidSettingError if their encoder cannot be opened."""
        services = self._services
        response = await services.call(services.encoders.RollbackReencoding, wire.RollbackReencodingRequest())
        return _reencoding(response.reencoding)

    async def commit(self) -> int:
        """Forget the older vectors; returns of how many spaces."""
        services = self._services
        response = await services.call(services.encoders.CommitReencoding, wire.CommitReencodingRequest())
        return response.spaces


def _model(message: wire.EncoderModel) -> EncoderModel:
    return EncoderModel(
        name=message.name,
        id=message.id,
        version=message.version,
        dimension=message.dimension,
        checksum=message.checksum,
        setting=message.setting,
        remote=message.remote,
        chosen=message.chosen,
        open=message.open,
        cause=message.cause,
        spaces=message.spaces,
        memories=message.memories,
        waiting_memories=message.waiting_memories,
    )


def _reencoding(message: wire.Reencoding) -> Reencoding:
    return Reencoding(
        model=message.model,
        state=_STATES.get(message.state, ReencodingState.UNKNOWN),
        spaces=message.spaces,
        spaces_done=message.spaces_done,
        revisions=message.revisions,
        revisions_done=message.revisions_done,
        spaces_kept=message.spaces_kept,
        spaces_stuck=message.spaces_stuck,
        space_uid=message.space_uid,
        cause=message.cause,
    )
