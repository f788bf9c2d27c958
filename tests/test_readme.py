"""The README says what was measured, and names only what exists."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RUNNERS = ("PEFT f32", "llama.cpp F32", "llama.cpp Q8_0", "MLX f32", "MLX 8-bit")


def test_the_exact_answer_table_is_the_last_measurement() -> None:
    """Each cell of the table is the rate in models/recipe/results.json, to a tenth of a percent."""
    results = json.loads((ROOT / "models" / "recipe" / "results.json").read_text(encoding="utf-8"))
    rows = re.findall(r"^\| `([a-z-]+)` \((\d+)[^|]*\) \|(.*)\|$", README, re.MULTILINE)
    assert {name for name, *_ in rows} == {name for name in results["questions"] if "(" not in name}
    for name, count, cells in rows:
        measured = [f"{results['exact'][runner]['adapter'][name]:.1%}" for runner in RUNNERS]
        alone = max(results["exact"][runner]["base"][name] for runner in RUNNERS)
        assert int(count) == results["questions"][name]
        assert [cell.strip() for cell in cells.split("|")] == [*measured, f"{alone:.0%}"]


def test_every_link_into_the_project_leads_somewhere() -> None:
    """A relative link of the README and of docs/ names a file or folder that is there."""
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_two_commands_are_marked() -> None:
    """The README's first commands carry the marks that the checks look for, each with one block."""
    for mark, start in (("main-job", "pip install . && edgelora run"), ("tests", "pip install --editable")):
        block = re.search(rf"<!-- run: {mark} -->\n```sh\n(.+)\n```", README)
        assert block is not None and block[1].startswith(start)
