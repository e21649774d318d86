"""What commands send and print, against a real server on a socket that answers as it is told."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result
from tests.client_server import TestServer, serving_in_a_thread

from mnemo_cli.main import cli
from mnemocore.memory.v1 import resources_pb2
from mnemocore.sync import connect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MEMORY_ID = "0198c5f0-7d2e-7b3c-9a41-5f0e6d2c1b7a"
NAME = f"spaces/a/memories/{MEMORY_ID}"


class Commands:
    """Runs commands of `mnemo` on a server with the empty space `a`."""

    def __init__(self, server: TestServer) -> None:
        self.server = server
        with connect(server.target) as connection:
            mnemo: Any = connection
            mnemo.create_space("a")

    def run(self, *arguments: str, stdin: str | bytes | None = None) -> Result:
        return CliRunner().invoke(cli, [*arguments, "--address", self.server.target], input=stdin, prog_name="mnemo")

    def good(self, *arguments: str, stdin: str | bytes | None = None) -> str:
        done = self.run(*arguments, stdin=stdin)
        assert done.exit_code == 0, done.output
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.good(*arguments, "--json"))

    def sent(self, method: str) -> Any:
        return self.server.desk.calls(method)[-1].request


@pytest.fixture
def mnemo() -> Iterator[Commands]:
    with serving_in_a_thread() as (server, _):
        yield Commands(server)


def test_remember_what_was_typed(mnemo: Commands) -> None:
    before = datetime.now(UTC)
    shown = mnemo.good(
        "remember",
        *("--space", "a", "The boat is blue.", "--kind", "fact", "--tag", "x", "--tag", "y", "--actor", "Noor"),
        *("--session", "s1", "--ordinal", "3", "--importance", "0.75", "--ttl", "2h", "--metadata", '{"k": [1]}'),
        *("--origin", "user", "--source", "https://example.org", "--on-duplicate", "keep", "--protected"),
    )

    item = mnemo.sent("CreateMemory").memory
    assert shown.startswith("kept spaces/a/memories/")
    assert (item.content, item.kind, list(item.tags)) == (
        "The boat is blue.",
        resources_pb2.MEMORY_KIND_FACT,
        ["x", "y"],
    )
    assert (item.actor, item.session, item.ordinal, item.importance) == ("Noor", "s1", 3, 0.75)
    assert before + timedelta(hours=2) <= item.expires_at.ToDatetime(tzinfo=UTC)
    assert item.metadata["k"] == [1]
    assert (item.provenance.origin, list(item.provenance.sources)) == (1, ["https://example.org"])
    assert (item.on_duplicate, item.protected) == (resources_pb2.ON_DUPLICATE_KEEP, True)


def test_remember_what_comes_in(mnemo: Commands, tmp_path: Path) -> None:
    mnemo.good("remember", "--space", "a", "-", stdin="two\nlines\n")
    assert mnemo.sent("CreateMemory").memory.content == "two\nlines"
    broken = mnemo.run("remember", "--space", "a", "-", stdin=b"\xff")
    assert (broken.exit_code, "not UTF-8" in broken.output) == (2, True)
    note = tmp_path / "note.txt"
    note.write_bytes(b"abc")
    kept = mnemo.json("remember", "--space", "a", "a note", "--media", str(note), "--media-type", "text/plain")
    assert (kept["memory"]["content"], kept["duplicate"], kept["novelty"]) == ("a note", False, None)
    assert mnemo.sent("UploadMedia").mime_type == "text/plain"
    assert mnemo.sent("CreateMemory").memory.media.upload == "spaces/a/media/m"


def test_list_and_history(mnemo: Commands) -> None:
    for number in range(3):
        mnemo.good("remember", "--space", "a", f"memory\n{number}", "--kind", "fact")

    rows = mnemo.good("list", "--space", "a", "--limit", "2", "--state", "active", "--tag", "t").splitlines()
    assert rows[0].split() == ["MEMORY", "STATE", "KIND", "HAPPENED", "ACTOR", "CONTENT"]
    assert [row.endswith(f"memory {number}") for row, number in zip(rows[1:], (2, 1), strict=True)] == [True, True]
    assert list(mnemo.sent("ListMemories").filter.tags) == ["t"]
    listed = mnemo.json("list", "--space", "a", "--valid-at", "2026-01-01", "--min-importance", "0.5")
    assert [memory["content"] for memory in listed] == ["memory\n2", "memory\n1", "memory\n0"]
    changes = mnemo.good("history", "--space", "a", "--as-of", "2026-01-31").splitlines()
    assert len(changes) == 4
    assert mnemo.sent("ListRevisions").parent == "spaces/a"
    assert mnemo.json("history", f"spaces/a/memories/{listed[0]['id']}", "--limit", "1")[0]["change"] == "created"


def test_changes(mnemo: Commands) -> None:
    assert mnemo.good("update", NAME, "--content", "-", "--tag", "t", "--clear", "actor", stdin="new") == (
        f"updated {NAME}\n"
    )
    update = mnemo.sent("UpdateMemory")
    assert sorted(update.update_mask.paths) == ["actor", "content", "tags"]
    assert (update.memory.content, list(update.memory.tags), update.memory.actor) == ("new", ["t"], "")
    assert mnemo.json("update", NAME, "--expires", "2030-01-01", "--etag", "e1")["id"] == MEMORY_ID
    assert mnemo.sent("UpdateMemory").etag == "e1"
    assert mnemo.good("feedback", NAME, "--bad", "--weight", "2", "--reason", "wrong") == f"recorded for {NAME}\n"
    said = mnemo.sent("RecordFeedback")
    assert (said.positive, said.weight, said.reason) == (False, 2.0, "wrong")
    assert mnemo.good("protect", MEMORY_ID, "--space", "a") == f"protected {NAME}\n"
    assert mnemo.good("protect", MEMORY_ID, "--space", "a", "--off") == f"unprotected {NAME}\n"
    assert [seen.request.protected for seen in mnemo.server.desk.calls("ProtectMemory")] == [True, False]


def test_supersede_keeps_the_kind(mnemo: Commands) -> None:
    old = mnemo.json("remember", "--space", "a", "Alice lives in Porto.", "--kind", "fact")["memory"]["id"]
    shown = mnemo.good("supersede", old, "Alice lives in Lisbon.", "--space", "a", "--valid-from", "2026-03-01")

    sent = mnemo.sent("SupersedeMemory")
    assert shown == f"superseded by {NAME}\n"
    assert (sent.name, sent.memory.kind) == (f"spaces/a/memories/{old}", resources_pb2.MEMORY_KIND_FACT)
    mnemo.good("supersede", old, "I think so.", "--space", "a", "--kind", "observation")
    assert mnemo.sent("SupersedeMemory").memory.kind == resources_pb2.MEMORY_KIND_OBSERVATION


def test_recall_asks_for_all_that_is_given(mnemo: Commands) -> None:
    mnemo.good("remember", "--space", "a", "x")
    mnemo.good(
        *("recall", "--space", "a", "x", "--profile", "graph", "--state", "active", "--state", "superseded"),
        *("--valid-at", "2026-01-01", "--known-at", "2026-02-01T12:00:00Z", "--min-score", "0.25", "--kind", "fact"),
    )

    sent = mnemo.sent("RecallMemories")
    assert (sent.profile, list(sent.states), sent.min_score) == (resources_pb2.RECALL_PROFILE_GRAPH, [1, 3], 0.25)
    assert sent.known_at.ToDatetime(tzinfo=UTC) == datetime(2026, 2, 1, 12, tzinfo=UTC)
    assert sent.filter.valid_at.ToDatetime(tzinfo=UTC) == datetime(2026, 1, 1, tzinfo=UTC)


def test_get_shows_what_a_memory_is(mnemo: Commands) -> None:
    kept = mnemo.json("remember", "--space", "a", "The boat is blue.")["memory"]["id"]
    stored = mnemo.server.book.spaces["spaces/a"][kept]
    stored.protected, stored.strength, stored.access_count = True, 0.5, 3
    stored.superseded_by = NAME
    stored.provenance.origin, stored.media.name = resources_pb2.ORIGIN_TOOL, "spaces/a/media/m"
    stored.valid_to.FromDatetime(datetime(2026, 1, 1, tzinfo=UTC))
    lines = mnemo.good("get", kept, "--space", "a", "--as-of", "2026-05-05").splitlines()

    assert {"protected: yes", "strength: 0.500", "uses: 3", f"superseded by: {MEMORY_ID}", "origin: tool"} <= {*lines}
    assert "valid to: 2026-01-01 00:00:00Z" in lines
    assert any(line.startswith("media: ") for line in lines)
    assert not any(line.startswith(("supersedes", "expires", "sources")) for line in lines)
    assert mnemo.sent("GetMemory").as_of.ToDatetime(tzinfo=UTC) == datetime(2026, 5, 5, tzinfo=UTC)


def test_spaces(mnemo: Commands) -> None:
    mnemo.good("spaces", "create", "b", "--encrypted", "--novelty-gate", "on", "--max-memories", "10")
    made = mnemo.sent("CreateSpace")
    assert (made.encrypted, made.policy.limits.max_memories) == (True, 10)
    assert not mnemo.sent("CreateSpace").policy.HasField("retention")
    mnemo.good("spaces", "update", "a", "--description", "d", "--erase-expired-after", "7d", "--max-bytes", "none")
    first, second = (seen.request for seen in mnemo.server.desk.calls("UpdateSpace"))
    assert list(first.update_mask.paths) == ["description"]
    assert sorted(second.update_mask.paths) == ["policy.limits.max_bytes", "policy.retention.erase_expired_after"]
    assert mnemo.json("spaces", "show", "a")["policy"]["access"] == "tenant"
    assert "kinds: none\n" in mnemo.good("spaces", "stats", "a", "--days", "7")
    assert mnemo.json("spaces", "stats", "a")["content_bytes"] == 7
    assert mnemo.good("spaces", "delete", "a") == "deleted a\n"
    assert mnemo.good("spaces", "rotate-key", "a").startswith("a is encrypted with key k2, 4 records")
    assert mnemo.good("spaces", "erasures").splitlines()[1].split()[0] == "r"


def test_nothing_is_erased_without_its_name(mnemo: Commands) -> None:
    assert mnemo.run("erase", "a").exit_code == 2
    assert mnemo.run("erase", "a", "--confirm", "b").exit_code == 2
    assert mnemo.server.desk.calls("EraseSpace") == []
    receipt = mnemo.json("erase", "a", "--confirm", "a", "--reason", "asked for")
    assert (receipt["id"], receipt["memories"], receipt["log_erase_time"]) == ("r", 1, None)
    assert (mnemo.sent("EraseSpace").confirm, mnemo.sent("EraseSpace").reason) == ("a", "asked for")
    assert "event log: not confirmed yet\n" in mnemo.good("erase", "a", "--confirm", "a")


def test_sharing(mnemo: Commands) -> None:
    shared = mnemo.good(
        *("share", "add", "a", "p", "--role", "annotate", "--tenant", "other", "--kind", "fact", "--tag", "t"),
        *("--expires", "30d"),
    )
    assert shared.startswith("shared a with ")
    sent = mnemo.sent("CreateGrant")
    assert (sent.principal, sent.tenant, sent.role) == ("p", "other", resources_pb2.GRANT_ROLE_ANNOTATE)
    assert sent.expire_time.ToDatetime(tzinfo=UTC) > datetime.now(UTC) + timedelta(days=29)
    assert mnemo.good("share", "list", "a").splitlines()[1].split()[0] == "g"
    assert mnemo.json("share", "received")[0]["role"] == "read"
    assert mnemo.good("share", "accept", "g", "theirs").startswith("accepted ")
    assert mnemo.good("share", "remove", "g") == "removed g\n"


def test_links(mnemo: Commands) -> None:
    added = mnemo.good("links", "add", "--space", "a", MEMORY_ID, "b", "--type", "supports", "--weight", "0.5")
    assert added == f"{MEMORY_ID} related b, weight 0.500\n"
    assert mnemo.sent("Associate").type == resources_pb2.ASSOCIATION_TYPE_SUPPORTS
    assert mnemo.good("links", "remove", "--space", "a", MEMORY_ID, "b") == "removed 1 links\n"
    listed = mnemo.good("links", "list", "--space", "a", "--direction", "incoming", "--type", "related")
    assert listed.splitlines()[1].split() == [MEMORY_ID, "related", "b", "0.500", "0"]
    assert mnemo.good("links", "paths", "--space", "a", MEMORY_ID, "b").startswith("weight 0.5000\n")
    around = mnemo.good("links", "around", "--space", "a", MEMORY_ID, "--without-sessions")
    assert around.splitlines()[1].split()[:3] == ["0.350", "1", MEMORY_ID]
    assert mnemo.json("links", "around", "--space", "a", MEMORY_ID)["neighbours"][0]["hops"] == 1


def test_sessions(mnemo: Commands) -> None:
    assert mnemo.good("sessions", "list", "--space", "a", "--open").splitlines()[1].split()[:2] == ["s1", "planner"]
    assert mnemo.sent("ListSessions").open_only
    shown = mnemo.good("sessions", "show", "--space", "a", "s1")
    assert "session: s1\nagent: planner\n" in shown
    assert "CHECKPOINT" in shown
    assert mnemo.json("sessions", "show", "--space", "a", "s1")["checkpoints"][0]["state"] == {"step": 3}
    assert mnemo.json("sessions", "end", "--space", "a", "s1")["id"] == "s1"


def test_what_a_server_refuses_is_one_line(mnemo: Commands) -> None:
    done = mnemo.run("get", "--space", "a", MEMORY_ID)

    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == f"error: memory '{MEMORY_ID}' does not exist\n"
