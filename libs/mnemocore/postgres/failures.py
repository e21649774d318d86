"""What the driver's errors mean to a caller."""

from __future__ import annotations

import logging
import re
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import asyncpg

from mnemocore import calls
from mnemocore.errors import DeadlineExceededError, StoreFullError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mnemocore.outages import Outages

RETRY_AFTER: Final = 1.0
"""Seconds after which a caller may ask a store again that did not answer."""

_CONNECTION_GONE: Final = re.compile("closed|closing|released back to the pool")
"""The driver has one class for misuse and for connections that broke; its text tells them apart."""

_log = logging.getLogger("mnemocore.postgres")

_UNAVAILABLE: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.exceptions.OperatorInterventionError,  # shutting down, starting up, statement cancelled
    asyncpg.exceptions.InsufficientResourcesError,  # too many connections, out of memory
    asyncpg.exceptions.PostgresSystemError,  # an I/O error of the server
    asyncpg.exceptions.ReadOnlySQLTransactionError,  # a failover left us at a standby
    asyncpg.InternalClientError,  # the connection broke inside a message
    OSError,
)


@contextmanager
def translated(outages: Outages | None = None) -> Iterator[None]:
    """Raise StoreFullError, StoreUnavailableError or DeadlineExceededError for what is not the query's own fault.

    Errors about the data or the query, such as a broken constraint, pass as they are. With `outages` a database that
    does not answer is said to be out once, without them every time; a block that ends well is an answer.
    """
    try:
        yield
    except TimeoutError as error:
        raise _too_late(error, outages) from error
    except asyncpg.exceptions.DiskFullError as error:
        raise StoreFullError from error
    except _UNAVAILABLE as error:
        raise unavailable(error, outages) from error
    except asyncpg.InterfaceError as error:
        if not _CONNECTION_GONE.search(str(error)):
            raise
        raise unavailable(error, outages) from error
    if outages is not None:
        outages.answered()


def unavailable(error: Exception, outages: Outages | None = None) -> StoreUnavailableError:
    """The error for a store that does not answer; the cause goes to the log, not to the caller."""
    if outages is None:
        _log.warning("PostgreSQL does not answer: %s: %s", type(error).__name__, error)
    else:
        outages.failed(error)
    return StoreUnavailableError(retry_after=RETRY_AFTER)


def _too_late(error: TimeoutError, outages: Outages | None) -> DeadlineExceededError | StoreUnavailableError:
    """Whose time is over: the caller's, which says nothing of the database, or that of a database that hangs."""
    deadline = calls.deadline.get()
    if deadline is not None and time.monotonic() >= deadline - 0.005:
        return DeadlineExceededError()
    return unavailable(error, outages)
