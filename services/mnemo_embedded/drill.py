"""A drill: bring a backup back for a while and see whether it answers as the installation it was made of.

What came back is compared with the manifest of the backup, and with the living installation as long as that has not
changed since: rows of tables, digests of spaces, and the answers of recall. Memory use does not grow with the backup;
the disk holds it once more for the time of the drill.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mnemo_embedded.backup import back_up, contents, restore_directory
from mnemo_embedded.installation import Installation
from mnemo_embedded.store import open_store
from mnemo_memory.storage import inventory
from mnemocore.client import connect
from mnemocore.errors import DataDirectoryError, IndexLaggingError, MnemoError
from mnemocore.postgres.dump import count_rows

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from mnemo_memory.storage.inventory import Sampled
    from mnemocore.client import Connection, RecallHit
    from mnemocore.postgres import Database
    from mnemocore.postgres.dump import Manifest, Progress

DIFFERENCES_SHOWN: Final = 50
TOP: Final = 10
"""Answers of a recall that are compared."""
DEEP: Final = 100
"""Answers among which a memory must be that is asked for with its own words."""
TOLERANCE: Final = 0.02
"""By which scores may differ: they fade with time, and the two answers are given one after the other."""

_QUERY_WORDS: Final = 12
_QUERY_CHARACTERS: Final = 400
_PAUSE_SECONDS: Final = 0.1
_WORD: Final = re.compile(r"\S+")
_UNCOMPARED: Final = ("published_revision",)
"""What the relay changes by itself."""


@dataclass(slots=True)
class Report:
    """What a drill found. `live` says whether the living installation was compared, and if not, why.

    `differences` are the first DIFFERENCES_SHOWN of `found`, one line each.
    """

    archive: str
    created_at: str
    tables: int = 0
    rows: int = 0
    spaces: int = 0
    memories: int = 0
    live: str = "not asked for"
    recalls: int = 0
    compared_with_live: int = 0
    found: int = 0
    differences: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether there is no difference."""
        return self.found == 0

    def differ(self, text: str) -> None:
        """Note a difference."""
        self.found += 1
        if len(self.differences) < DIFFERENCES_SHOWN:
            self.differences.append(text)


@dataclass(frozen=True, slots=True)
class Live:
    """The living installation: how to open its database and its gateway; None for what cannot be reached."""

    store: Callable[[], AbstractAsyncContextManager[Database]] | None = None
    gateway: Callable[[], Connection] | None = None


async def drill(
    archive: Path,
    live: Live,
    *,
    passphrase: bytes | None,
    folder: Path | None = None,
    recalls: int = 100,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Restore `archive` into a new folder in `folder`, compare, and remove it again.

    Raises what `restore_directory` raises for a backup that cannot be restored.
    """
    started = time.monotonic()
    async with _temporary(folder) as place:
        data = place / "data"
        restored = await restore_directory(data, archive, passphrase=passphrase, progress=progress, durable=False)
        manifest = restored.manifest
        report = Report(str(archive), manifest.created_at)
        await _compare_contents(report, data, manifest)
        unchanged = await _compare_store(report, live, manifest)
        await _compare_recalls(report, data, live if unchanged else Live(), recalls, seed)
    report.seconds = round(time.monotonic() - started, 3)
    return report


async def drill_with(
    archive: Path | None,
    live: Live,
    *,
    passphrase: bytes | None,
    folder: Path | None = None,
    recalls: int = 100,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """A drill with `archive`, or with a backup of the living installation made for it if that is None.

    Raises what `drill` and `back_up` raise.
    """
    if archive is not None:
        return await drill(
            archive, live, passphrase=passphrase, folder=folder, recalls=recalls, seed=seed, progress=progress
        )
    if live.store is None:
        raise DataDirectoryError("there is neither a backup nor an installation to make one of", path="")
    async with _temporary(folder) as place:
        made = place / "drill.mbk"
        async with live.store() as database:
            await back_up(database, made, datetime.now(UTC), passphrase=passphrase, progress=progress)
        return await drill(
            made, live, passphrase=passphrase, folder=folder, recalls=recalls, seed=seed, progress=progress
        )


async def _compare_contents(report: Report, data: Path, manifest: Manifest) -> None:
    """Compare what was restored with what the manifest says, before any service has touched it."""
    async with open_store(data, durable=False) as database:
        rows, found = await count_rows(database), await contents(database)
    report.tables, report.rows = len(rows), sum(rows.values())
    for table in sorted(manifest.tables.keys() | rows.keys()):
        said, there = manifest.tables.get(table, 0), rows.get(table, 0)
        if said != there:
            report.differ(f"table {table}: {said} rows in the backup, {there} restored")
    _compare_inventories(report, manifest.contents, found, "restored")
    spaces = found["memory"]["spaces"]
    report.spaces, report.memories = len(spaces), sum(space["memories"] for space in spaces)


def _compare_inventories(report: Report, said: Mapping[str, Any], there: Mapping[str, Any], where: str) -> None:
    for schema, values in said.items():
        for key, value in values.items():
            if key != "spaces" and there[schema].get(key) != value:
                report.differ(f"{schema} {key}: {value} in the backup, {there[schema].get(key)} {where}")
    saved, found = _by_uid(said), _by_uid(there)
    for uid in sorted(saved.keys() | found.keys()):
        if uid not in found or uid not in saved:
            report.differ(f"space {uid}: {'in the backup' if uid in saved else where} alone")
            continue
        _compare_spaces(report, saved[uid], found[uid], where)


def _compare_spaces(report: Report, said: Mapping[str, Any], there: Mapping[str, Any], where: str) -> None:
    # A row gets its hash some time after an update of the product: then its digest is another one for the same content.
    hashed_since = said["unhashed"] != there.get("unhashed")
    for key, value in said.items():
        if key in _UNCOMPARED or (hashed_since and key in ("digest", "unhashed")):
            continue
        if there.get(key) != value:
            name = f"space {said['tenant']}/{said['slug']}"
            report.differ(f"{name}: {key} {value} in the backup, {there.get(key)} {where}")


async def _compare_store(report: Report, live: Live, manifest: Manifest) -> bool:
    """Compare the living database with the manifest; whether it may go on to be compared."""
    if live.store is None:
        report.live = "not reachable" if live.gateway is None else "its database is not known"
        return live.gateway is not None
    try:
        async with live.store() as database:
            found = await contents(database)
    except MnemoError as error:
        report.live = f"not reachable: {error}"
        return False
    if _state(found) != _state(manifest.contents):
        report.live = "changed since"
        return False
    report.live = "compared"
    _compare_inventories(report, _without_log(manifest.contents), found, "in the living installation")
    return True


def _state(found: Mapping[str, Any]) -> object:
    """Equal as long as no memory was written."""
    return found["memory"]["store_id"], {uid: space["revision"] for uid, space in _by_uid(found).items()}


def _without_log(found: Mapping[str, Any]) -> dict[str, Any]:
    """Without the position of the log: what was committed may have been published since."""
    return {schema: values for schema, values in found.items() if schema != "events"}


def _by_uid(found: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {space["uid"]: space for space in found["memory"]["spaces"]}


async def _compare_recalls(report: Report, data: Path, live: Live, recalls: int, seed: int) -> None:
    """Ask what was restored for parts of a sample of its memories, and the living installation the same."""
    async with contextlib.AsyncExitStack() as stack:
        place = await stack.enter_async_context(_temporary(None))  # the path of a socket must be short
        installation = await stack.enter_async_context(Installation(data, f"unix:{place / 'gateway'}"))
        owner = await stack.enter_async_context(connect(installation.address))
        async with open_store(data) as database, database.transaction(readonly=True) as connection:
            sampled = await inventory.sample(connection, recalls, seed)
        restored = _Asked(installation.address, owner, stack)
        alive = await _reach(report, live, stack)
        for memory in sampled:
            await _compare_recall(report, memory, await restored.as_reader_of(memory), alive, seed)


async def _reach(report: Report, live: Live, stack: contextlib.AsyncExitStack) -> tuple[Connection, str] | None:
    """The living gateway and the tenant it knows us as; None if it does not answer."""
    if live.gateway is None:
        return None
    try:
        connection = await stack.enter_async_context(live.gateway())
        return connection, (await connection.capabilities()).tenant
    except MnemoError as error:
        report.live = f"{report.live}; its gateway is not reachable: {error}"
        return None


class _Asked:
    """The restored installation, asked as one who may read the space of a memory."""

    def __init__(self, address: str, owner: Connection, stack: contextlib.AsyncExitStack) -> None:
        self._address = address
        self._owner = owner
        self._stack = stack
        self._readers: dict[tuple[str, str], Connection] = {}

    async def as_reader_of(self, memory: Sampled) -> Connection:
        """A connection of somebody who may read the space; the key is made in what was restored, and goes with it."""
        reader = (memory.tenant, memory.owner or "drill")
        if reader not in self._readers:
            made = await self._owner.create_api_key(reader[1], ["memory:read", "memory:admin"], tenant=reader[0])
            connection = connect(self._address, api_key=made.secret)
            self._readers[reader] = await self._stack.enter_async_context(connection)
        return self._readers[reader]


async def _compare_recall(
    report: Report, memory: Sampled, restored: Connection, alive: tuple[Connection, str] | None, seed: int
) -> None:
    query = part_of(memory.content, f"{seed} {memory.id}")
    name = f"{memory.tenant}/{memory.slug}/{memory.id}"
    report.recalls += 1
    hits = await _recall(restored, memory, query, TOP)
    expected = await _recall_alive(alive, memory, query)
    if expected is not None:
        report.compared_with_live += 1
        if difference := differ(hits, expected):
            report.differ(f"recall by a part of {name}: {difference}")
    elif not _found(memory, query, hits) and not _found(memory, query, await _recall(restored, memory, query, DEEP)):
        report.differ(f"recall by a part of {name} does not find it")


async def _recall(connection: Connection, memory: Sampled, query: str, limit: int) -> Sequence[RecallHit]:
    """The answer once the index has built what it needs; by relevance alone, for uses count meanwhile."""
    space = connection.space(memory.slug)
    while True:
        try:
            return await space.recall(query, limit=limit, profile="semantic", fully_consistent=True)
        except IndexLaggingError:
            await asyncio.sleep(_PAUSE_SECONDS)


async def _recall_alive(
    alive: tuple[Connection, str] | None, memory: Sampled, query: str
) -> Sequence[RecallHit] | None:
    """The answer of the living installation; None if it does not give us one."""
    if alive is None or alive[1] != memory.tenant:
        return None
    try:
        return await _recall(alive[0], memory, query, TOP)
    except MnemoError:
        return None


def part_of(content: str, seed: str) -> str:
    """Up to 12 words in a row of a text that has one; the same ones for the same seed."""
    words = [match.group() for match in _WORD.finditer(content[:100_000])]
    start = random.Random(seed).randint(0, max(0, len(words) - _QUERY_WORDS))
    return " ".join(words[start : start + _QUERY_WORDS])[:_QUERY_CHARACTERS]


def differ(some: Sequence[RecallHit], others: Sequence[RecallHit]) -> str:
    """How two answers differ in what they found and how well it fits; empty if they do not.

    The order among equal scores, and what is left out at the end of equal scores, is left to chance.
    """
    scores, expected = _scores(some), _scores(others)
    least = max(min(scores.values(), default=0.0), min(expected.values(), default=0.0))
    for each in [*scores, *expected]:
        score, other = scores.get(each), expected.get(each)
        if score is not None and other is not None and abs(score - other) <= TOLERANCE:
            continue
        at_the_end = len(scores) == len(expected) == TOP and max(score or 0.0, other or 0.0) <= least + TOLERANCE
        if score is None or other is None:
            if not at_the_end:
                return f"memory {each} is found {'in the restored' if other is None else 'in the living'} one alone"
        else:
            return f"memory {each} has the score {score:.3f}, {other:.3f} in the living one"
    return ""


def _scores(hits: Sequence[RecallHit]) -> dict[str, float]:
    return {hit.memory.id: hit.score for hit in hits}


def _found(memory: Sampled, query: str, hits: Sequence[RecallHit]) -> bool:
    """Whether the memory, or one that says the same, is among the hits."""
    return any(hit.memory.id == memory.id or query in " ".join(hit.memory.content.split()) for hit in hits)


@contextlib.asynccontextmanager
async def _temporary(folder: Path | None) -> AsyncIterator[Path]:
    """A new folder, removed at the end."""
    place = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="mnemo-drill-", dir=folder))
    try:
        yield place
    finally:
        await asyncio.to_thread(shutil.rmtree, place)
