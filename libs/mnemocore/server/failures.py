"""The errors stage: whatever goes wrong in a handler leaves the server as one of the project's errors."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio

from mnemocore.calls import REQUEST_ID_HEADER
from mnemocore.errors import InternalError, MnemoError
from mnemocore.status import DETAILS_HEADER, to_status

if TYPE_CHECKING:
    from mnemocore.server.chain import Proceed, ServerCall

_LOGGER: Final = logging.getLogger("mnemocore.server")


class ErrorsStage:
    """Turns errors into rich statuses.

    A MnemoError is sent as it is. Anything else is a defect: it is logged with its traceback under the request id, and
    the caller is told no more than that.
    """

    name = "errors"

    async def handle(self, call: ServerCall, proceed: Proceed) -> Any:
        """Answer the call, with a status in every case."""
        try:
            response = await proceed(call)
        except MnemoError as error:
            await _abort(call, error)
        except asyncio.CancelledError:
            call.status = "DEADLINE_EXCEEDED" if call.context.time_remaining() == 0 else "CANCELLED"
            raise
        except grpc.aio.AbortError:
            call.status = _code_name(call)
            raise
        except Exception as error:  # one call fails; the server goes on answering the others
            if _is_connection_loss(call, error):
                call.status = "CANCELLED"
                raise
            _LOGGER.exception("unexpected error in %s", call.path, extra={"request_id": call.request_id})
            await _abort(call, InternalError())
        else:
            call.status = _code_name(call)
            return response


def _is_connection_loss(call: ServerCall, error: Exception) -> bool:
    """Whether a read or write failed under the handler. The runtime knows of it, and nobody is left to be answered."""
    if isinstance(error, grpc.aio.UsageError):
        return call.context.done()
    return isinstance(error, grpc.aio.BaseError)


async def _abort(call: ServerCall, error: MnemoError) -> None:
    status = to_status(error, call.request_id)
    call.status = error.status.name
    trailing: tuple[tuple[str, str | bytes], ...] = ((DETAILS_HEADER, status.SerializeToString()),)
    if call.request_id:
        trailing = (*trailing, (REQUEST_ID_HEADER, call.request_id))
    await call.context.abort(grpc.StatusCode[error.status.name], status.message, trailing)


def _code_name(call: ServerCall) -> str:
    """The code a handler set by hand; OK if it set none."""
    code: Any = call.context.code()
    return code.name if isinstance(code, grpc.StatusCode) else "OK" if not code else str(code)
