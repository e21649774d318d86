"""What a store does about a space whose keys another replica has changed: look at them once more, and do it again."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from asyncpg.exceptions import CheckViolationError

from mnemocore.errors import KeyUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mnemo_memory.domain.memory import Space

SEALED_WITH_A_DROPPED_KEY: Final = "sealed_with_a_key_of_the_space"
"""The constraint that is broken by who writes what is sealed with a key that is gone."""

M = TypeVar("M", bound="Callable[..., Awaitable[Any]]")


def with_fresh_keys(method: M) -> M:
    """A method of a store with a `_vault`, run once more with the keys of now if it met one that it did not know.

    Its first parameter is the space. A method that writes does so in one transaction, or may be repeated as a whole.
    """

    @wraps(method)
    async def run(store: Any, space: Space, *args: Any, **kwargs: Any) -> Any:
        try:
            return await method(store, space, *args, **kwargs)
        except KeyUnavailableError:
            await store._vault.renewed(space)  # noqa: SLF001  (every store calls it so)
        except CheckViolationError as error:
            if error.constraint_name != SEALED_WITH_A_DROPPED_KEY:
                raise
            await store._vault.renewed(space)  # noqa: SLF001
        return await method(store, space, *args, **kwargs)

    return cast("M", run)
