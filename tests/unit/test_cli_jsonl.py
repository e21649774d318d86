"""JSONL with the fields of MemoryInput."""

from __future__ import annotations

import dataclasses
import io
import json
from datetime import UTC, datetime

import pytest

from mnemo_cli.sources import jsonl
from mnemo_cli.sources.fields import FIELDS
from mnemo_cli.sources.lines import read_lines
from mnemo_cli.sources.record import SourceError
from mnemocore.client import MemoryInput, MemoryKind, NoveltyGate, OnDuplicate, Origin, Provenance


def read(*lines: str) -> list[MemoryInput | SourceError]:
    data = io.BytesIO("\n".join(lines).encode())
    return [found for _, found in jsonl.read(read_lines(data, "notes.jsonl"))]


def problem_of(line: str) -> str:
    (found,) = read(line)
    assert isinstance(found, SourceError)
    return str(found)


def test_every_field_is_read() -> None:
    line = {
        "content": "Alice: The parcel is here.",
        "id": "0198C5F0-7D2E-7B3C-9A41-5F0E6D2C1B7A",
        "kind": "MEMORY_KIND_FACT",
        "metadata": {"source": {"a": [1, None]}},
        "tags": ["post"],
        "actor": "Alice",
        "session": "s1",
        "ordinal": 0,
        "occurred_at": "2026-02-03T20:10:00Z",
        "importance": 1,
        "confidence": 0.25,
        "valid_from": "2026-02-03T00:00:00Z",
        "valid_to": "2026-02-04T00:00:00Z",
        "expires_at": "2026-02-05T00:00:00Z",
        "provenance": {"origin": "ORIGIN_USER", "sources": ["https://example.org"], "agent": "planner"},
        "protected": True,
        "on_duplicate": "ON_DUPLICATE_KEEP",
        "novelty_gate": "on",
    }

    assert read(json.dumps(line)) == [
        MemoryInput(
            content="Alice: The parcel is here.",
            id="0198c5f0-7d2e-7b3c-9a41-5f0e6d2c1b7a",
            kind=MemoryKind.FACT,
            metadata={"source": {"a": [1, None]}},
            tags=("post",),
            actor="Alice",
            session="s1",
            ordinal=0,
            occurred_at=datetime(2026, 2, 3, 20, 10, tzinfo=UTC),
            importance=1.0,
            confidence=0.25,
            valid_from=datetime(2026, 2, 3, tzinfo=UTC),
            valid_to=datetime(2026, 2, 4, tzinfo=UTC),
            expires_at=datetime(2026, 2, 5, tzinfo=UTC),
            provenance=Provenance(Origin.USER, ("https://example.org",), "planner"),
            protected=True,
            on_duplicate=OnDuplicate.KEEP,
            novelty_gate=NoveltyGate.ON,
        )
    ]


def test_the_fields_are_those_of_a_memory_input() -> None:
    without_place = {"media", "media_type", "ttl"}  # bytes have no place in JSON, and a file may be read at any time
    assert set(FIELDS) == {field.name for field in dataclasses.fields(MemoryInput)} - without_place


def test_null_leaves_a_field_out_and_empty_lines_are_nothing() -> None:
    assert read("", '{"content": "x", "actor": null}', "  ") == [MemoryInput("x")]


def test_a_broken_line_says_nothing_of_the_others() -> None:
    first, second, third = read('{"content": "a"}', "{", '{"content": "b"}')

    assert (first, third) == (MemoryInput("a"), MemoryInput("b"))
    assert isinstance(second, SourceError)
    assert str(second).startswith("notes.jsonl:2: not valid JSON: ")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"content": "x"', "not valid JSON: Expecting ',' delimiter at column 16"),
        ("[1]", "not a JSON object but a list"),
        ("null", "not a JSON object but null"),
        ("[" * 100_000, "not valid JSON: "),
        ('{"content": "x", "importance": NaN}', "not valid JSON: NaN is not a JSON number"),
        ("{}", "the field 'content' is missing"),
        ('{"content": null}', "the field 'content' is missing"),
        ('{"content": ""}', "content = '': allowed is a text that is not empty"),
        ('{"content": "' + "ä" * 51_201 + '"}', "content has 102402 bytes; allowed are at most 102400"),
        ('{"content": 7}', "content = 7: allowed is a text that is not empty"),
        ('{"content": "x", "text": 1}', f"unknown field 'text'; allowed are {', '.join(FIELDS)}"),
        ('{"content": "x", "id": "7"}', "id = '7': allowed is a UUID"),
        ('{"content": "x", "kind": "unknown"}', "kind = 'unknown': allowed is one of observation, fact, "),
        (
            '{"content": "x", "on_duplicate": "merge"}',
            "on_duplicate = 'merge': allowed is one of keep, reinforce, reject",
        ),
        ('{"content": "x", "protected": 1}', "protected = 1: allowed is true or false"),
        ('{"content": "x", "provenance": "web"}', "provenance = 'web': allowed is an object with origin, sources and"),
        ('{"content": "x", "provenance": {"url": "x"}}', "provenance = {'url': 'x'}: allowed is an object with origin"),
        ('{"content": "x", "provenance": {"origin": 1}}', "provenance.origin = 1: allowed is one of user, agent, tool"),
        ('{"content": "x", "provenance": {"sources": "x"}}', "provenance.sources = 'x': allowed is a list of texts"),
        ('{"content": "x", "metadata": []}', "metadata = []: allowed is an object"),
        ('{"content": "x", "tags": "a"}', "tags = 'a': allowed is a list of texts"),
        ('{"content": "x", "tags": [""]}', "tags = ['']: allowed is a list of texts that are not empty"),
        ('{"content": "x", "actor": 1}', "actor = 1: allowed is a text"),
        ('{"content": "x", "ordinal": -1}', "ordinal = -1: allowed is a whole number from 0"),
        ('{"content": "x", "ordinal": true}', "ordinal = True: allowed is a whole number from 0"),
        ('{"content": "x", "ordinal": 9223372036854775808}', "ordinal = 9223372036854775808: allowed is"),
        (
            '{"content": "x", "occurred_at": "2026-02-03"}',
            "occurred_at = '2026-02-03': allowed is a time with its zone",
        ),
        ('{"content": "x", "occurred_at": 5}', "occurred_at = 5: allowed is a time with its zone"),
        ('{"content": "x", "importance": 1.5}', "importance = 1.5: allowed is a number from 0 to 1"),
        ('{"content": "x", "confidence": true}', "confidence = True: allowed is a number from 0 to 1"),
        ('{"content": "x", "actor": ' + "9" * 200 + "}", "actor = 99999999"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(line: str, problem: str) -> None:
    found = problem_of(line)

    assert found.startswith(f"notes.jsonl:1: {problem}")
    assert len(found) < 300
