"""A client without any stubs: `buf curl` learns the methods by server reflection and calls them."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any, Protocol

from google.rpc.error_details_pb2 import ErrorInfo

from mnemocore.policy import all_methods

SECONDS = 60.0


class Served(Protocol):
    """A running server that lets callers on this machine in without a key."""

    address: str


def buf_curl(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`buf curl` over plain gRPC with `arguments`."""
    command = [str(Path(sys.executable).parent / "buf"), "curl", "--protocol", "grpc", "--http2-prior-knowledge"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=SECONDS, check=False)


def create_space(address: str, space: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Call CreateSpace for `space` with further `options` of buf curl."""
    url = f"http://{address}/mnemocore.memory.v1.SpaceService/CreateSpace"
    return buf_curl(*options, "--data", json.dumps({"spaceId": space}), url)


def test_reflection_lists_every_public_method(served: Served) -> None:
    listed = buf_curl("--list-methods", f"http://{served.address}")

    assert listed.returncode == 0, listed.stderr
    methods = set(listed.stdout.split())
    assert {info.path.removeprefix("/") for info in all_methods() if info.public} <= methods


def test_a_call_with_a_deadline_is_answered(served: Served) -> None:
    space = f"buf-{uuid.uuid4().hex[:8]}"

    made = create_space(served.address, space, "--timeout", "5s")

    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["space"]["name"] == f"spaces/{space}"


def test_a_call_without_a_deadline_is_told_to_set_one(served: Served) -> None:
    refused = create_space(served.address, f"buf-{uuid.uuid4().hex[:8]}")

    assert refused.returncode != 0
    told: dict[str, Any] = json.loads(refused.stderr)
    assert told["code"] == "invalid_argument"
    assert "deadline" in told["message"]
    value = told["details"][0]["value"]
    info = ErrorInfo.FromString(base64.b64decode(value + "=" * (-len(value) % 4)))
    assert (told["details"][0]["type"], info.reason) == ("google.rpc.ErrorInfo", "DEADLINE_REQUIRED")
