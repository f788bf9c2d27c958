"""README, RESULTS.md and the plots quote the result files, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.__main__ import BENCHMARKS
from benchmarks.harness.results import FOLDER, load, load_all, table
from benchmarks.plot import IMAGES, README, RESULTS, THEMES, between, plot, readme_page, results_page


def test_the_pages_are_what_the_data_makes() -> None:
    """`python -m benchmarks.plot` was run after the last change of a result."""
    assert results_page(RESULTS.read_text("utf-8")) == RESULTS.read_text("utf-8")
    assert readme_page(README.read_text("utf-8")) == README.read_text("utf-8")


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_the_plots_are_what_the_data_makes(theme: object) -> None:
    """One bar for each row of decode's newest run, in colours for a light and for a dark page."""
    svg = plot(load("decode"), theme)  # type: ignore[arg-type]
    assert (IMAGES / f"speed-{theme.name}.svg").read_text("utf-8") == svg  # type: ignore[attr-defined]
    bars = ElementTree.fromstring(svg).findall("{http://www.w3.org/2000/svg}rect")
    assert len(bars) == len(load("decode").rows)


def test_every_result_is_of_a_listed_benchmark() -> None:
    """A result file is named after its module, and each row has a cell for every column."""
    listed = {f"{group}.{name}" for group, members in BENCHMARKS.items() for name in members}
    for result in load_all():
        assert result.benchmark in listed and (FOLDER / f"{result.benchmark.partition('.')[2]}.json").is_file()
        assert all(len(row) == len(result.columns) for row in result.rows)


def test_figures_in_the_readme_are_the_newest() -> None:
    """The sentences below the table quote the result files."""
    text = " ".join(README.read_text("utf-8").split())
    (_, cache, _), (_, disk, _) = load("cold_load").rows
    assert f"loads in {cache:.0f} ms from the page cache and in {disk:.0f} ms from disk" in text
    ratio = load("mixed").rows[2][-1]
    assert f"gave {ratio} times the tokens per second of llama-server" in text
    other = re.search(r"AVX2 machine the ratio .* was ([0-9.]+) ", " ".join(load("mixed").notes))
    assert other is not None and f"{other[1]} times on an AVX2 machine" in text
    assert f"{load('stall').rows[-1][1]} for 1,000 tokens" in text


def test_a_table_is_set_by_its_columns() -> None:
    """Columns of numbers alone are set to the right."""
    lines = table(load("decode")).splitlines()
    assert lines[1] == "|---:|---|---:|---:|---|" and len(lines) == 2 + len(load("decode").rows)


def test_only_what_stands_between_the_marks_is_replaced() -> None:
    """The rest of a page is the writer's."""
    page = "a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb"
    assert between(page, "x", "new") == "a\n<!-- x: begin -->\nnew\n<!-- x: end -->\nb"


def test_no_path_of_a_machine_stands_in_a_picture() -> None:
    """The terminal session and the plots load nothing from elsewhere and name no folder of whoever made them."""
    for picture in Path(IMAGES).glob("*.svg"):
        text = picture.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http" not in text and "/tmp" not in text and "/home" not in text
