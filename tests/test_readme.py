"""The README says what was measured, and names only what exists."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXACTNESS = (ROOT / "docs" / "exactness.md").read_text(encoding="utf-8")
RUNNERS = ("PEFT f32", "llama.cpp F32", "llama.cpp Q8_0", "MLX f32", "MLX 8-bit")


def test_the_exact_answer_table_is_the_last_measurement() -> None:
    """Each cell of the table is the rate in models/recipe/results.json, to a tenth of a percent."""
    results = json.loads((ROOT / "models" / "recipe" / "results.json").read_text(encoding="utf-8"))
    rows = re.findall(r"^\| `([a-z-]+)` \((\d+)[^|]*\) \|(.*)\|$", EXACTNESS, re.MULTILINE)
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


def test_the_readme_is_short() -> None:
    """Under 120 lines, none of prose over 100 columns."""
    lines = README.splitlines()
    assert len(lines) < 120
    assert [line for line in lines if len(line) > 100 and not line.startswith(("|", "![", "<"))] == []


@pytest.mark.skipif(shutil.which("curl") is None or shutil.which("bash") is None, reason="the tour uses bash and curl")
def test_the_tour_runs(tmp_path: Path) -> None:
    """From top to bottom on a fresh installation: an empty home, no network, the server on a free port."""
    block = re.search(r"<!-- run: tour -->\n```sh\n(.+?)```", README, re.DOTALL)
    assert block is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    tour = block[1].replace("edgelora serve", f"edgelora serve --port {port}").replace("8321", port)
    command = tmp_path / "bin" / "edgelora"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m edgelora "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    program = f"trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{tour}"
    kept = {name: os.environ[name] for name in ("PYTHONPATH", "TMPDIR") if name in os.environ}
    environment = kept | {"HOME": str(tmp_path), "EDGELORA_HOME": str(tmp_path / "home"), "EDGELORA_OFFLINE": "1"}
    environment["PATH"] = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", program],
        cwd=tmp_path,
        env=environment | {"EDGELORA_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for part in (
        "do not know about hypertension",
        "Arr,",
        '"answer"',
        "Installed mine",
        "not medical advice",
        "choices",
    ):
        assert part in done.stdout + done.stderr, part
