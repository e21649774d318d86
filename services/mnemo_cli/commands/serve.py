"""`mnemo serve` and `mnemo up`: the two ways to run the services on one machine."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from mnemo_cli.target import DEFAULT_DATA_DIR, run

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

DEFAULT_LISTEN: Final = "127.0.0.1:7400"


def _server_options(command: Callable[..., T]) -> Callable[..., T]:
    @click.option(
        "--data-dir",
        type=click.Path(path_type=Path),
        default=DEFAULT_DATA_DIR,
        envvar="MNEMO_DATA_DIR",
        show_default=True,
        show_envvar=True,
        help="Where everything is kept; made if it does not exist.",
    )
    @click.option(
        "--listen",
        metavar="HOST:PORT",
        default=DEFAULT_LISTEN,
        envvar="MNEMO_LISTEN",
        show_default=True,
        show_envvar=True,
        help="Where the gateway listens; port 0 picks a free one.",
    )
    @click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
        default="warning",
        envvar="MNEMO_LOG_LEVEL",
        show_default=True,
        show_envvar=True,
    )
    @click.option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        default="text",
        envvar="MNEMO_LOG_FORMAT",
        show_default=True,
        show_envvar=True,
    )
    @functools.wraps(command)
    def with_options(**options: Any) -> T:
        return command(**options)

    return with_options


@click.command()
@_server_options
def serve(data_dir: Path, listen: str, log_level: str, log_format: str) -> None:
    """Run all services in one process, with PostgreSQL beside it.

    Ctrl-C ends it: calls that are under way are finished, then the database is closed.
    """
    _one_thread_a_product()
    from mnemo_embedded.serve import serve as run_services

    run(
        run_services(
            data_dir, listen, log_level=log_level, log_format=log_format, on_ready=_announcer(data_dir, "MnemoCore")
        )
    )


@click.command()
@_server_options
def up(data_dir: Path, listen: str, log_level: str, log_format: str) -> None:
    """Run each service as a process of its own, with gRPC between them and PostgreSQL beside them.

    Ctrl-C ends them all: calls that are under way are finished, then the database is closed.
    """
    _one_thread_a_product()
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")  # children run programs of their own
    from mnemo_embedded.processes import up as run_processes

    announce = _announcer(data_dir, "MnemoCore (five processes)")
    run(run_processes(data_dir, listen, log_level=log_level, log_format=log_format, on_ready=announce))


def _one_thread_a_product() -> None:
    """Let numpy compute each product in one thread: searches run side by side already, and waiting for a second thread
    on a busy machine takes longer than the product. Has to come before numpy is imported.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("MKL_NUM_THREADS", "1")


def _announcer(data_dir: Path, what: str) -> Callable[[str], None]:
    def announce(address: str) -> None:
        click.echo(f"{what} listens on {address}")
        click.echo(f"data directory: {data_dir.absolute()}")
        click.echo("stop it with Ctrl-C")

    return announce
