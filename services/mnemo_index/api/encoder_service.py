"""EncoderService on the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mnemo_index.domain.reencoding import Phase
from mnemocore.index.v1 import encoder_service_pb2 as pb
from mnemocore.index.v1 import encoder_service_pb2_grpc

if TYPE_CHECKING:
    import grpc

    from mnemo_index.domain.backlog import Backlog
    from mnemo_index.domain.models import Encoders, Model
    from mnemo_index.domain.projection import Projection
    from mnemo_index.domain.reencoding import Progress, Reencoding

    Context = grpc.aio.ServicerContext[Any, Any]

_STATES: Final = {
    Phase.RUNNING: pb.REENCODING_STATE_RUNNING,
    Phase.PAUSED: pb.REENCODING_STATE_PAUSED,
    Phase.ROLLING_BACK: pb.REENCODING_STATE_ROLLING_BACK,
    Phase.ROLLED_BACK: pb.REENCODING_STATE_ROLLED_BACK,
}


class EncoderServicer(encoder_service_pb2_grpc.EncoderServiceServicer):
    """Converts, calls the domain, converts back."""

    def __init__(self, projection: Projection, encoders: Encoders, backlog: Backlog, reencoding: Reencoding) -> None:
        self._projection = projection
        self._encoders = encoders
        self._backlog = backlog
        self._reencoding = reencoding

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=[self._model(model) for model in self._encoders.models()])

    async def GetReencoding(self, request: pb.GetReencodingRequest, context: Context) -> pb.GetReencodingResponse:
        return pb.GetReencodingResponse(reencoding=_from_progress(self._reencoding.progress()))

    async def PauseReencoding(self, request: pb.PauseReencodingRequest, context: Context) -> pb.PauseReencodingResponse:
        await self._reencoding.pause()
        return pb.PauseReencodingResponse(reencoding=_from_progress(self._reencoding.progress()))

    async def ResumeReencoding(
        self, request: pb.ResumeReencodingRequest, context: Context
    ) -> pb.ResumeReencodingResponse:
        await self._reencoding.resume()
        return pb.ResumeReencodingResponse(reencoding=_from_progress(self._reencoding.progress()))

    async def RollbackReencoding(
        self, request: pb.RollbackReencodingRequest, context: Context
    ) -> pb.RollbackReencodingResponse:
        await self._reencoding.rollback()
        return pb.RollbackReencodingResponse(reencoding=_from_progress(self._reencoding.progress()))

    async def CommitReencoding(
        self, request: pb.CommitReencodingRequest, context: Context
    ) -> pb.CommitReencodingResponse:
        return pb.CommitReencodingResponse(spaces=await self._reencoding.commit())

    def _model(self, model: Model) -> pb.EncoderModel:
        spaces = [status for status in self._projection.all_status() if status.model == model.name]
        return pb.EncoderModel(
            name=model.name,
            id=model.id,
            version=model.version,
            dimension=model.dimension,
            checksum=model.checksum,
            setting=model.setting,
            remote=model.remote,
            chosen=model.name == self._encoders.chosen.model,
            open=self._encoders.available(model.name),
            cause=self._backlog.failures.get(model.name, ""),
            spaces=len(spaces),
            memories=sum(status.size for status in spaces),
            waiting_memories=sum(status.waiting for status in spaces),
        )


def _from_progress(progress: Progress) -> pb.Reencoding:
    done = progress.complete and progress.phase in (Phase.RUNNING, Phase.PAUSED)
    return pb.Reencoding(
        model=progress.model,
        state=pb.REENCODING_STATE_DONE if done else _STATES[progress.phase],
        spaces=progress.spaces,
        spaces_done=progress.spaces_done,
        revisions=progress.revisions,
        revisions_done=progress.revisions_done,
        spaces_kept=progress.aside,
        spaces_stuck=progress.stuck,
        space_uid=progress.current,
        cause=progress.cause,
    )
