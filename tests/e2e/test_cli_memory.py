"""The commands around memories, spaces, links, sessions and sharing on a real installation, as a user types them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.e2e.test_cli import Shell

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import Server


@pytest.fixture
def shell(tmp_path: Path, served: Server) -> Shell:
    """Commands that find the running server by its data directory."""
    return Shell(tmp_path, served.directory)


def test_a_memory_from_the_first_word_to_the_last(shell: Shell) -> None:
    at = ("--space", shell.space)
    kept = shell.json("remember", *at, "Alice lives in Porto.", "--kind", "fact", "--tag", "home", "--ttl", "30d")
    old = kept["memory"]["id"]
    assert shell.good("remember", *at, "Alice lives in Porto.", "--kind", "fact", "--on-duplicate", "keep") == (
        f"already there spaces/{shell.space}/memories/{old}\n"
    )
    shell.good("remember", *at, "-", stdin="Two lines\nof text.\n")
    assert [memory["content"] for memory in shell.json("list", *at)] == ["Two lines\nof text.", "Alice lives in Porto."]
    assert shell.json("list", *at, "--tag", "home", "--kind", "fact")[0]["id"] == old
    shell.good("update", old, *at, "--actor", "Alice", "--clear", "tags", "--reason", "tidied")
    shell.good("feedback", old, *at, "--good")
    shell.good("protect", old, *at)
    assert (
        shell.run("forget", old, *at).stderr
        == f"error: memory 'spaces/{shell.space}/memories/{old}' is protected; take the protection away first\n"
    )
    shell.good("protect", old, *at, "--off")
    new = shell.json("supersede", old, "Alice lives in Lisbon.", *at)["id"]
    shown = shell.good("get", old, *at)
    assert f"superseded by: {new}\n" in shown
    assert "actor: Alice\n" in shown
    changes = [revision["change"] for revision in shell.json("history", old, *at)]
    assert changes == ["created", "updated", "feedback", "protected", "protected", "superseded"]
    assert len(shell.good("history", *at).splitlines()) > len(changes)
    hits = shell.json("recall", *at, "Where does Alice live?", "--kind", "fact")["hits"]
    assert [hit["memory"]["id"] for hit in hits] == [new]
    assert shell.json("list", *at, "--state", "superseded")[0]["id"] == old


def test_links_and_sessions(shell: Shell) -> None:
    at = ("--space", shell.space)
    ids = [shell.json("remember", *at, f"Step {number}.")["memory"]["id"] for number in range(3)]
    shell.good("links", "add", *at, ids[0], ids[1], "--type", "precedes", "--weight", "0.8")
    shell.good("links", "add", *at, ids[1], ids[2], "--type", "precedes", "--weight", "0.5")
    assert len(shell.json("links", "list", *at)) == 2
    assert shell.good("links", "paths", *at, ids[0], ids[2]).startswith("weight 0.4000\n")
    assert ids[2] in shell.good("links", "around", *at, ids[0])
    assert shell.good("links", "remove", *at, ids[0], ids[1]) == "removed 1 links\n"
    assert shell.json("sessions", "list", *at) == []
    done = shell.run("sessions", "show", *at, "s1")
    assert (done.returncode, done.stderr) == (1, "error: session 's1' was not started\n")


def test_a_space_its_policy_its_sharing_and_its_end(shell: Shell) -> None:
    shell.good("spaces", "create", shell.space, "--max-memories", "1", "--novelty-gate", "off")
    shell.good("remember", "--space", shell.space, "The boat is blue.")
    full = shell.run("remember", "--space", shell.space, "The boat is fast.")
    assert (full.returncode, len(full.stderr.splitlines())) == (1, 1)
    shell.good("spaces", "update", shell.space, "--max-memories", "none", "--erase-archived-after", "30d")
    assert shell.json("spaces", "show", shell.space)["policy"]["retention"]["erase_archived_after"] == "2592000s"
    assert shell.json("spaces", "stats", shell.space)["kinds"] == {"observation": 1}
    grant = shell.json("share", "add", shell.space, "reader", "--role", "annotate")
    assert [found["id"] for found in shell.json("share", "list", shell.space)] == [grant["id"]]
    shell.good("share", "remove", grant["id"])
    assert shell.json("share", "received") == []
    assert shell.run("spaces", "delete", shell.space).returncode == 1
    assert shell.run("erase", shell.space).returncode == 2
    receipt = shell.json("erase", shell.space, "--confirm", shell.space)
    assert receipt["memories"] == 1
    assert receipt["id"] in shell.good("spaces", "erasures")
    assert shell.run("spaces", "show", shell.space).returncode == 1
