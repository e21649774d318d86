"""How a command fails: one line on standard error and an exit code."""

from __future__ import annotations

from typing import IO, Any

import click

from mnemocore.errors import MnemoError, UnauthenticatedError


class Failure(click.ClickException):
    """Ends the command with the line `error: ...` and exit code 1."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line."""
        click.echo(f"error: {one_line(self.message)}", file=file, err=file is None)


def as_failure(error: Exception) -> Failure:
    """What to tell the user of `error`."""
    if isinstance(error, UnauthenticatedError):
        return Failure(f"{error} (give --api-key or --api-key-file, or set MNEMO_API_KEY)")
    if isinstance(error, MnemoError):
        return Failure(str(error))
    if isinstance(error, OSError) and error.strerror:
        return Failure(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
    return Failure(f"unexpected {type(error).__name__}: {error}; 'mnemo --debug ...' shows where")


def one_line(text: str) -> str:
    """`text` without line breaks and without characters that steer a terminal."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
