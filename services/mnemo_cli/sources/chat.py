"""Chats: one memory for each message.

Understood are, in a JSON list, one JSON object, or one object a line:

- messages: `{"role": "user", "content": "...", "timestamp": "..."}`, also with `speaker` and `text`;
- conversations `{"messages": [...]}` as language model APIs have them;
- conversations of the archives that ChatGPT (`mapping`) and Claude (`chat_messages`) export.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from mnemo_cli.sources.json_stream import read_elements
from mnemo_cli.sources.jsonl import parse_object
from mnemo_cli.sources.passages import cut
from mnemo_cli.sources.record import Place, SourceError
from mnemocore.client.values import Json, MemoryInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

    from mnemo_cli.sources.lines import Line
    from mnemo_cli.sources.record import Record

SPEAKER_FIELDS: Final = ("speaker", "name", "role", "author", "sender", "actor")
TEXT_FIELDS: Final = ("content", "text", "message")
TIME_FIELDS: Final = ("timestamp", "created_at", "create_time", "occurred_at", "time", "date")
SESSION_FIELDS: Final = ("session", "conversation_id", "thread_id", "id", "uuid")
TITLE_FIELDS: Final = ("title", "name")

MAX_MESSAGE: Final = 8000
"""Characters of a message that make one memory; a longer one makes several."""

_MILLISECONDS_FROM: Final = 1e11
"""Numbers from here on count milliseconds since 1970, smaller ones seconds."""


def read_lines_of_chat(lines: Iterable[Line], source: str) -> Iterator[Record]:
    """The messages of a file with one JSON object a line; a broken line says nothing of the others."""
    chat = _Chat(source)
    for line in lines:
        if not line.raw.strip():
            continue
        try:
            value = parse_object(line.text)
        except SourceError as error:
            yield line.place, error
        except ValueError as error:
            yield line.place, SourceError(line.place, str(error))
        else:
            yield from chat.read(line.place, value)


def read_document(file: BinaryIO, source: str) -> Iterator[Record]:
    """The messages of a JSON document. Raises SourceError where the document itself is broken."""
    chat = _Chat(source)
    for place, value in read_elements(file, source):
        yield from chat.read(place, value)


def looks_like_chat(fields: dict[str, Any]) -> bool:
    """Whether an object of a JSONL file is of a chat, not a MemoryInput."""
    return any(name in fields for name in ("role", "speaker", "messages", "mapping", "chat_messages"))


class _Chat:
    """Turns objects into memories, and numbers the messages of each session."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._ordinals: Counter[str] = Counter()

    def read(self, place: Place, value: dict[str, Any]) -> Iterator[Record]:
        """The memories of one object: a message or a conversation. Messages without text make none."""
        try:
            messages = _messages_of(value)
            if messages is None:
                session = _first_text(value, SESSION_FIELDS[:-2]) or self._source
                yield from self._message(place, value, session, {})
                return
        except ValueError as error:
            yield place, SourceError(place, str(error))
            return
        session = _first_text(value, SESSION_FIELDS) or f"{place}"
        title = _first_text(value, TITLE_FIELDS)
        for message in messages:
            yield from self._message(place, message, session, {"title": title} if title else {})

    def _message(self, place: Place, message: object, session: str, metadata: dict[str, Json]) -> Iterator[Record]:
        try:
            speaker, text, time = _parts_of(message)
        except ValueError as error:
            yield place, SourceError(place, str(error))
            return
        for piece in cut(text, MAX_MESSAGE):
            if not piece.strip():
                continue
            prefix = f"{speaker}: " if speaker and not piece.startswith(f"{speaker}:") else ""
            yield (
                place,
                MemoryInput(
                    content=prefix + piece.strip(),
                    actor=speaker,
                    session=session,
                    ordinal=self._ordinals[session],
                    occurred_at=time,
                    metadata={"source": self._source, "line": place.line, **metadata},
                ),
            )
            self._ordinals[session] += 1


def _messages_of(value: dict[str, Any]) -> list[Any] | None:
    """The messages of a conversation; None if `value` is none. Raises ValueError if its messages cannot be found."""
    if isinstance(value.get("mapping"), dict):
        return _spoken(_thread(value))
    for name in ("chat_messages", "messages"):
        if name in value:
            messages = value[name]
            if not isinstance(messages, list):
                raise ValueError(f"{name} is not a list of messages")
            return messages
    return None


def _thread(conversation: dict[str, Any]) -> list[Any]:
    """The messages of a ChatGPT conversation as it is shown: from the root to the current node, without branches."""
    nodes = conversation["mapping"]
    key = conversation.get("current_node")
    if key not in nodes:
        key = next(reversed(nodes), None)
    path: list[Any] = []
    seen = set()
    while isinstance(nodes.get(key), dict) and key not in seen:
        seen.add(key)
        path.append(nodes[key].get("message"))
        key = nodes[key].get("parent")
    return path[::-1]


def _spoken(messages: list[Any]) -> list[Any]:
    """What people and the assistant said: without instructions, and without what tools answered."""
    return [
        message
        for message in messages
        if isinstance(message, dict) and _speaker(message) in ("user", "assistant") and _text(message) is not None
    ]


def _parts_of(message: object) -> tuple[str, str, datetime | None]:
    """Speaker ("" if nobody is named), text and time of a message. Raises ValueError that names what is missing."""
    if not isinstance(message, dict):
        raise ValueError(f"a message is not a JSON object but {str(message)[:40]!r}")
    if not any(name in message for name in TEXT_FIELDS):
        raise ValueError(f"a message has none of the fields {', '.join(TEXT_FIELDS)}")
    return _speaker(message), (_text(message) or "").strip(), _time(message)


def _speaker(message: dict[str, Any]) -> str:
    for name in SPEAKER_FIELDS:
        value = message.get(name)
        if isinstance(value, dict):
            value = value.get("name") or value.get("role")
        if isinstance(value, str) and value.strip():
            return value.strip()
    return ""


def _text(message: dict[str, Any]) -> str | None:
    """The text of a message; None if it has none, as a call of a tool."""
    for name in TEXT_FIELDS:
        if text := _flat(message.get(name)):
            return text
    return None


def _flat(content: object) -> str:
    """The texts in `content`: a text, a list of parts, or an object with `text`, `content` or `parts`."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n\n".join(filter(None, map(_flat, content)))
    if isinstance(content, dict):
        return next(filter(None, (_flat(content.get(name)) for name in ("text", "parts", "content"))), "")
    return ""


def _time(message: dict[str, Any]) -> datetime | None:
    """When it was said: RFC 3339 or seconds or milliseconds since 1970. A time without a zone counts as UTC."""
    name = next((name for name in TIME_FIELDS if message.get(name) is not None), None)
    if name is None:
        return None
    value = message[name]
    try:
        if isinstance(value, str):
            time = datetime.fromisoformat(value)
            return time if time.tzinfo else time.replace(tzinfo=UTC)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return datetime.fromtimestamp(value / 1000 if abs(value) >= _MILLISECONDS_FROM else value, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    raise ValueError(f"{name} = {str(value)[:40]!r}: allowed is a time such as '2026-01-31T12:00:00Z'")


def _first_text(value: dict[str, Any], names: Iterable[str]) -> str:
    return next((value[name] for name in names if isinstance(value.get(name), str) and value[name]), "")
