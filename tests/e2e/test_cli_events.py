"""The commands around events, webhooks, agents and tasks on a real installation, as a user types them."""

from __future__ import annotations

import base64
import json
import os
import selectors
import signal
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import IO, TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from tests.e2e.conftest import wait_until
from tests.e2e.test_cli import SECONDS, Shell

from mnemo_cli.main import cli
from mnemocore.client import Reject, verify_signature
from mnemocore.errors import CancelledError
from mnemocore.sync import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.e2e.conftest import Server


class QuickShell(Shell):
    """Runs commands in this process, which saves the start of one for each; `start` starts one all the same."""

    def run(self, *arguments: str, stdin: str | bytes = b"") -> subprocess.CompletedProcess[str]:
        environ = {name: value for name, value in self.environ.items() if name.startswith("MNEMO_")}
        done = CliRunner().invoke(cli, arguments, input=stdin, env=environ, prog_name="mnemo")
        return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


@pytest.fixture
def shell(tmp_path: Path, served: Server) -> Shell:
    """Commands that find the running server by its data directory."""
    return QuickShell(tmp_path, served.directory)


@pytest.fixture
def kind(shell: Shell) -> str:
    """The first segment of the types of this test's events: the server is shared with other tests."""
    return shell.space.replace("-", "_")


@contextmanager
def running(shell: Shell, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command that runs inside the block."""
    process = shell.start(*arguments)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def lines_of(stream: IO[bytes] | None, count: int) -> list[str]:
    """The next `count` lines of a pipe."""
    assert stream is not None
    found = b""
    give_up = time.monotonic() + SECONDS
    with selectors.DefaultSelector() as waiting:
        waiting.register(stream, selectors.EVENT_READ)
        while found.count(b"\n") < count:
            assert waiting.select(give_up - time.monotonic()), found
            found += os.read(stream.fileno(), 65536)
    return found.decode().splitlines()


def test_publish_and_read(shell: Shell, kind: str) -> None:
    assert shell.good("events", "publish", f"{kind}.placed", "--data", '{"amount": 3}', "--id", f"{kind}-1").startswith(
        f"published {kind}-1 at position "
    )
    shell.good("events", "publish", f"{kind}.placed", "--data", "-", "--subject", "orders/7", stdin='{"amount": 4}')
    (shell.working / "picture").write_bytes(b"\xff\xfe")
    shell.good("events", "publish", f"{kind}.drawn", "--data", f"@{shell.working}/picture", "--content-type", "image/x")
    rows = shell.good("events", "read", "--type", f"{kind}.*").splitlines()
    assert rows[0].split() == ["POSITION", "TIME", "TYPE", "SUBJECT", "DATA"]
    assert [row.split(maxsplit=3)[-1].split("  ")[0].split()[0] for row in rows[1:]] == [
        f"{kind}.placed",
        f"{kind}.placed",
        f"{kind}.drawn",
    ]
    found = shell.json("events", "read", "--type", f"{kind}.*", "--limit", "3")
    assert [event.get("data", event.get("data_base64")) for event in found] == [{"amount": 3}, {"amount": 4}, "//4="]
    assert shell.json("events", "read", "--subject", "orders/*", "--after", str(found[0]["position"]))
    wrong = shell.run("events", "publish", f"{kind}.placed", "--data", "{")
    assert (wrong.returncode, "is not JSON" in wrong.stderr) == (2, True)
    refused = shell.run("events", "publish", "Order", "--data", "1")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)


def test_publish_lines(tmp_path: Path, served: Server) -> None:
    shell = Shell(tmp_path, served.directory)
    kind = shell.space.replace("-", "_")
    lines = [json.dumps({"type": f"{kind}.step", "data": number, "id": f"{kind}-{number}"}) for number in range(1200)]
    first = shell.good("events", "publish", "--stdin", stdin="\n".join(lines))
    assert first.startswith("published 1200 events, up to position ")
    broken = shell.run("events", "publish", "--stdin", stdin="\n".join([*lines[:3], "{}", *lines]))
    assert broken.returncode == 1
    assert broken.stdout.startswith("published 3 events")
    assert broken.stderr == "error: stdin:4: type: is missing\n"
    refused = shell.run("events", "publish", "--stdin", stdin="\n".join([*lines[:2], "", '{"type": "Bad"}', *lines]))
    assert (refused.returncode, refused.stdout.startswith("published 2 events")) == (1, True)
    assert refused.stderr.startswith("error: stdin:4: type: 'Bad'; ")
    found = shell.json("events", "read", "--type", f"{kind}.step", "--limit", "5000")
    assert [event["data"] for event in found] == list(range(1200))
    again = "\n".join(json.dumps(event) for event in found[:5])
    assert shell.good("events", "publish", "--stdin", stdin=again).startswith("published 5 events")
    assert len(shell.json("events", "read", "--type", f"{kind}.step", "--limit", "5000")) == 1200


def test_tail_until_ctrl_c(shell: Shell, kind: str) -> None:
    shell.good("events", "publish", f"{kind}.a", "--data", "1")
    with running(shell, "events", "tail", "--type", f"{kind}.*", "--from", "earliest", "--json") as process:
        assert json.loads(lines_of(process.stdout, 1)[0])["data"] == 1
        shell.good("events", "publish", f"{kind}.b", "--data", "2")
        shell.good("events", "publish", f"{kind}.c", "--data", "3")
        assert [json.loads(line)["data"] for line in lines_of(process.stdout, 2)] == [2, 3]
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
    limited = shell.good("events", "tail", "--type", f"{kind}.*", "--from", "earliest", "--limit", "2").splitlines()
    assert [line.split()[-1] for line in limited] == ["1", "2"]
    first = shell.json("events", "read", "--type", f"{kind}.*")[0]
    after = shell.good("events", "tail", "--type", f"{kind}.*", "--from", str(first["position"]), "--limit", "1")
    assert after.split()[-1] == "2"


def test_a_tail_ends_with_the_pipe_that_nobody_reads_any_more(shell: Shell, kind: str) -> None:
    shell.good("events", "publish", f"{kind}.a", "--data", "1")
    with running(shell, "events", "tail", "--type", f"{kind}.*", "--from", "earliest", "--json") as process:
        assert lines_of(process.stdout, 1)
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(SECONDS) == 1
        assert process.stderr is not None
        assert process.stderr.read() == b""
        process.stdout = None


def test_a_tail_of_a_space(shell: Shell) -> None:
    shell.good("remember", "--space", shell.space, "The boat is blue.")
    line = shell.good("events", "tail", "--space", shell.space, "--from", "earliest", "--limit", "1", "--json")
    assert json.loads(line)["subject"].startswith(f"spaces/{shell.space}/memories/")


def test_groups_and_dead_letters(shell: Shell, kind: str, served: Server) -> None:
    group = shell.space
    shell.good("events", "groups", "create", group, "--type", f"{kind}.*", "--max-attempts", "1", "--from", "earliest")
    for number in range(4):
        shell.good("events", "publish", f"{kind}.step", "--data", str(number))
    with connect(served.address, api_key=served.api_key) as connection:
        mnemo: Any = connection

        def handle(event: Any) -> None:
            if event.json():
                raise Reject(f"number {event.json()}")

        consuming = threading.Thread(target=lambda: _consume(mnemo, group, handle), daemon=True)
        consuming.start()
        assert wait_until(lambda: shell.json("events", "groups", "show", group)["dead"] == 3, SECONDS)
        rows = shell.good("events", "dlq", "list", group).splitlines()
        assert [row.split()[-3:] for row in rows[1:]] == [["rejected", "number", str(n)] for n in (1, 2, 3)]
        letters = shell.json("events", "dlq", "list", group, "--reason", "rejected")
        first, second, third = (str(letter["position"]) for letter in letters)
        assert "message: number 1\n" in shell.good("events", "dlq", "show", group, first)
        assert shell.run("events", "dlq", "replay", group).returncode == 2
        assert shell.good("events", "dlq", "replay", group, "--position", first) == "1 are replayed\n"
        assert wait_until(lambda: shell.json("events", "dlq", "show", group, first)["attempts"] == 2, SECONDS)
        declined = shell.run("events", "dlq", "purge", group, "--position", second, stdin="n\n")
        assert (declined.returncode, len(shell.json("events", "dlq", "list", group))) == (1, 3)
        assert shell.good("events", "dlq", "purge", group, "--position", second, "--yes") == "removed 1\n"
        assert shell.good("events", "dlq", "purge", group, "--before", "2020-01-01", "--yes") == "removed 0\n"
        assert shell.good("events", "dlq", "purge", group, "--reason", "rejected", "--yes") == "removed 2\n"
        assert third
    assert group in shell.good("events", "groups", "list", "--limit", "1000")
    assert shell.json("events", "replay", group, "--from", "earliest")["id"] == group
    assert shell.good("events", "groups", "delete", group, "--yes") == f"deleted {group}\n"
    assert shell.good("events", "groups", "delete", group, "--yes") == f"there is no group {group}\n"
    gone = shell.run("events", "dlq", "list", group)
    assert (gone.returncode, gone.stderr) == (1, f"error: group 'groups/{group}' does not exist\n")


def _consume(mnemo: Any, group: str, handler: Any) -> None:
    with suppress(CancelledError):  # the connection is closed at the end of the test
        mnemo.events.consume(group, handler)


def test_schemas(shell: Shell, kind: str) -> None:
    schema = {"type": "object", "properties": {"amount": {"type": "integer"}}, "required": ["amount"]}
    (shell.working / "order.json").write_text(json.dumps(schema))
    at = f"{kind}.placed"
    assert (
        shell.good("events", "schemas", "register", at, f"@{shell.working}/order.json")
        == f"registered schemas/{at}/versions/1\n"
    )
    assert shell.json("events", "schemas", "show", at)["definition"] == schema
    assert at in shell.good("events", "schemas", "list", "--limit", "1000")
    assert len(shell.json("events", "schemas", "list", at)) == 1
    assert shell.good("events", "schemas", "validate", at, "--data", '{"amount": 1}') == "valid\n"
    broken = shell.run("events", "schemas", "validate", at, "--data", '{"amount": "x"}')
    assert (broken.returncode, "data.amount" in broken.stdout, broken.stderr) == (1, True, "error: 1 violation\n")
    refused = shell.run("events", "publish", at, "--data", "{}")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    assert shell.good("events", "schemas", "delete", at, "--yes") == "versions deleted: 1\n"


def test_access(shell: Shell, kind: str, served: Server) -> None:
    key = shell.json("keys", "create", "--principal", kind, "--scope", "events:read", "--scope", "events:write")
    as_robot = ("--address", served.address, "--api-key", key["secret"])
    refused = shell.run("events", "publish", f"{kind}.placed", *as_robot)
    assert (refused.returncode, refused.stderr) == (1, f"error: no policy allows you to publish {kind}.placed\n")
    allow = ("events", "policies", "allow", shell.space, kind, "--action", "publish", "--type", f"{kind}.*")
    assert shell.good(*allow) == f"{kind} may publish {kind}.*\n"
    shell.good("events", "publish", f"{kind}.placed", *as_robot)
    assert shell.run("events", "tail", *as_robot).returncode == 1
    check = ("events", "policies", "check", kind)
    assert shell.good(*check, "publish", f"{kind}.placed") == f"allowed by {shell.space}\n"
    assert shell.run(*check, "subscribe", f"{kind}.placed").returncode == 1
    assert [policy["id"] for policy in shell.json("events", "policies", "list", "--principal", kind)] == [shell.space]
    assert wait_until(lambda: len(shell.json("events", "refusals", "--principal", kind)) == 2, SECONDS)
    assert shell.good("events", "policies", "remove", shell.space) == f"removed {shell.space}\n"


@dataclass
class Endpoint:
    """What an HTTP endpoint was sent, and what it answers."""

    url: str
    sent: list[tuple[str, bytes]] = field(default_factory=list)
    status: int = 204


@contextmanager
def endpoint() -> Iterator[Endpoint]:
    """An HTTP server on this machine that takes deliveries."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            place.sent.append((self.headers["X-MnemoCore-Signature"], body))
            self.send_response(place.status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    place = Endpoint(f"http://127.0.0.1:{server.server_port}/hook")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield place
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


SECRET = "a secret of some length"


def test_webhooks(tmp_path: Path, run_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNEMO_EVENTS_WEBHOOK_ALLOW", "127.0.0.0/8")
    monkeypatch.setenv("MNEMO_EVENTS_MASTER_KEYS", f"k1:{base64.b64encode(bytes(32)).decode()}")
    shell = QuickShell(tmp_path, run_server("serve", tmp_path / "data").directory)
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    with endpoint() as place:
        create = ("webhooks", "create", "shop", place.url, "--type", "order.*")
        assert shell.run(*create).returncode == 2  # no secret, and nobody to ask
        made = shell.json(*create, "--secret-file", f"{tmp_path}/secret")
        assert (made["url"], made["types"], made["state"]) == (place.url, ["order.*"], "active")
        assert "secret" not in made
        shell.environ["MNEMO_WEBHOOK_SECRET"] = SECRET
        assert shell.json(*create)["create_time"] == made["create_time"]
        assert shell.good("webhooks", "test", "shop").startswith("delivered: status 204, ")
        shell.good("events", "publish", "order.placed", "--data", '{"amount": 3}')
        assert wait_until(lambda: len(place.sent) == 2, SECONDS)
        signature, body = place.sent[-1]
        assert verify_signature(SECRET, signature, body)
        assert not verify_signature("another secret, the old", signature, body)
        assert json.loads(body)["data"] == {"amount": 3}
        assert shell.json("webhooks", "pause", "shop")["state"] == "paused"
        shell.good("events", "publish", "order.placed")
        place.status = 500
        failed = shell.run("webhooks", "test", "shop")
        assert (failed.returncode, failed.stderr.startswith("error: not delivered: ")) == (1, True)
        place.status = 422
        assert shell.json("webhooks", "resume", "shop")["state"] == "active"
        assert wait_until(lambda: len(shell.json("events", "dlq", "list", "webhook-shop")) == 1, SECONDS)
        assert shell.json("webhooks", "deliveries", "shop", "--failed")[0]["status"] == 422
        assert "order.placed" in shell.good("webhooks", "deliveries", "shop", "--limit", "5")
        changed = shell.json("webhooks", "update", "shop", "--description", "d", "--type", "a.b", "--type", "a.c")
        assert (changed["description"], changed["types"]) == ("d", ["a.b", "a.c"])
        assert shell.json("webhooks", "update", "shop", "--new-secret", "--all-types")["types"] == []
        assert shell.run("webhooks", "update", "shop").returncode == 2
    assert "shop" in shell.good("webhooks", "list")
    local = shell.run("webhooks", "create", "other", "http://192.168.1.1/hook")
    assert (local.returncode, "webhook.url" in local.stderr) == (1, True)
    assert shell.good("webhooks", "delete", "shop", "--yes") == "deleted shop\n"
    assert shell.run("webhooks", "show", "shop").returncode == 1


def test_agents_and_tasks(shell: Shell, kind: str, served: Server) -> None:
    with connect(served.address, api_key=served.api_key) as connection:
        mnemo: Any = connection
        with mnemo.agents.agent(shell.space, [kind]) as present:
            assert present.id == shell.space
            assert [agent["id"] for agent in shell.json("agents", "list", "--capability", kind)] == [shell.space]
            with running(shell, "agents", "watch", "--capability", kind, "--json") as process:
                assert json.loads(lines_of(process.stdout, 1)[0])["agents"][0]["id"] == shell.space
                process.send_signal(signal.SIGINT)
                assert process.wait(SECONDS) == 0
            add = ("tasks", "add", kind, "--capability", kind)
            assert shell.good(*add, "--id", f"{shell.space}-1", "--data", '{"n": 1}') == f"added {shell.space}-1\n"
            urgent = shell.json(*add, "--priority", "9", "--data", "text", "--content-type", "text/plain")
            assert (urgent["state"], urgent["payload"]) == ("queued", "text")
            shell.good(*add, "--id", f"{shell.space}-3", "--not-before", "1h")
            assert [task["state"] for task in shell.json("tasks", "list", "--type", kind)] == ["queued"] * 3
            first, second = mnemo.tasks.claim(shell.space, limit=5)
            assert (first.id, second.id) == (urgent["id"], f"{shell.space}-1")
            mnemo.tasks.complete(first, {"found": 1})
            mnemo.tasks.fail(second, "cannot", reason="rejected")
    assert 'result: {"found":1}\n' in shell.good("tasks", "show", first.id)
    assert "error: cannot\n" in shell.good("tasks", "show", second.id)
    assert shell.json("tasks", "retry", second.id)["state"] == "queued"
    assert shell.json("tasks", "cancel", second.id)["state"] == "cancelled"
    wrong = shell.run("tasks", "cancel", first.id)
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (1, 1)
    assert shell.run("tasks", "purge", "--state", "cancelled", stdin="n\n").returncode == 1
    assert shell.json("tasks", "purge", "--state", "cancelled", "--yes")["purged"] >= 1
    assert shell.run("tasks", "show", "nothing").returncode == 1
