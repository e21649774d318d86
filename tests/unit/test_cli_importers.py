"""Memories of other systems as records of an import."""

from __future__ import annotations

import json
import sys
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from mnemo_cli import transfer_files
from mnemo_cli.failure import Failure
from mnemo_cli.importers import read_foreign
from mnemocore.ids import is_uuid
from mnemocore.memory.v1 import resources_pb2
from mnemocore.memory.v1 import transfer_service_pb2 as pb

if TYPE_CHECKING:
    from pathlib import Path

CHATGPT = {
    "id": "conversation-1",
    "title": "Tea",
    "current_node": "b",
    "mapping": {
        "a": {"message": {"author": {"role": "user"}, "content": {"parts": ["Which tea?"]}, "create_time": 1.7e9}},
        "b": {"parent": "a", "message": {"author": {"role": "assistant"}, "content": {"parts": ["Green 🍵"]}}},
    },
}
CLAUDE = {"uuid": "c", "name": "T", "chat_messages": [{"sender": "human", "text": "x" * 20_000}]}


def memories(path: Path, content: Any, origin: str, space: str = "s") -> list[Any]:
    path.write_text(json.dumps(content))
    return [record.memory for record in read_foreign(path, space, origin)]


def test_a_conversation_of_chatgpt(tmp_path: Path) -> None:
    first, second = memories(tmp_path / "conversations.json", [CHATGPT], "chatgpt")
    assert (first.content, first.actor, first.session) == ("user: Which tea?", "user", "conversation-1")
    assert second.content == "assistant: Green 🍵"
    assert first.occurred_at.seconds == 1_700_000_000
    assert first.provenance.origin == resources_pb2.ORIGIN_IMPORT
    assert first.metadata["title"] == "Tea"


def test_a_long_message_of_claude_is_cut(tmp_path: Path) -> None:
    found = memories(tmp_path / "conversations.json", [CLAUDE], "claude")
    assert len(found) == 3
    assert len({memory.name for memory in found}) == 3


def test_the_same_file_has_the_same_ids(tmp_path: Path) -> None:
    once = memories(tmp_path / "a.json", [CHATGPT], "chatgpt")
    moved = memories(tmp_path / "b.json", [CLAUDE, CHATGPT], "chatgpt")
    assert [memory.name for memory in moved[-2:]] == [memory.name for memory in once]
    other = memories(tmp_path / "a.json", [CHATGPT], "chatgpt", space="t")
    assert {memory.name for memory in other}.isdisjoint(memory.name for memory in once)


def test_an_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("export/conversations.json", json.dumps([CHATGPT]))
    assert len(list(read_foreign(tmp_path / "a.zip", "s", "chatgpt"))) == 2
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("other.json", "[]")
    with pytest.raises(Failure, match="the archive has no conversations"):
        list(read_foreign(tmp_path / "b.zip", "s", "chatgpt"))


@pytest.mark.parametrize("nested", [True, False])
def test_an_export_of_mem0(tmp_path: Path, nested: bool) -> None:
    memory = {"id": "x", "memory": "Likes tea", "user_id": "u", "run_id": "r", "metadata": {"k": 1}}
    dated = {"text": "Dated", "created_at": "2025-01-01T00:00:00Z"}
    content: Any = {"results": [memory, dated]} if nested else [memory, dated]
    first, second = memories(tmp_path / "a.json", content, "mem0")
    assert (first.content, first.actor, first.session, first.metadata["k"]) == ("Likes tea", "u", "r", 1)
    assert first.kind == resources_pb2.MEMORY_KIND_FACT
    assert all(is_uuid(each.name.rpartition("/")[2]) for each in (first, second))
    assert second.create_time.seconds == 1_735_689_600


@pytest.mark.parametrize(("content", "says"), [([{"id": "x"}], "none of the fields"), ({"results": [1]}, "not a JSON")])
def test_what_is_broken_is_named(tmp_path: Path, content: Any, says: str) -> None:
    with pytest.raises(Failure, match=says):
        memories(tmp_path / "a.json", content, "mem0")


def test_any_record_is_the_same_in_a_line() -> None:
    record = pb.TransferRecord(reliability_alpha=1.5)
    record.memory.content = "🦊 \u2028 naïve\n"
    record.memory.occurred_at.seconds = -62_135_596_800
    line = transfer_files.to_line(record)
    assert line.count(b"\n") == 1
    assert transfer_files.from_line(line, "here") == record


def test_parquet_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(Failure, match=r"pip install mnemocore\[parquet\]"):
        transfer_files.arrow()
