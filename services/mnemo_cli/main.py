"""The table of contents of the `mnemo` command, and how it ends.

A command is imported when it is called, so that `mnemo --help` is quick. What fails ends as one line on standard error:
`error: ...`, exit code 1. Wrong usage has exit code 2, Ctrl-C 130.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

import click

from mnemo_cli.failure import Failure, as_failure
from mnemocore.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "serve": ("serve:serve", "Run all services in one process."),
    "up": ("serve:up", "Run each service as a process of its own."),
    "remember": ("remember:remember", "Keep one memory."),
    "ingest": ("ingest:ingest", "Keep what is in files as memories."),
    "export": ("transfer:export_space", "Write everything in a space to a file."),
    "import": ("transfer:import_files", "Write what is in files into a space."),
    "recall": ("recall:recall", "Find the memories that answer a question."),
    "list": ("listing:list_memories", "List memories, newest first."),
    "get": ("memories:get", "Show one memory."),
    "history": ("listing:history", "List what happened to a memory, or in a space."),
    "update": ("changes:update", "Change some fields of a memory."),
    "supersede": ("changes:supersede", "Keep a memory that takes the place of another one."),
    "feedback": ("changes:feedback", "Say whether a memory proved right."),
    "protect": ("changes:protect", "Keep a memory from being archived, erased and forgotten."),
    "forget": ("memories:forget", "Take a memory out of recall, or erase it."),
    "restore": ("memories:restore", "Take an archived memory back into recall."),
    "links": ("links:links", "Set, remove and follow links between memories."),
    "sessions": ("sessions:sessions", "List, show and end sessions."),
    "spaces": ("spaces:spaces", "List, show, make, change and count spaces."),
    "share": ("share:share", "Share spaces with others."),
    "erase": ("erase:erase", "Erase a space with every trace of it."),
    "consolidate": ("consolidate:consolidate", "Archive memories that say the same as an older one."),
    "jobs": ("jobs:jobs", "List, show and cancel jobs."),
    "events": ("events:events", "Publish, read and follow events; groups, dead letters, schemas, access."),
    "webhooks": ("webhooks:webhooks", "Send events to HTTP endpoints."),
    "agents": ("agents:agents", "List and watch agents."),
    "tasks": ("tasks:tasks", "Give agents work, and look after it."),
    "keys": ("keys:keys", "Make, list and revoke API keys."),
    "analogy": ("analogy:analogy", "Find what is to one text as a second one is to a third."),
    "index": ("index:index", "Show the models behind the vectors, and change from one to another."),
    "backup": ("backup:backup", "Back up everything, restore it, and try a backup out."),
    "doctor": ("doctor:doctor", "Check the installation and the data."),
    "version": ("version:version", "Print the version."),
}
"""Each command: its place under `mnemo_cli.commands`, and what the list of commands says of it."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called; every error of theirs ends as a Failure."""

    def __init__(self, *, lazy: Mapping[str, tuple[str, str]], **options: Any) -> None:
        super().__init__(**options)
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names in the order of the table."""
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, imported now; None if there is none."""
        if cmd_name not in self._lazy:
            return None
        module, _, attribute = self._lazy[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(f"mnemo_cli.commands.{module}"), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in self._lazy.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            raise click.exceptions.Exit(130) from None
        except Exception as error:
            if ctx.params["debug"]:
                raise
            raise as_failure(error) from None


@click.group(cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, envvar="MNEMO_DEBUG", help="Log everything and show tracebacks.")
@click.version_option(__version__, prog_name="mnemo", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Memory for AI agents: keeps, finds, connects, consolidates and forgets.

    Without --address a command works on the data directory (--data-dir): it talks to the server that serves it, or
    opens it by itself if there is none.
    """
    ctx.obj = debug


def main() -> None:
    """Run `mnemo` with the arguments of the process; never returns."""
    cli.main(prog_name="mnemo")


__all__ = ["COMMANDS", "Failure", "cli", "main"]
