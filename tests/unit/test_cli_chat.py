"""Chats in their various forms."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemo_cli.sources import chat, json_stream
from mnemo_cli.sources.lines import read_lines
from mnemo_cli.sources.record import SourceError
from mnemocore.client import MemoryInput

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def document(value: Any, **options: Any) -> list[MemoryInput | SourceError]:
    data = io.BytesIO(json.dumps(value, **options).encode())
    return [found for _, found in chat.read_document(data, "chat.json")]


def lines(*values: Any) -> list[MemoryInput | SourceError]:
    data = io.BytesIO("\n".join(json.dumps(value) for value in values).encode())
    return [found for _, found in chat.read_lines_of_chat(read_lines(data, "chat.jsonl"), "chat.jsonl")]


def facts(found: list[MemoryInput | SourceError]) -> list[tuple[str, str, str, int | None]]:
    return [(item.content, item.actor, item.session, item.ordinal) for item in found if isinstance(item, MemoryInput)]


MESSAGES = [
    {"role": "user", "content": "Where is it?", "timestamp": "2026-01-31T12:00:00Z"},
    {"speaker": "Noor", "text": "In the shed.", "created_at": NOON.timestamp()},
    {
        "role": "assistant",
        "content": [{"type": "text", "text": "Locked."}, {"type": "image"}],
        "date": "2026-01-31 12:00",
    },
    {"role": "assistant", "content": None, "tool_calls": []},
    {"role": "user", "content": "user: Thanks.", "time": NOON.timestamp() * 1000},
]
CONTENTS = ["user: Where is it?", "Noor: In the shed.", "assistant: Locked.", "user: Thanks."]


@pytest.mark.parametrize("indent", [None, 2])
def test_a_list_of_messages_is_a_session(indent: int | None) -> None:
    found = document(MESSAGES, indent=indent)

    assert [content for content, *_ in facts(found)] == CONTENTS
    assert [item.occurred_at for item in found if isinstance(item, MemoryInput)] == [NOON] * 4
    assert facts(found)[1] == ("Noor: In the shed.", "Noor", "chat.json", 1)


def test_a_line_may_be_a_message() -> None:
    assert facts(lines(*MESSAGES))[3] == ("user: Thanks.", "user", "chat.jsonl", 3)


def test_a_line_may_be_a_conversation() -> None:
    found = lines({"messages": MESSAGES[:2]}, {"id": "c2", "messages": MESSAGES[4:]})

    assert [(session, ordinal) for _, _, session, ordinal in facts(found)] == [
        ("chat.jsonl:1", 0),
        ("chat.jsonl:1", 1),
        ("c2", 0),
    ]


def test_the_archive_of_claude() -> None:
    conversation = {
        "uuid": "u1",
        "name": "Shed",
        "chat_messages": [
            {
                "sender": "human",
                "text": "Hi",
                "content": [{"type": "text", "text": "Hi"}],
                "created_at": "2026-01-31T12:00:00Z",
            },
            {"sender": "assistant", "text": "", "content": [{"type": "text", "text": "Hello"}]},
        ],
    }

    found = document([conversation])

    assert facts(found) == [("human: Hi", "human", "u1", 0), ("assistant: Hello", "assistant", "u1", 1)]
    assert isinstance(found[0], MemoryInput)
    assert found[0].metadata == {"source": "chat.json", "line": 1, "title": "Shed"}


def node(parent: str | None, role: str, *parts: object, name: str | None = None) -> dict[str, Any]:
    author = {"role": role, "name": name}
    message = {
        "author": author,
        "content": {"content_type": "text", "parts": [*parts]},
        "create_time": NOON.timestamp(),
    }
    return {"parent": parent, "message": message}


def test_the_archive_of_chatgpt_follows_the_branch_that_is_shown() -> None:
    mapping = {
        "root": {"parent": None, "message": None},
        "system": node("root", "system", "Be kind."),
        "q": node("system", "user", "Where?", {"image": 1}),
        "old": node("q", "assistant", "There."),
        "new": node("q", "assistant", "Here."),
        "tool": node("new", "tool", "{}", name="browser"),
        "empty": node("tool", "assistant", ""),
    }
    conversation = {"title": "Shed", "conversation_id": "c1", "current_node": "empty", "mapping": mapping}

    found = document([conversation])

    assert facts(found) == [("user: Where?", "user", "c1", 0), ("assistant: Here.", "assistant", "c1", 1)]


def test_a_circle_in_an_archive_ends() -> None:
    mapping = {"a": node("b", "user", "one"), "b": node("a", "user", "two")}

    assert len(document({"mapping": mapping})) == 2


def test_a_long_message_makes_several_memories_of_the_same_speaker() -> None:
    found = facts(document([{"role": "user", "content": "word " * 4000}]))

    assert len(found) == 3
    assert all(content.startswith("user: word") and len(content) <= chat.MAX_MESSAGE + 6 for content, *_ in found)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"role": "user"}, "a message has none of the fields content, text, message"),
        ({"messages": 5}, "messages is not a list of messages"),
        ({"messages": ["x"]}, "a message is not a JSON object but 'x'"),
        ({"text": "x", "timestamp": "yesterday"}, "timestamp = 'yesterday': allowed is a time such as"),
        ({"text": "x", "timestamp": 1e300}, "timestamp = '1e+300': allowed is a time such as"),
        ({"text": "x", "timestamp": True}, "timestamp = 'True': allowed is a time such as"),
    ],
)
def test_a_broken_message_says_nothing_of_the_others(value: Any, problem: str) -> None:
    first, second = document([value, {"text": "fine"}])

    assert isinstance(first, SourceError)
    assert str(first).startswith(f"chat.json:1: {problem}")
    assert isinstance(second, MemoryInput)


@pytest.mark.parametrize(
    ("text", "good", "problem"),
    [
        ("", 0, "a JSON object expected, not the end"),
        ("7", 0, "a JSON object expected, found '7'"),
        ('[{"text": "a"},\n 5]', 1, "chat.json:2: a JSON object expected, found '5'"),
        ('[{"text": "a"},\n\n {"text": }]', 1, "chat.json:3: not valid JSON: Expecting value at column 11"),
        ('[{"text": "a"} {"text": "b"}]', 1, "',' or ']' expected, found '{'"),
        ('[{"text": "a"}', 1, "the list is cut off"),
        ('[{"text": "a"},', 1, "a JSON object expected, not the end"),
        ('[{"text": "a"}, {"text": "b"', 1, "not valid JSON: "),
    ],
)
def test_where_a_document_is_broken_is_named_after_what_is_good(text: str, good: int, problem: str) -> None:
    found = chat.read_document(io.BytesIO(text.encode()), "chat.json")

    assert len([next(found) for _ in range(good)]) == good
    with pytest.raises(SourceError) as caught:
        next(found)
    assert problem in str(caught.value)


def test_what_is_not_utf8_is_named_with_its_offset() -> None:
    with pytest.raises(SourceError, match=r"chat\.json: not UTF-8: byte 0xff at offset 11"):
        list(chat.read_document(io.BytesIO(b'[{"text": "\xff"}]'), "chat.json"))


class OneByteAtATime(io.RawIOBase):
    """A slow source: each read gives one byte."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int = -1, /) -> bytes:
        return self._data.read(1)


@given(st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=20) | st.integers() | st.none()), max_size=8))
def test_elements_are_the_same_however_they_arrive(elements: list[dict[str, Any]]) -> None:
    data = json.dumps(elements, ensure_ascii=False).encode()

    found = [value for _, value in json_stream.read_elements(OneByteAtATime(data), "x.json")]  # type: ignore[arg-type]

    assert found == elements


@given(st.lists(st.text(min_size=1, max_size=200), max_size=8))
def test_splitting_loses_no_text(texts: list[str]) -> None:
    found = facts(document([{"text": text} for text in texts]))

    assert [content for content, *_ in found] == [text.strip() for text in texts if text.strip()]
