"""Nothing that an encrypted space holds can be read from the disk or the log of a real installation.

Every field that a caller can fill gets a word of its own, in an encrypted space and in one that is not. Afterwards
every file of the data directory (tables, write-ahead log, server log, event log, index) is searched for the words in
every form they might have. Those of the open space must be found, or the search is worth nothing; of the others, none.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct

from mnemo_embedded.local import open_embedded
from mnemocore.client import ResilientChannel
from mnemocore.common.v1 import resources_pb2 as common_pb2
from mnemocore.errors import InvalidSettingError, KeyUnavailableError, MnemoError
from mnemocore.memory.v1 import (
    memory_service_pb2,
    memory_service_pb2_grpc,
    resources_pb2,
    session_service_pb2,
    session_service_pb2_grpc,
    space_service_pb2,
    space_service_pb2_grpc,
    working_memory_service_pb2,
    working_memory_service_pb2_grpc,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    import grpc

pytestmark = pytest.mark.timeout(300)
FRESH = common_pb2.Consistency(fully_consistent=True)
FIELDS = (
    *("content", "updated", "archived", "superseded", "erased"),
    *("metadata_key", "metadata_value", "nested_value", "tag", "actor", "session", "source", "agent", "medium"),
    *("item", "item_agent", "item_session", "item_tag"),
    *("session_agent", "session_key", "session_value", "checkpoint_label", "checkpoint_key", "checkpoint_value"),
)


class Words:
    """A word for every field of a space, such as no file has by accident."""

    def __init__(self) -> None:
        self._words = {field: f"{field.replace('_', '')}x{secrets.token_hex(10)}" for field in FIELDS}

    def __getitem__(self, field: str) -> str:
        return self._words[field]

    def __iter__(self) -> Iterator[str]:
        return iter(self._words.values())


class Space:
    """The calls about one space of an installation."""

    def __init__(self, channel: grpc.aio.Channel, slug: str) -> None:
        self.name = f"spaces/{slug}"
        self._slug = slug
        self._spaces = space_service_pb2_grpc.SpaceServiceStub(channel)
        self._memories = memory_service_pb2_grpc.MemoryServiceStub(channel)
        self._working = working_memory_service_pb2_grpc.WorkingMemoryServiceStub(channel)
        self._sessions = session_service_pb2_grpc.SessionServiceStub(channel)

    async def make(self, *, encrypted: bool) -> None:
        await self._spaces.CreateSpace(
            space_service_pb2.CreateSpaceRequest(space_id=self._slug, encrypted=encrypted, request_id=_request_id())
        )

    async def remember(self, item: dict[str, Any]) -> str:
        """Write a memory; returns its name."""
        request = memory_service_pb2.CreateMemoryRequest(parent=self.name, request_id=_request_id())
        ParseDict(item, request.memory)
        return str((await self._memories.CreateMemory(request)).memory.name)

    async def fill(self, words: Words) -> None:
        """Put every word somewhere, and change, replace, archive and erase some memories."""
        name = await self.remember(
            {
                "content": f"hidden {words['content']} here",
                "metadata": {words["metadata_key"]: words["metadata_value"], "deep": {"list": [words["nested_value"]]}},
                "tags": [words["tag"]],
                "actor": words["actor"],
                "session": words["session"],
                "media": {"data": base64.b64encode(medium_of(words["medium"])).decode(), "mime_type": "text/plain"},
                "provenance": {"sources": [words["source"]], "agent": words["agent"]},
            }
        )
        await self._memories.UpdateMemory(
            memory_service_pb2.UpdateMemoryRequest(
                name=name,
                memory=resources_pb2.MemoryInput(content=f"changed {words['updated']} later"),
                update_mask=FieldMask(paths=["content"]),
            )
        )
        archived = await self.remember({"content": f"put away {words['archived']}"})
        await self._memories.DeleteMemory(memory_service_pb2.DeleteMemoryRequest(name=archived))
        old = await self.remember({"content": f"once {words['superseded']}"})
        await self._memories.SupersedeMemory(
            memory_service_pb2.SupersedeMemoryRequest(
                name=old, memory=resources_pb2.MemoryInput(content=f"now not {words['content']}")
            )
        )
        erased = await self.remember({"content": f"wrong {words['erased']}"})
        await self._memories.DeleteMemory(memory_service_pb2.DeleteMemoryRequest(name=erased, purge=True))
        await self._fill_mind(words)

    async def _fill_mind(self, words: Words) -> None:
        await self._working.PushWorkingItem(
            working_memory_service_pb2.PushWorkingItemRequest(
                parent=self.name,
                agent=words["item_agent"],
                session=words["item_session"],
                memory=resources_pb2.MemoryInput(content=f"thinking {words['item']}", tags=[words["item_tag"]]),
            )
        )
        await self._sessions.StartSession(
            session_service_pb2.StartSessionRequest(
                parent=self.name,
                session_id=words["session"],
                agent=words["session_agent"],
                metadata=_struct({words["session_key"]: words["session_value"]}),
            )
        )
        await self._sessions.CreateCheckpoint(
            session_service_pb2.CreateCheckpointRequest(
                parent=self.name,
                session_id=words["session"],
                label=words["checkpoint_label"],
                state=_struct({words["checkpoint_key"]: [words["checkpoint_value"]]}),
            )
        )

    async def recall(self, query: str, **filters: Any) -> list[str]:
        """Contents of what recall finds, best first, in a state with everything written so far."""
        request = memory_service_pb2.RecallMemoriesRequest(parent=self.name, query=query, consistency=FRESH)
        ParseDict(filters, request.filter)
        return [each.memory.content for each in (await self._memories.RecallMemories(request)).results]

    async def rotate(self) -> space_service_pb2.RotateSpaceKeyResponse:
        response: space_service_pb2.RotateSpaceKeyResponse = await self._spaces.RotateSpaceKey(
            space_service_pb2.RotateSpaceKeyRequest(name=self.name)
        )
        return response


def _struct(value: dict[str, Any]) -> Struct:
    message = Struct()
    message.update(value)
    return message


def _request_id() -> str:
    return str(uuid4())


@asynccontextmanager
async def installed(directory: Path) -> AsyncIterator[grpc.aio.Channel]:
    """An installation in this process, as `connect("embedded:...")` opens it."""
    async with open_embedded(directory) as opened:
        assert opened.channel is not None
        yield ResilientChannel(opened.channel, opened.target)


def write_keys(path: Path, *ids: str) -> None:
    """Write the master keys of some ids; a key is the same wherever its id is."""
    keys = [base64.b64encode(hashlib.sha256(id.encode()).digest()).decode() for id in ids]
    write_lines(path, *(f"{id} {key}" for id, key in zip(ids, keys, strict=True)))


def write_lines(path: Path, *lines: str) -> None:
    """Put a file that only its owner may read in the place of what is there."""
    draft = path.with_suffix(".new")
    draft.touch(mode=0o600)
    draft.write_text("\n".join(lines))
    draft.rename(path)


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file with the master keys, named in the environment."""
    path = tmp_path / "master.keys"
    write_keys(path, "first")
    monkeypatch.setenv("MNEMO_MEMORY_MASTER_KEYS_FILE", str(path))
    return path


def medium_of(word: str) -> bytes:
    """The medium that holds a word."""
    return f"a text of {word}\n".encode()


def forms(word: str) -> Iterator[bytes]:
    """What a word may look like in a file."""
    plain = word.encode()
    yield plain[1:-1]
    yield word.encode("utf-16-le")
    yield word.encode("utf-16-be")
    yield plain.hex().encode()
    yield plain.hex().upper().encode()
    for shift in range(3):  # base64 depends on where in its groups of three bytes a text begins
        encoded = base64.b64encode(b" " * shift + plain)
        yield encoded[4:-4]
        yield encoded[4:-4].replace(b"+", b"-").replace(b"/", b"_")
    for text in (plain, json.dumps(word).encode(), medium_of(word)):
        yield hashlib.sha256(text).digest()
        yield hashlib.sha256(text).hexdigest().encode()


def found_in(words: Words, text: bytes) -> set[str]:
    """The words that stand in some bytes in one form or another."""
    return {word for word in words if any(form in text for form in forms(word))}


def found_on_disk(words: Words, directory: Path) -> dict[str, set[str]]:
    """The words that stand in files, by the paths of the files."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and (words_there := found_in(words, path.read_bytes())):
            found[str(path.relative_to(directory))] = words_there
    return found


async def test_what_an_encrypted_space_holds_is_nowhere_to_be_read(
    tmp_path: Path, key_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    directory = tmp_path / "data"
    hidden, shown, asked = Words(), Words(), Words()
    async with installed(directory) as channel:
        vault, notes = Space(channel, "vault"), Space(channel, "notes")
        await vault.make(encrypted=True)
        await notes.make(encrypted=False)
        for space, words in ((vault, hidden), (notes, shown)):
            await space.fill(words)
            assert await space.recall(f"what was changed {asked['content']}")
            assert await space.recall("changed", actors=[words["actor"]], tags=[words["tag"]]) == [
                f"changed {words['updated']} later"
            ]
        with pytest.raises(MnemoError):
            await vault.recall(asked["updated"], actors=[asked["actor"]] * 1000)
    async with installed(directory) as channel:
        vault = Space(channel, "vault")
        assert f"changed {hidden['updated']} later" in await vault.recall("changed later")
        rotated = await vault.rotate()
        assert rotated.sealed_again > 0
        assert f"changed {hidden['updated']} later" in await vault.recall("changed later")
    async with installed(directory) as channel:
        assert f"changed {hidden['updated']} later" in await Space(channel, "vault").recall("changed later")

    control = await asyncio.to_thread(found_on_disk, shown, directory)
    assert set().union(*control.values()) == set(shown), "the search finds what is there"
    assert {path.split("/")[0] for path in control} >= {"postgres", "index"}
    assert await asyncio.to_thread(found_on_disk, hidden, directory) == {}
    assert await asyncio.to_thread(found_on_disk, asked, directory) == {}
    for words in (hidden, shown, asked):
        assert not found_in(words, caplog.text.encode()), "no log shows what is remembered"


async def test_without_its_master_key_a_space_is_closed_and_the_others_work(tmp_path: Path, key_file: Path) -> None:
    directory = tmp_path / "data"
    async with installed(directory) as channel:
        for slug, encrypted in (("vault", True), ("notes", False)):
            await Space(channel, slug).make(encrypted=encrypted)
            await Space(channel, slug).remember({"content": f"the key of {slug}"})
    write_keys(key_file, "second")
    async with installed(directory) as channel:
        vault, notes = Space(channel, "vault"), Space(channel, "notes")
        with pytest.raises(KeyUnavailableError, match="master key 'first' is not configured") as caught:
            await vault.recall("key")
        assert caught.value.metadata["key"] == "first"
        with pytest.raises(KeyUnavailableError):
            await vault.remember({"content": "more"})
        assert await notes.recall("key") == ["the key of notes"]
        other = Space(channel, "other")
        await other.make(encrypted=True)
        write_keys(key_file, "second", "first")
        assert await vault.recall("key") == ["the key of vault"], "the file is read while the installation runs"
    write_lines(key_file, "first AAAA")
    with pytest.raises(InvalidSettingError, match=r"line 1 has a key of 3 bytes; allowed are 32"):
        async with installed(directory):
            pass


async def test_without_any_master_key_nothing_is_encrypted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MNEMO_MEMORY_MASTER_KEYS_FILE", raising=False)
    async with installed(tmp_path / "data") as channel:
        with pytest.raises(KeyUnavailableError, match="no master key is configured"):
            await Space(channel, "vault").make(encrypted=True)
        await Space(channel, "notes").make(encrypted=False)
