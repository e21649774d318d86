"""What is deployed fits what is written: settings, versions and locks."""

from __future__ import annotations

import importlib
import json
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mnemocore.settings import describe
from mnemocore.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
CHART = ROOT / "deploy" / "helm" / "mnemocore"
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
SERVICES = ("gateway", "memory", "index", "cognitive", "events")
LOCKS = sorted((ROOT / "deploy" / "locks").glob("*.txt"))


def settings_of(service: str) -> dict[str, bool]:
    """The variables of a service's settings, and whether each is required."""
    module = importlib.import_module(f"mnemo_{service}.settings")
    cls = getattr(module, f"{service.capitalize()}Settings")
    return {found.variable: found.default == "required" for found in describe(cls, module.PREFIX)}


def variables_in(place: str, service: str) -> Mapping[str, Any]:
    """The variables that `place` gives to a service."""
    if place == "compose":
        given: dict[str, Any] = COMPOSE["services"][service]["environment"]
        return given
    chosen: dict[str, dict[str, Any]] = VALUES["services"][service]
    return chosen["env"] | chosen["secretEnv"]


@pytest.mark.parametrize("place", ["compose", "chart"])
@pytest.mark.parametrize("service", SERVICES)
def test_every_variable_is_a_setting_and_every_required_setting_is_given(place: str, service: str) -> None:
    settings, given = settings_of(service), set(variables_in(place, service))
    required = {variable for variable, needed in settings.items() if needed}

    assert sorted(given - set(settings)) == []
    assert sorted(required - given) == []


@pytest.mark.parametrize("place", ["compose", "chart"])
@pytest.mark.parametrize("service", SERVICES)
def test_every_target_is_given_and_leads_to_where_the_other_service_listens(place: str, service: str) -> None:
    given = variables_in(place, service)
    targets = {variable for variable in settings_of(service) if variable.endswith("_TARGET")}

    assert {variable for variable in given if variable.endswith("_TARGET")} == targets
    for variable in targets:
        other = variable.removeprefix(f"MNEMO_{service.upper()}_").removesuffix("_TARGET").lower()
        host, _, port = given[variable].rpartition(":")
        listens = variables_in(place, other)[f"MNEMO_{other.upper()}_LISTEN"]
        assert listens == f"0.0.0.0:{port}"
        assert host == (other if place == "compose" else f"{{{{ .Release.Name }}}}-{other}")


def test_only_the_gateway_is_published_and_only_on_this_machine() -> None:
    published = {name: service["ports"] for name, service in COMPOSE["services"].items() if "ports" in service}

    assert published == {"gateway": ["127.0.0.1:7400:7400"]}


def test_every_container_is_asked_whether_it_is_ready() -> None:
    for service in SERVICES:
        listens = COMPOSE["services"][service]["environment"][f"MNEMO_{service.upper()}_LISTEN"]
        port = listens.rpartition(":")[2]
        assert COMPOSE["services"][service]["healthcheck"]["test"][-1] == f"127.0.0.1:{port}"
        assert VALUES["services"][service]["port"] == int(port)


def test_no_secret_has_a_value_in_the_compose_file() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    secrets = ("PASSWORD", "TOKEN", "KEY")

    for name, service in COMPOSE["services"].items():
        for variable, value in service["environment"].items():
            if variable.endswith(secrets):
                assert re.fullmatch(r"\$\{[A-Z_]+:\?[^}]*\}", value), f"{name} {variable}"
    assert not re.search(r"\$\{[A-Z_]+:-", text)


def test_every_place_names_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())

    assert PROJECT["project"]["version"] == __version__
    assert chart["appVersion"] == chart["version"] == __version__
    assert VALUES["image"]["tag"] == __version__
    assert {COMPOSE["services"][service]["image"] for service in SERVICES} == {f"mnemocore:{__version__}"}
    assert f"mnemocore:{__version__}" in (ROOT / "deploy" / "Dockerfile").read_text()
    assert (ROOT / "changes" / f"{__version__}.md").exists()


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_names_no_address_and_no_folder_of_a_machine(lock: Path) -> None:
    text = lock.read_text()

    assert not re.search(r"://|(?<![\w.])/\w|--(extra-)?index|--find-links", text)
    assert all("--hash=sha256:" in entry for entry in re.split(r"\n(?=[a-zA-Z])", text))


def pinned(lock: Path) -> dict[str, list[str]]:
    """Each package of a lock with the versions it may have on different systems."""
    found: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^ ;]+)", lock.read_text(), re.MULTILINE):
        found.setdefault(canonicalize_name(name), []).append(version)
    return found


def test_the_locks_satisfy_the_project() -> None:
    runtime = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["otlp"]
    wanted = {
        "runtime.txt": runtime,
        "dev.txt": runtime + PROJECT["dependency-groups"]["dev"],
        "milvus.txt": runtime + PROJECT["project"]["optional-dependencies"]["milvus"],
        "bench.txt": PROJECT["project"]["dependencies"] + PROJECT["dependency-groups"]["bench"],
        "build.txt": PROJECT["build-system"]["requires"],
    }

    assert [lock.name for lock in LOCKS] == sorted(wanted)
    for lock in LOCKS:
        versions = pinned(lock)
        for requirement in map(Requirement, wanted[lock.name]):
            found = versions.get(canonicalize_name(requirement.name), [])
            assert any(requirement.specifier.contains(version) for version in found), f"{lock.name}: {requirement}"


def test_what_runs_is_what_was_tested() -> None:
    dev = pinned(ROOT / "deploy" / "locks" / "dev.txt")

    for lock in LOCKS:
        ours = {name: found for name, found in pinned(lock).items() if lock.name != "bench.txt" or name in dev}
        differing = {name: versions for name, versions in ours.items() if dev.get(name) != versions}
        assert differing == {}, lock.name


def test_the_lock_of_the_node_client_names_no_registry() -> None:
    lock = json.loads((ROOT / "tests" / "e2e" / "node" / "package-lock.json").read_text())

    assert [name for name, package in lock["packages"].items() if "resolved" in package] == []
    assert all("integrity" in package for name, package in lock["packages"].items() if name)
