"""Events of clients on their way into the log: whose they are, whether they may be published, what they look like."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Final

from mnemo_events.domain.access import ADMIN_SCOPE, Action
from mnemo_events.domain.platform_types import is_reserved
from mnemo_events.domain.schemas import MAX_VIOLATIONS
from mnemo_events.domain.texts import NUL, NUL_REFUSED
from mnemocore.errors import InvalidFieldError, Violation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence

    from mnemo_events.domain.access import Access
    from mnemo_events.domain.event import Event
    from mnemo_events.domain.publisher import Publisher
    from mnemo_events.domain.schemas import Schemas
    from mnemocore.calls import Identity

PLATFORM_SOURCE: Final = "mnemocore/"
"""What the sources of the platform begin with."""
METHOD: Final = "PublishEvents"
"""The method that refusals name."""
_PRINCIPALS: Final = "principals/"
_TEXTS: Final = (
    "id",
    "source",
    "type",
    "subject",
    "datacontenttype",
    "dataschema",
    "traceparent",
    "correlation_id",
    "causation_id",
)


class Publication:
    """Publishes for clients and for the services of the installation."""

    def __init__(self, publisher: Publisher, access: Access, schemas: Schemas) -> None:
        self._publisher = publisher
        self._access = access
        self._schemas = schemas

    async def publish(self, caller: Identity | None, events: Sequence[Event]) -> list[int]:
        """The positions of the events, in their order; durable.

        Without a caller it is a service of the installation, which says whose events they are. Events of a caller
        become its tenant's, with its name as their source if they have none, and with the version of their schema that
        they were checked against. Raises InvalidFieldError, which names all that is wrong, and AccessDeniedError.
        """
        if caller is None:
            _refuse(violation for place, event in enumerate(events) for violation in _incomplete(place, event))
            return await self._publisher.publish(events)
        _refuse(violation for place, event in enumerate(events) for violation in _improper(caller, place, event))
        own = {place: _own(caller, event) for place, event in enumerate(events)}
        for (type, _), subjects in _by_type(own.values()).items():
            await self._access.check(caller, Action.PUBLISH, (type,), tuple(subjects), METHOD)
        broken, checked = await self._schemas.check(caller.tenant, own)
        _refuse(iter(broken))
        return await self._publisher.publish([_checked(place, event, checked) for place, event in own.items()])

    async def violations(self, caller: Identity, events: Sequence[Event]) -> list[Violation]:
        """Everything for which `publish` would refuse these events; nothing is published, no refusal is noted."""
        broken: list[Violation] = []
        sound: dict[int, Event] = {}
        for place, event in enumerate(events):
            improper = list(_improper(caller, place, event))
            broken += improper
            if not improper:
                sound[place] = _own(caller, event)
        broken += [violation async for violation in self._denied(caller, sound)]
        return broken + (await self._schemas.check(caller.tenant, sound))[0]

    async def _denied(self, caller: Identity, events: Mapping[int, Event]) -> AsyncIterator[Violation]:
        if caller.allows(ADMIN_SCOPE):
            return
        for place, event in events.items():
            subjects = _wanted_subjects(event)
            if not await self._access.allows(caller.tenant, caller.principal, Action.PUBLISH, (event.type,), subjects):
                target = f"{event.type}{f' of {event.subject}' if event.subject else ''}"
                yield Violation(f"events[{place}].type", f"no policy allows you to publish {target}")


def _refuse(violations: Iterator[Violation]) -> None:
    if broken := list(islice(violations, MAX_VIOLATIONS)):
        raise InvalidFieldError.of(broken)


def _incomplete(place: int, event: Event) -> Iterator[Violation]:
    """What a service must say of an event, and does not."""
    for field, value in (("tenant", event.tenant), ("source", event.source)):
        if not value:
            yield Violation(f"events[{place}].{field}", "is empty; a service must name it")


def _improper(caller: Identity, place: int, event: Event) -> Iterator[Violation]:
    """What a client may not say of an event."""
    at = f"events[{place}]"
    yield from (Violation(f"{at}.{field}", NUL_REFUSED) for field in _TEXTS if NUL in getattr(event, field))
    if event.tenant not in ("", caller.tenant):
        yield Violation(f"{at}.tenant", f"{event.tenant!r} is not your tenant; leave it empty")
    if event.source.startswith(PLATFORM_SOURCE):
        yield Violation(f"{at}.source", f"{event.source!r} is of the platform; others do not begin with 'mnemocore/'")
    own = f"{_PRINCIPALS}{caller.principal}"
    if event.source.startswith(_PRINCIPALS) and event.source != own and not event.source.startswith(f"{own}/"):
        yield Violation(f"{at}.source", f"{event.source!r} is another principal; leave it empty, which means {own!r}")
    if is_reserved(event.type):
        first = event.type.partition(".")[0]
        yield Violation(f"{at}.type", f"{event.type!r} is of the platform, as all that begins with '{first}.'")
    if event.space_uid:
        yield Violation(f"{at}.space_uid", "is for events of the platform; leave it empty")
    if event.revision:
        yield Violation(f"{at}.revision", "is for events of the platform; leave it 0")


def _own(caller: Identity, event: Event) -> Event:
    return replace(event, tenant=caller.tenant, source=event.source or f"{_PRINCIPALS}{caller.principal}")


def _wanted_subjects(event: Event) -> tuple[str, ...]:
    return (event.subject,) if event.subject else ()


def _by_type(events: Iterable[Event]) -> dict[tuple[str, bool], dict[str, None]]:
    """The subjects of the events of each type; those without a subject apart."""
    found: dict[tuple[str, bool], dict[str, None]] = {}
    for event in events:
        subjects = found.setdefault((event.type, bool(event.subject)), {})
        if event.subject:
            subjects[event.subject] = None
    return found


def _checked(place: int, event: Event, schemas: Mapping[int, str]) -> Event:
    """The event with the name of the schema that it was checked against, if there is one."""
    return replace(event, dataschema=schemas[place]) if place in schemas else event
