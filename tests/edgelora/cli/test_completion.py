"""The shell's completion: verbs, options, installed names; and nothing at all where it cannot be told."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from edgelora.store.library import Library


def complete(line: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Complete `line` as bash does."""
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1), "_EDGELORA_COMPLETE": "bash_complete"}
    command = [sys.executable, "-m", "edgelora"]
    return subprocess.run(command, env=os.environ | words | environ, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("edgelora do", ["doctor"]),
        ("edgelora base p", ["pull"]),
        ("edgelora run --adapter med", ["medical-faq"]),
        ("edgelora run -a ", ["medical-faq", "pirate"]),
        ("edgelora show pi", ["pirate"]),
        ("edgelora serve --base ", ["tiny"]),
        ("edgelora base pull llama", ["llama-3.1-8b"]),
        ("edgelora convert x --to m", ["mlx"]),
        ("edgelora base convert x --to mlx --type 4", ["4bit"]),
    ],
)
def test_offers(installed: Library, line: str, offered: list[str]) -> None:
    """Verbs, choices and installed names are offered."""
    done = complete(line, EDGELORA_HOME=str(installed.settings.directories.data.parent))
    assert [item.partition(",")[2] for item in done.stdout.split()] == offered


def test_silence_on_errors() -> None:
    """A setting that cannot be read offers nothing and prints nothing."""
    done = complete("edgelora run -a m", EDGELORA_QUEUE="many")
    assert (done.stdout.strip(), done.stderr) == ("", "")
