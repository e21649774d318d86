"""The benchmark of growth: what it measures really finds the texts, and what it draws is what was measured."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest
from benchmarks.chart import Chart, svg
from benchmarks.contenders import CONTENDERS, Contender, nearest
from benchmarks.scale import CLIENTS, changed_texts, drawn, header, measured, measured_spaces, parts, reopened, row
from benchmarks.scale import texts_of as texts_and_queries
from tests.index_space import encoder

if TYPE_CHECKING:
    from pathlib import Path

THERE = [name for name, contender in CONTENDERS.items() if contender.installed()]
_SVG = "{http://www.w3.org/2000/svg}"


def made(name: str, directory: Path) -> Contender:
    contender = CONTENDERS[name](encoder(), directory)
    contender.create()
    contender.put({0: "Ada plays the cello.", 1: "The printer is out of toner."})
    contender.put({2: "Bruno lives in Oslo."})
    return contender


def test_the_index_and_numpy_are_always_measured() -> None:
    assert {"index service", "numpy, exact"} <= set(THERE)


@pytest.mark.parametrize("name", THERE)
def test_a_contender_finds_what_it_was_given_last(name: str, tmp_path: Path) -> None:
    contender = made(name, tmp_path)
    assert contender.search("Who plays the cello?", 1) == [0]
    contender.put({0: "Ada went to the dentist."})
    assert contender.search("dentist", 3)[0] == 0
    assert len(contender.search("dentist", 3)) == 3


@pytest.mark.parametrize("name", THERE)
def test_a_contender_that_was_saved_finds_the_same(name: str, tmp_path: Path) -> None:
    contender = made(name, tmp_path)
    contender.save()
    again = CONTENDERS[name](encoder(), tmp_path)
    again.open()
    assert again.search("Oslo", 3) == contender.search("Oslo", 3)


def test_the_batches_are_the_texts_with_their_numbers() -> None:
    texts, queries = texts_and_queries(1_200, seed=2)
    together = {number: text for part in parts(texts) for number, text in part.items()}
    assert together == dict(enumerate(texts))
    assert len(queries) > 100
    assert (texts, queries) == texts_and_queries(1_200, seed=2)


def test_updates_are_a_sample_of_the_texts_with_other_texts() -> None:
    texts = [f"text {number}" for number in range(200)]
    updates = changed_texts(texts, seed=2)
    assert len(updates) == 20
    assert all(text != texts[number] and text in texts for number, text in updates.items())


def test_the_nearest_are_the_same_texts() -> None:
    texts = ["Ada plays the cello.", "The printer is out of toner.", "Bruno lives in Oslo."]
    assert nearest(encoder(), texts, texts, 1) == [{0}, {1}, {2}]


def test_the_figures_of_a_small_run_have_a_row(tmp_path: Path) -> None:
    figures = measured("numpy, exact", 200, 3, tmp_path)
    figures |= reopened("numpy, exact", "Who plays the cello?", tmp_path)
    assert figures["exact"] == 1.0
    assert figures["disk_bytes"] > 256 * 4
    assert len(row(figures)) == len(header())


def test_a_chart_has_a_line_for_each_name_and_a_dot_for_each_point() -> None:
    lines = {"a < b": [(1.0, 0.5), (1000.0, 20.0)], "c": [(10.0, 3.0)]}
    root = ElementTree.fromstring(svg([Chart("Time", "memories", lines), Chart("Time", "spaces", lines)]))
    assert len(root.findall(f".//{_SVG}polyline")) == 4
    dots = [(float(dot.get("cx", 0)), float(dot.get("cy", 0))) for dot in root.iter(f"{_SVG}circle")]
    assert len(dots) == 6
    assert dots[0][0] < dots[2][0] < dots[1][0]
    assert dots[1][1] < dots[2][1] < dots[0][1]
    assert {text.text for text in root.iter(f"{_SVG}text")} >= {"a < b", "c", "1", "1,000", "0.1 ms", "100 ms"}


def test_the_growth_is_drawn_from_the_figures() -> None:
    rows = [{"method": name, "memories": size, "p50_ms_1": 1.0} for name in ("client", "numpy") for size in (10, 100)]
    spaces = [{"spaces": 1, "p50_ms": 1.0, "p95_ms": 2.0}]
    assert drawn(rows, spaces).count("<polyline") == 4
    assert drawn(rows, []).count("<polyline") == 2


@pytest.mark.slow
def test_spaces_are_measured_through_a_server(tmp_path: Path) -> None:
    first, second = asyncio.run(measured_spaces([1, 3], 3, tmp_path))
    assert (first["spaces"], second["spaces"]) == (1, 3)
    assert 0 < first["p50_ms"] <= first["p95_ms"]
    assert second["restart_s"] > 0
    assert CLIENTS[0] == 1
