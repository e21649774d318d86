"""Where a command's store is: the connection options, and a connection for the time of one command."""

from __future__ import annotations

import asyncio
import functools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from mnemocore.errors import DataDirectoryError, SpaceNotFoundError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from mnemocore.client import Connection

T = TypeVar("T")

DEFAULT_DATA_DIR: Final = Path(".mnemo")
SPACES_NAMED: Final = 10
"""Names of existing spaces that an error lists."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server at `address` (None: the embedded store of `data_dir`) and how to speak to it.

    `authorities` is a PEM file with the authorities to trust; with `tls` and without it those of the system.
    """

    address: str | None
    api_key: str | None
    data_dir: Path
    tls: bool = False
    authorities: Path | None = None

    def connect(self) -> Connection:
        """A connection, not open yet."""
        from mnemocore.client import TlsFiles, connect

        if self.address is None:
            return connect(f"embedded:{self.data_dir}", api_key=self.api_key)
        tls = TlsFiles(authorities=self.authorities) if self.authorities else self.tls
        return connect(self.address, api_key=self.api_key, tls=tls)

    def run(self, action: Callable[[Connection], Awaitable[T]], *, create: bool = False) -> T:
        """The result of `action` on an open connection.

        Raises DataDirectoryError if there is no data directory yet, unless `create` allows to make it; and
        SpaceNotFoundError with the names of the spaces that exist.
        """
        if self.address is None and not create and not self.data_dir.exists():
            raise DataDirectoryError(
                f"data directory {self.data_dir} does not exist; name another one with --data-dir or a server with "
                "--address ('mnemo serve' and 'mnemo ingest' make it)",
                path=str(self.data_dir),
            )
        return run(self._act(action))

    async def _act(self, action: Callable[[Connection], Awaitable[T]]) -> T:
        async with self.connect() as mnemo:
            try:
                return await action(mnemo)
            except SpaceNotFoundError as error:
                raise await _with_existing_spaces(mnemo, error) from None


def run(main: Coroutine[Any, Any, T]) -> T:
    """The result of `main`, on the fastest event loop there is."""
    _configure_logging()
    try:
        import uvloop
    except ImportError:  # not made for this system
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def connection_options(command: Callable[..., T]) -> Callable[..., T]:
    """Give `command` the options that say where its store is; it gets them as `target`."""

    @click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        default=DEFAULT_DATA_DIR,
        envvar="MNEMO_DATA_DIR",
        show_default=True,
        show_envvar=True,
        help="The data directory, when no --address is given.",
    )
    @click.option("--address", metavar="HOST:PORT", envvar="MNEMO_ADDRESS", show_envvar=True, help="A running server.")
    @click.option(
        "--api-key", envvar="MNEMO_API_KEY", show_envvar=True, help="The key that proves who you are to the server."
    )
    @click.option("--api-key-file", type=click.Path(path_type=Path), help="A file that holds the key.")
    @click.option("--tls", is_flag=True, help="Encrypt the connection; trust the authorities of the system.")
    @click.option("--tls-ca", type=click.Path(path_type=Path), help="Encrypt; trust the authorities in this PEM file.")
    @functools.wraps(command)
    def with_target(
        *args: Any,
        address: str | None,
        api_key: str | None,
        api_key_file: Path | None,
        data_dir: Path,
        tls: bool,
        tls_ca: Path | None,
        **others: Any,
    ) -> T:
        if api_key_file is not None:
            api_key = _key_in(api_key_file)
        target = Target(address or None, api_key, data_dir, tls or tls_ca is not None, tls_ca)
        return command(*args, target=target, **others)

    return with_target


def _key_in(file: Path) -> str:
    key = file.read_text().strip()
    if not key:
        raise click.UsageError(f"{file} is empty; it must hold an API key")
    return key


def _configure_logging() -> None:
    """Nothing is logged between the lines of a command, unless --debug asks for it."""
    context = click.get_current_context(silent=True)
    if context is not None and context.obj is True:
        from mnemocore import telemetry

        telemetry.configure("cli", log_level="DEBUG")
    elif not logging.getLogger().handlers:
        logging.getLogger().addHandler(logging.NullHandler())


async def _with_existing_spaces(mnemo: Connection, error: SpaceNotFoundError) -> SpaceNotFoundError:
    names = []
    async for space in mnemo.spaces(page_size=SPACES_NAMED + 1):
        names.append(space.id)
        if len(names) > SPACES_NAMED:
            names[-1] = "..."
            break
    known = f"existing: {', '.join(names)}" if names else "there is no space yet"
    return SpaceNotFoundError(f"{error}; {known}", space=error.metadata.get("space", ""))
