"""Another encoder from end to end: a remote one in an installation, the recall without it, and `mnemo index`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.e2e.test_cli import Shell
from tests.embeddings_server import embeddings

from mnemocore import connect
from mnemocore.client import DegradedPart
from mnemocore.client.encoders import ReencodingState
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from tests.e2e.conftest import Server


async def test_memories_are_recalled_with_a_remote_encoder_and_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with embeddings() as server:
        monkeypatch.setenv("MNEMO_INDEX_ENCODER", server.setting)
        monkeypatch.setenv("MNEMO_INDEX_ENCODER_API_KEY", "sk-zyzzyva")
        monkeypatch.setenv("MNEMO_INDEX_ENCODER_DIMENSION", "64")
        async with connect(f"embedded:{tmp_path / 'store'}") as mnemo:
            space = mnemo.space("notes")
            await space.remember("Alice drinks green tea")
            await space.remember("The train leaves at nine")

            async def encoded() -> bool:
                return sum(model.waiting_memories for model in await mnemo.encoders.models()) == 0

            await space.recall("tea")  # the index knows of both then
            await until(encoded)
            hits = await space.recall("hot drinks like tea")
            assert (hits[0].memory.content, hits.degraded) == ("Alice drinks green tea", ())
            assert "semantic" in {part.name for part in hits[0].explanation}
            server.always = 503
            await space.remember("Bob drinks black coffee")
            hits = await space.recall("who drinks coffee")
            assert hits[0].memory.content == "Bob drinks black coffee"
            assert hits.degraded == (DegradedPart.ENCODER,)
            (model,) = [each for each in await mnemo.encoders.models() if each.chosen]
            assert (model.remote, model.waiting_memories) == (True, 1)
        for path in (tmp_path / "store" / "index").rglob("*"):
            assert path.is_dir() or b"sk-zyzzyva" not in path.read_bytes()
    monkeypatch.delenv("MNEMO_INDEX_ENCODER")
    async with connect(f"embedded:{tmp_path / 'store'}") as mnemo:

        async def done() -> bool:
            return (await mnemo.encoders.reencoding()).state == ReencodingState.DONE

        await until(done)
        hits = await mnemo.space("notes").recall("who drinks coffee")
        assert (hits[0].memory.content, hits.degraded) == ("Bob drinks black coffee", ())
        assert await mnemo.encoders.commit() == 1


def test_an_operator_sees_and_steers_the_index(tmp_path: Path, served: Server) -> None:
    shell = Shell(tmp_path, served.directory)
    shell.good("remember", "--space", shell.space, "The boat is blue.")
    status = shell.json("index", "status")
    assert (status["waiting_memories"], status["reencoding"]["state"]) == (0, "done")
    assert "re-encoding done" in shell.good("index", "status")
    (model,) = shell.json("index", "models")
    assert (model["setting"], model["dimension"], model["chosen"]) == ("wordllama", 256, True)
    assert model["name"] in shell.good("index", "models")
    for action in ("pause", "rollback", "resume"):
        assert shell.json("index", "reencode", action)["model"] == model["name"]
    assert "re-encoding done" in shell.good("index", "reencode", "status")
    assert shell.good("index", "reencode", "commit") == "forgot the older vectors of 0 spaces\n"


def test_a_wrong_encoder_is_one_line(tmp_path: Path) -> None:
    shell = Shell(tmp_path, tmp_path / "store")
    shell.environ["MNEMO_INDEX_ENCODER"] = "nonsense"
    failed = shell.run("remember", "--space", "a", "tea")
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: MNEMO_INDEX_ENCODER = 'nonsense': allowed is wordllama, ")
    assert len(failed.stderr.splitlines()) == 1
