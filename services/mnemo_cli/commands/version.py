"""`mnemo version`."""

from __future__ import annotations

import platform

import click

from mnemocore.version import __version__


@click.command()
def version() -> None:
    """Print the version of MnemoCore, of Python and of the system."""
    click.echo(f"mnemo {__version__} (Python {platform.python_version()}, {platform.system()} {platform.machine()})")
