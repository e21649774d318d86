"""What events of a type must look like: versions of schemas, and events that are checked against them."""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Final, Protocol

from mnemo_events.domain.effort import Effort, EffortExhaustedError
from mnemo_events.domain.platform_types import is_reserved
from mnemo_events.domain.schema_versions import SchemaVersions, VersionStore
from mnemo_events.domain.texts import refuse_nul
from mnemocore import paging
from mnemocore.errors import (
    PageTokenMismatchError,
    PermissionDeniedError,
    QuotaExceededError,
    SchemaIncompatibleError,
    SchemaNotFoundError,
    StoreUnavailableError,
    Violation,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from mnemo_events.domain.event import Event
    from mnemocore.clock import Clock
    from mnemocore.ids import Tenant

MAX_TYPES: Final = 1000
"""Types with a schema, of a tenant."""
MAX_VERSIONS: Final = 100
"""Versions of a schema."""
MAX_VIOLATIONS: Final = 100
"""Things that are said to be wrong with a batch; those beyond are only counted."""
MAX_STEPS: Final = 1_000_000
"""Steps that checking a batch takes at most, some seconds."""
_COMPILED_BYTES: Final = 64 * 1024 * 1024
_SHAPE_BYTES: Final = 32 * 1024
"""About what the smallest shape takes."""
_MAX_PROBLEMS: Final = 5
_ATTEMPTS: Final = 5
_OTHER_CHARSET: Final = re.compile(r"charset\s*=\s*(?!\"?utf-8\"?\s*(?:;|$))", re.IGNORECASE)
"""What would let receivers read other text than is checked here."""
_REFERENCE: Final = re.compile(r"schemas/([a-z0-9_.]{1,128})/versions/([1-9][0-9]{0,8})")


class Format(IntEnum):
    """In what a schema is written. The numbers are those of the contract and of the database."""

    NOTHING = 0
    JSON = 1
    PROTOBUF = 2


class Compatibility(IntEnum):
    """What the version after this one may change. The numbers are those of the contract and of the database.

    BACKWARD: readers of the new version understand events of the version before. FORWARD: readers of the version before
    understand events of the new one. FULL: both. NONE: anything goes.
    """

    NONE = 1
    BACKWARD = 2
    FORWARD = 3
    FULL = 4

    @property
    def backward(self) -> bool:
        """Whether the new version must accept what the one before does."""
        return self in (Compatibility.BACKWARD, Compatibility.FULL)

    @property
    def forward(self) -> bool:
        """Whether the version before must accept what the new one does."""
        return self in (Compatibility.FORWARD, Compatibility.FULL)


@dataclass(frozen=True, slots=True)
class Definition:
    """How data must look. `closed`: fields that it does not know are refused. `message_name` is for protobuf."""

    format: Format
    content: bytes
    message_name: str
    closed: bool


@dataclass(frozen=True, slots=True)
class Schema:
    """One version of the schema of a type. `uid` is the store's own name of it, never used again.

    `created_at` is None for those of the platform.
    """

    tenant: Tenant
    type: str
    version: int
    definition: Definition
    compatibility: Compatibility
    description: str
    created_at: datetime | None
    uid: int = 0

    @property
    def name(self) -> str:
        """The public resource name."""
        return f"schemas/{self.type}/versions/{self.version}"


class Shape(Protocol):
    """A definition that was understood."""

    @property
    def weight(self) -> int:
        """About how many bytes of memory it takes."""
        ...

    @property
    def canonical(self) -> bytes:
        """The definition in the one form that all its spellings have in common."""
        ...

    def problems(self, data: bytes, effort: Effort) -> Iterator[Violation]:
        """What is wrong with data; fields are paths in it, such as `.amount` or "". Raises EffortExhaustedError."""
        ...

    def refused_of(self, writer: Shape) -> list[str]:
        """What data of another shape of this language may have that this one refuses; conservative: [] is a promise."""
        ...

    def unsuited_after(self, before: Shape) -> list[str]:
        """What a version after `before` may not do, whichever way it is to be compatible."""
        ...


class SchemaLanguage(Protocol):
    """A language of definitions. Its methods may take a while and run in threads."""

    @property
    def content_type(self) -> str:
        """The media type of the data."""
        ...

    def understand(self, definition: Definition) -> Shape:
        """Compile a definition. Raises InvalidFieldError that names `definition` or `message_name`."""
        ...


class SchemaStore(VersionStore, Protocol):
    """Where schemas are kept. Methods raise StoreUnavailableError."""

    async def add(self, schema: Schema, max_types: int) -> bool:
        """Keep a version whose number is the one after the newest; whether it was that.

        Raises QuotaExceededError if it is the first of its type and the tenant has `max_types` types already.
        """
        ...

    async def find(self, tenant: Tenant, type: str, version: int | None) -> Schema | None:
        """A version of a type; None means the newest."""
        ...

    async def list_newest(self, tenant: Tenant, after_type: str, limit: int) -> list[Schema]:
        """The newest versions of up to `limit` types after one, by type, without the content of their definitions."""
        ...

    async def list_versions(self, tenant: Tenant, type: str, before: int | None, limit: int) -> list[Schema]:
        """Up to `limit` versions of a type before one, newest first, without the content of their definitions."""
        ...

    async def delete(self, tenant: Tenant, type: str) -> int:
        """Forget all versions of a type; how many there were."""
        ...

    async def load(self, uids: Sequence[int]) -> list[Schema]:
        """Those of the schemas with these uids that are still there."""
        ...


class Schemas:
    """The registry: a tenant's own schemas, and the platform's, which every tenant sees and nobody changes.

    Which versions there are is kept in memory for those who publish, for `poll_seconds` at most: `SchemaVersions`.
    """

    def __init__(
        self,
        store: SchemaStore,
        languages: Mapping[Format, SchemaLanguage],
        platform: Iterable[Schema],
        clock: Clock,
        poll_seconds: float,
    ) -> None:
        self._store = store
        self._published = SchemaVersions(store, clock, poll_seconds)
        self._languages = languages
        self._platform = {schema.type: schema for schema in sorted(platform, key=lambda schema: schema.type)}
        self._clock = clock
        self._compiled = _Compiled()

    async def register(
        self,
        tenant: Tenant,
        type: str,
        definition: Definition,
        compatibility: Compatibility | None,
        description: str,
    ) -> Schema:
        """Register the next version of a type's schema.

        What the newest version says already changes nothing; a `compatibility` of None and an empty description say
        nothing. Raises InvalidFieldError, PermissionDeniedError for types of the platform, SchemaIncompatibleError,
        QuotaExceededError.
        """
        _refuse_reserved(type)
        refuse_nul({"message_name": definition.message_name, "description": description})
        shape = await asyncio.to_thread(self._languages[definition.format].understand, definition)
        for _ in range(_ATTEMPTS):
            before = await self._store.find(tenant, type, None)
            schema = self._successor(tenant, type, definition, compatibility, description, before)
            if before is not None:
                if await asyncio.to_thread(self._says_the_same, before, schema, shape, description):
                    return before
                await asyncio.to_thread(self._check_compatible, before, schema, shape)
            if await self._store.add(schema, MAX_TYPES):
                self.forget(tenant)
                return schema
        raise StoreUnavailableError(f"others keep registering schemas of {type!r}; try again", retry_after=1.0)

    async def get(self, tenant: Tenant, type: str, version: int | None) -> Schema:
        """A version; None is the newest. Raises SchemaNotFoundError."""
        own = self._platform.get(type)
        found = own if own is not None and version in (None, own.version) else None
        if own is None:
            found = await self._store.find(tenant, type, version)
        if found is None:
            raise SchemaNotFoundError(schema=f"schemas/{type}" + (f"/versions/{version}" if version else ""))
        return found

    async def list_schemas(self, tenant: Tenant, type: str, size: int, token: str) -> tuple[list[Schema], str]:
        """A page without the content of definitions, and the token of the next one. Raises PageTokenMismatchError.

        The newest version of every type, by type; with a `type` all its versions, newest first.
        """
        query = ["schemas", tenant, type]
        after = paging.decode(query, token)
        limit = paging.page_size(size)
        if type:
            found = await self._versions(tenant, type, after, limit + 1)
        else:
            found = await self._newest(tenant, str(after[0]) if after else "", limit + 1)
        page = found[:limit]
        if len(found) <= limit:
            return page, ""
        return page, paging.encode(query, [page[-1].version if type else page[-1].type])

    async def delete(self, tenant: Tenant, type: str) -> int:
        """Forget all versions of a type; how many there were. Raises PermissionDeniedError for the platform's types."""
        _refuse_reserved(type)
        number = await self._store.delete(tenant, type)
        self.forget(tenant)
        return number

    def forget(self, tenant: Tenant | None = None) -> None:
        """The schemas of a tenant, or of any, have changed: the next events are checked against what is there then."""
        self._published.forget(tenant)

    async def check(self, tenant: Tenant, events: Mapping[int, Event]) -> tuple[list[Violation], dict[int, str]]:
        """What is wrong with events of clients, by their places in a batch; and what each was checked against.

        Fields are such as `events[3].data.amount`. At most MAX_VIOLATIONS are named.
        """
        broken, wanted, shapes = await self._found(tenant, events)
        if None in shapes.values():  # deleted, and maybe made anew; we may not have heard of it yet
            self.forget(tenant)
            broken, wanted, shapes = await self._found(tenant, events)
        checked = {
            place: (events[place], found) for place, (_, uid) in wanted.items() if (found := shapes[uid]) is not None
        }
        if checked:
            broken += await asyncio.to_thread(self._problems, checked)
        return _bounded(broken), {place: name for place, (name, uid) in wanted.items() if shapes[uid] is not None}

    def _successor(
        self,
        tenant: Tenant,
        type: str,
        definition: Definition,
        compatibility: Compatibility | None,
        description: str,
        before: Schema | None,
    ) -> Schema:
        inherited = before.compatibility if before else Compatibility.BACKWARD
        version = before.version + 1 if before else 1
        if version > MAX_VERSIONS:
            text = f"{type!r} has {MAX_VERSIONS} versions, as many as are allowed; delete them, or name another type"
            raise QuotaExceededError(text, quota="schema_versions", limit=str(MAX_VERSIONS))
        now = self._clock.now()
        return Schema(tenant, type, version, definition, compatibility or inherited, description, now)

    def _says_the_same(self, before: Schema, schema: Schema, shape: Shape, description: str) -> bool:
        return (
            before.definition.format == schema.definition.format
            and before.definition.message_name == schema.definition.message_name
            and before.definition.closed == schema.definition.closed
            and before.compatibility == schema.compatibility
            and description in ("", before.description)
            and self._understood(before.definition).canonical == shape.canonical
        )

    def _check_compatible(self, before: Schema, schema: Schema, shape: Shape) -> None:
        if before.compatibility is Compatibility.NONE:
            return
        try:
            problems = list(self._changes(before, schema, shape))
        except RecursionError:
            problems = ["they cannot be compared, for what is in them leads on too far"]
        if problems:
            more = f"; and {len(problems) - _MAX_PROBLEMS} more" if len(problems) > _MAX_PROBLEMS else ""
            text = "; ".join(problems[:_MAX_PROBLEMS]) + more
            kept = f"{before.name} demands {before.compatibility.name} compatibility"
            raise SchemaIncompatibleError(schema=schema.name, problem=f"{kept}: {text}"[:1500])

    def _changes(self, before: Schema, schema: Schema, shape: Shape) -> Iterator[str]:
        if before.definition.format != schema.definition.format:
            yield f"the format was {before.definition.format.name} and is {schema.definition.format.name}"
            return
        shape_before = self._understood(before.definition)
        if before.compatibility.backward:
            yield from (f"events of version {before.version}: {text}" for text in shape.refused_of(shape_before))
        if before.compatibility.forward:
            yield from (f"readers of version {before.version}: {text}" for text in shape_before.refused_of(shape))
        yield from shape.unsuited_after(shape_before)

    def _understood(self, definition: Definition) -> Shape:
        return self._languages[definition.format].understand(definition)

    async def _versions(self, tenant: Tenant, type: str, after: list[object] | None, limit: int) -> list[Schema]:
        own = self._platform.get(type)
        if own is not None:
            return [] if after else [_without_content(own)]
        match after:
            case None:
                return await self._store.list_versions(tenant, type, None, limit)
            case [int(version)]:
                return await self._store.list_versions(tenant, type, version, limit)
        raise PageTokenMismatchError

    async def _newest(self, tenant: Tenant, after_type: str, limit: int) -> list[Schema]:
        own = [_without_content(schema) for type, schema in self._platform.items() if type > after_type]
        theirs = await self._store.list_newest(tenant, after_type, limit)
        return sorted([*own, *theirs], key=lambda schema: schema.type)[:limit]

    async def _found(
        self, tenant: Tenant, events: Mapping[int, Event]
    ) -> tuple[list[Violation], dict[int, tuple[str, int]], dict[int, tuple[Shape, str] | None]]:
        """As `_wanted`, and by their uids what is to be checked against; None for what was deleted."""
        broken, wanted = await self._wanted(tenant, events)
        return broken, wanted, {uid: await self._shape(uid) for uid in sorted({uid for _, uid in wanted.values()})}

    async def _wanted(
        self, tenant: Tenant, events: Mapping[int, Event]
    ) -> tuple[list[Violation], dict[int, tuple[str, int]]]:
        """Which version each event is to be checked against: its name and uid. Events of types without one are left."""
        current = await self._published.current(tenant, sorted({event.type for event in events.values()}))
        named = {
            place: found
            for place, event in events.items()
            if event.type in current and (found := _REFERENCE.fullmatch(event.dataschema))
        }
        uids = await self._published.uids(tenant, sorted({(found[1], int(found[2])) for found in named.values()}))
        broken: list[Violation] = []
        wanted: dict[int, tuple[str, int]] = {}
        for place, event in events.items():
            if event.type not in current:
                continue
            version, uid = current[event.type]
            if event.dataschema:
                found = named.get(place)
                key = (found[1], int(found[2])) if found else (event.type, 0)
                if key[0] != event.type or key not in uids:
                    text = f"{event.dataschema!r} is no version of the schema of {event.type!r}"
                    allowed = f"allowed are empty and 'schemas/{event.type}/versions/<version>', newest {version}"
                    broken.append(Violation(f"events[{place}].dataschema", f"{text}; {allowed}"))
                    continue
                version, uid = key[1], uids[key]
            wanted[place] = (f"schemas/{event.type}/versions/{version}", uid)
        return broken, wanted

    async def _shape(self, uid: int) -> tuple[Shape, str] | None:
        """What is to be checked against, and the media type; None if it was deleted in between."""
        known = self._compiled.get(uid)
        if known is None:
            loaded = await self._store.load([uid])
            if not loaded:
                return None
            definition = loaded[0].definition
            shape = await asyncio.to_thread(self._understood, definition)
            known = (shape, self._languages[definition.format].content_type)
            self._compiled.put(uid, known, _SHAPE_BYTES + shape.weight)
        return known

    def _problems(self, checked: Mapping[int, tuple[Event, tuple[Shape, str]]]) -> list[Violation]:
        """What is wrong with the content of events. Runs in a thread."""
        effort = Effort(MAX_STEPS)
        broken: list[Violation] = []
        for place, (event, (shape, content_type)) in checked.items():
            given = event.datacontenttype.partition(";")[0].strip().lower()
            if given not in ("", content_type) or _OTHER_CHARSET.search(event.datacontenttype):
                text = (
                    f"{event.datacontenttype!r} is not what the schema is for; allowed are empty and {content_type!r}"
                )
                broken.append(Violation(f"events[{place}].datacontenttype", text))
                continue
            try:
                for problem in shape.problems(event.data, effort):
                    broken.append(Violation(f"events[{place}].data{problem.field}", problem.description))
                    if len(broken) > MAX_VIOLATIONS:
                        return broken
            except EffortExhaustedError:
                text = "is too much work to check, here or together with the events before it; send less at once"
                broken.append(Violation(f"events[{place}].data", text))
                return broken
        return broken


class _Compiled:
    """The shapes that were used last, as many as take so many bytes of memory together."""

    def __init__(self) -> None:
        self._shapes: OrderedDict[int, tuple[tuple[Shape, str], int]] = OrderedDict()
        self._bytes = 0

    def get(self, uid: int) -> tuple[Shape, str] | None:
        found = self._shapes.get(uid)
        if found is None:
            return None
        self._shapes.move_to_end(uid)
        return found[0]

    def put(self, uid: int, shape: tuple[Shape, str], size: int) -> None:
        if uid in self._shapes:
            return
        self._shapes[uid] = (shape, size)
        self._bytes += size
        while self._bytes > _COMPILED_BYTES:
            _, (_, gone) = self._shapes.popitem(last=False)
            self._bytes -= gone


def _refuse_reserved(type: str) -> None:
    if is_reserved(type):
        raise PermissionDeniedError(f"{type!r} is a type of the platform, whose schemas nobody changes")


def _without_content(schema: Schema) -> Schema:
    return replace(schema, definition=replace(schema.definition, content=b""))


def _bounded(broken: list[Violation]) -> list[Violation]:
    if len(broken) <= MAX_VIOLATIONS:
        return broken
    rest = f"there is more that is wrong; the first {MAX_VIOLATIONS} things are named"
    return [*broken[:MAX_VIOLATIONS], Violation("events", rest)]
