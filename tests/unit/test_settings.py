"""Settings: what is read from where, and what is said of a wrong one."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from mnemo_cognitive.settings import PREFIX as COGNITIVE
from mnemo_cognitive.settings import CognitiveSettings
from mnemo_events.settings import PREFIX as EVENTS
from mnemo_events.settings import EventsSettings
from mnemo_gateway.settings import PREFIX as GATEWAY
from mnemo_gateway.settings import GatewaySettings
from mnemo_index.settings import PREFIX as INDEX
from mnemo_index.settings import IndexSettings
from mnemo_memory.settings import PREFIX as MEMORY
from mnemo_memory.settings import MemorySettings
from mnemocore.errors import InvalidSettingError
from mnemocore.settings import Description, Rule, describe, load, setting

SERVICES: list[tuple[type[Any], str]] = [
    (CognitiveSettings, COGNITIVE),
    (EventsSettings, EVENTS),
    (GatewaySettings, GATEWAY),
    (IndexSettings, INDEX),
    (MemorySettings, MEMORY),
]


@dataclass(frozen=True, slots=True)
class Sample:
    token: str = setting(doc="The secret.", secret=True)
    pool: int = setting(5, doc="How many.", minimum=2, maximum=500)
    pause: float = setting(1.5, doc="How long.", minimum=0.05)
    at_most: float = setting(1.0, doc="A share.", maximum=1)
    strict: bool = setting(False, doc="Whether.")
    form: str = setting("json", doc="Which.", choices=("json", "text"))
    folder: Path | None = setting(None, doc="Where.")  # noqa: RUF009
    endpoint: str = setting("", doc="Whither.")


def loaded(**environ: str) -> Sample:
    return load(Sample, "X_", {"X_TOKEN": "t"} | environ)


def refused(**environ: str) -> str:
    with pytest.raises(InvalidSettingError) as caught:
        loaded(**environ)
    [variable] = [name for name in environ if name.startswith("X_")]
    assert caught.value.metadata == {"setting": variable}
    return str(caught.value)


def test_defaults_stand_where_nothing_is_set() -> None:
    assert loaded() == Sample("t")
    assert loaded(X_ELSE="7", POOL="9") == Sample("t")


def test_every_type_is_read() -> None:
    found = loaded(X_POOL="500", X_PAUSE="0.05", X_STRICT="Yes", X_FORM="text", X_FOLDER="/data", X_ENDPOINT="h:1")
    assert found == Sample("t", 500, 0.05, 1.0, True, "text", Path("/data"), "h:1")
    for text, value in {"true": True, "1": True, "YES": True, "false": False, "0": False, "no": False}.items():
        assert loaded(X_STRICT=text).strict is value


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("X_POOL", "many", "X_POOL = 'many': allowed is a value of type int"),
        ("X_POOL", "2.5", "X_POOL = '2.5': allowed is a value of type int"),
        ("X_POOL", "", "X_POOL = '': allowed is a value of type int"),
        ("X_POOL", "1", "X_POOL = 1: allowed is at least 2 and at most 500"),
        ("X_POOL", "501", "X_POOL = 501: allowed is at least 2 and at most 500"),
        ("X_PAUSE", "0", "X_PAUSE = 0.0: allowed is at least 0.05"),
        ("X_PAUSE", "nan", "X_PAUSE = nan: allowed is at least 0.05"),
        ("X_AT_MOST", "inf", "X_AT_MOST = inf: allowed is at most 1"),
        ("X_STRICT", "maybe", "X_STRICT = 'maybe': allowed is true or false"),
        ("X_FORM", "xml", "X_FORM = 'xml': allowed is one of json, text"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(variable: str, text: str, message: str) -> None:
    assert refused(**{variable: text}) == message


def test_what_is_required_is_asked_for() -> None:
    with pytest.raises(InvalidSettingError, match="X_TOKEN is not set: The secret"):
        load(Sample, "X_", {})


def test_a_secret_may_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(" from a file\n")
    assert load(Sample, "X_", {"X_TOKEN_FILE": str(file)}).token == "from a file"
    assert load(Sample, "X_", {"X_TOKEN_FILE": str(file), "X_TOKEN": "itself"}).token == "itself"
    with pytest.raises(InvalidSettingError, match="X_TOKEN_FILE: cannot read /no/such/file: No such file") as caught:
        load(Sample, "X_", {"X_TOKEN_FILE": "/no/such/file"})
    assert caught.value.metadata == {"setting": "X_TOKEN_FILE"}
    assert loaded(X_ENDPOINT_FILE=str(file)).endpoint == ""


def test_a_file_that_is_a_setting_of_its_own_is_not_read() -> None:
    @dataclass(frozen=True)
    class Watched:
        keys: str = setting("", doc="Keys.", secret=True)
        keys_file: str = setting("", doc="File of keys.")

    assert load(Watched, "W_", {"W_KEYS_FILE": "/no/such/file"}) == Watched("", "/no/such/file")


def test_overrides_win_and_are_checked() -> None:
    assert load(Sample, "X_", {"X_POOL": "nonsense"}, token="o", pool=7) == Sample("o", pool=7)
    with pytest.raises(InvalidSettingError, match="X_POOL = 1: allowed"):
        load(Sample, "X_", {}, token="o", pool=1)


def test_a_secret_is_never_shown() -> None:
    @dataclass(frozen=True)
    class Hidden:
        number: int = setting(doc="n", secret=True, minimum=1)
        word: str = setting("a", doc="w", secret=True, choices=("a", "b"))

    for environ in ({"H_NUMBER": "hush"}, {"H_NUMBER": "-77"}, {"H_NUMBER": "1", "H_WORD": "hush"}):
        with pytest.raises(InvalidSettingError, match=r"\(hidden\)") as caught:
            load(Hidden, "H_", environ)
        assert "hush" not in str(caught.value)
        assert "77" not in str(caught.value)


def test_a_secret_is_no_part_of_what_is_printed() -> None:
    assert "hush" not in repr(load(Sample, "X_", {"X_TOKEN": "hush"}))


def test_the_reference_is_made_of_the_same_fields() -> None:
    described = {each.variable: each for each in describe(Sample, "X_")}
    assert list(described) == [f"X_{field.name.upper()}" for field in fields(Sample)]
    assert described["X_TOKEN"] == Description("X_TOKEN", "str", "required", Rule("The secret.", secret=True))
    assert described["X_FOLDER"].type_name == "Path"
    assert described["X_ENDPOINT"].default == "(empty)"


@pytest.mark.parametrize(("cls", "prefix"), SERVICES, ids=lambda value: getattr(value, "__name__", value))
def test_every_service_runs_with_its_required_settings_alone(cls: type[Any], prefix: str) -> None:
    described = list(describe(cls, prefix))
    required = {each.variable: "/somewhere" for each in described if each.default == "required"}
    found = load(cls, prefix, required)
    assert all(each.rule.doc.endswith(".") for each in described)
    for field in fields(cls):
        variable = prefix + field.name.upper()
        if variable in required:
            assert str(getattr(found, field.name)) == "/somewhere"
        else:
            assert load(cls, prefix, required, **{field.name: field.default}) == found
