"""What clients of the event-bus saw, written down, and what must be true of it.

A history is what publishers were answered, what members of a group were given, what they did and what they were told to
be settled. `violations` needs nothing else: no clock, no bus, no log.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@dataclass(frozen=True, slots=True)
class Published:
    """One event that was published, however often it was tried. `began` and `ended` are of one clock.

    `position` is what the bus answered; None if it never did, so that nobody knows whether the event is in the log.
    Events of the key "" have no order.
    """

    id: str
    tenant: str
    key: str
    content: str
    began: float
    ended: float
    position: int | None


@dataclass(frozen=True, slots=True)
class Delivered:
    """One event that a member was given."""

    member: str
    tenant: str
    position: int
    id: str
    event_tenant: str
    content: str
    attempt: int
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Settled:
    """One outcome `done` of which the bus said that it is stored."""

    tenant: str
    position: int
    attempt: int


@dataclass
class History:
    """Everything that was seen. `effects` are ids of events by tenant, in the order in which they were done.

    `dead` are the positions of dead letters by tenant; `poison` the ids of events that no member can do.
    """

    published: list[Published] = field(default_factory=list)
    delivered: list[Delivered] = field(default_factory=list)
    settled: list[Settled] = field(default_factory=list)
    effects: dict[str, list[str]] = field(default_factory=dict)
    dead: dict[str, list[int]] = field(default_factory=dict)
    poison: frozenset[str] = frozenset()


def violations(history: History) -> list[str]:
    """Every promise that the history breaks, a line each; none if the bus, the group and its members kept them all."""
    return [
        *_misplaced(history),
        *_invented(history),
        *_foreign(history),
        *_lost(history),
        *_doubled(history),
        *_dead_without_cause(history),
        *_out_of_order(history),
        *_done_again(history),
    ]


def _misplaced(history: History) -> Iterator[str]:
    """Every event has one position and every position one event; what was answered before comes before."""
    places: defaultdict[int, set[tuple[str, str]]] = defaultdict(set)
    positions: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    known = [(event.tenant, event.id, event.position) for event in history.published if event.position is not None]
    seen = [(delivery.event_tenant, delivery.id, delivery.position) for delivery in history.delivered]
    for tenant, id, position in [*known, *seen]:
        places[position].add((tenant, id))
        positions[tenant, id].add(position)
    for position, events in places.items():
        if len(events) > 1:
            yield f"position {position} is of several events: {sorted(events)}"
    for (tenant, id), found in positions.items():
        if len(found) > 1:
            yield f"event {id} of {tenant} has several positions: {sorted(found)}"
    earliest_end = float("inf")
    for event in sorted(history.published, key=lambda event: event.position or 0, reverse=True):
        if event.position is None:
            break
        if event.began > earliest_end:
            yield f"event {event.id} lies before one that was in the log before it was published"
        earliest_end = min(earliest_end, event.ended)


def _invented(history: History) -> Iterator[str]:
    """What is delivered was published like that."""
    contents = {(event.tenant, event.id): event.content for event in history.published}
    for delivery in history.delivered:
        published = contents.get((delivery.event_tenant, delivery.id))
        if published is None:
            yield f"event {delivery.id} of {delivery.event_tenant} was delivered and never published"
        elif published != delivery.content:
            yield f"event {delivery.id} of {delivery.event_tenant} was delivered with another content"


def _foreign(history: History) -> Iterator[str]:
    """No member is given an event of another tenant, and no tenant has done or dead what is not its own."""
    for delivery in history.delivered:
        if delivery.tenant != delivery.event_tenant:
            yield f"{delivery.member} of {delivery.tenant} was given event {delivery.id} of {delivery.event_tenant}"
    own = {(event.tenant, event.id) for event in history.published}
    for tenant, ids in history.effects.items():
        for id in ids:
            if (tenant, id) not in own:
                yield f"{tenant} did event {id}, which it never published"


def _lost(history: History) -> Iterator[str]:
    """Every event whose publisher was answered is done, or a dead letter if nobody can do it."""
    done = {(tenant, id) for tenant, ids in history.effects.items() for id in ids}
    dead = {(tenant, position) for tenant, positions in history.dead.items() for position in positions}
    for event in history.published:
        if event.position is None:
            continue
        if event.id in history.poison:
            if (event.tenant, event.position) not in dead:
                yield f"event {event.id} of {event.tenant} cannot be done and is no dead letter"
        elif (event.tenant, event.id) not in done:
            yield f"event {event.id} of {event.tenant} was acknowledged and never done"


def _doubled(history: History) -> Iterator[str]:
    """Nothing is done twice, and what cannot be done is not done."""
    for tenant, ids in history.effects.items():
        for id in _repeated(ids):
            yield f"event {id} of {tenant} was done more than once"
        for id in ids:
            if id in history.poison:
                yield f"event {id} of {tenant} cannot be done and was"


def _dead_without_cause(history: History) -> Iterator[str]:
    """Dead letters are what nobody can do, each of them once."""
    ids = {(delivery.tenant, delivery.position): delivery.id for delivery in history.delivered}
    for tenant, positions in history.dead.items():
        for position in _repeated(positions):
            yield f"position {position} of {tenant} is a dead letter more than once"
        for position in positions:
            id = ids.get((tenant, position))
            if id is None:
                yield f"position {position} of {tenant} is a dead letter and was never delivered"
            elif id not in history.poison:
                yield f"event {id} of {tenant} is a dead letter and could be done"


def _out_of_order(history: History) -> Iterator[str]:
    """Events of one key are done in the order of the log; what was a dead letter before comes when it comes."""
    places = {(delivery.tenant, delivery.id): delivery.position for delivery in history.delivered}
    keys = {(event.tenant, event.id): event.key for event in history.published}
    replayed = {(delivery.tenant, delivery.id) for delivery in history.delivered if delivery.replayed}
    for tenant, ids in history.effects.items():
        by_key: defaultdict[str, list[str]] = defaultdict(list)
        for id in ids:
            key = keys.get((tenant, id), "")
            if key and (tenant, id) not in replayed and (tenant, id) in places:
                by_key[key].append(id)
        for key, in_turn in by_key.items():
            for earlier, later in pairwise(in_turn):
                if places[tenant, earlier] > places[tenant, later]:
                    yield f"of key {key} of {tenant} event {earlier} was done before {later}, which lies before it"


def _done_again(history: History) -> Iterator[str]:
    """What was settled as done is given to nobody as a later attempt, unless it is replayed."""
    settled = {(done.tenant, done.position): done.attempt for done in history.settled}
    for delivery in history.delivered:
        attempt = settled.get((delivery.tenant, delivery.position))
        if attempt is not None and delivery.attempt > attempt and not delivery.replayed:
            yield (
                f"event {delivery.id} of {delivery.tenant} was settled as attempt {attempt} and given to "
                f"{delivery.member} as attempt {delivery.attempt}"
            )


def _repeated(values: Iterable[str] | Iterable[int]) -> list[str | int]:
    return [value for value, count in Counter[str | int](values).items() if count > 1]
