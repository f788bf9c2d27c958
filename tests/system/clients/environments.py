"""Environments with one client each. Owns what is in them, not what is run there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

MAKE_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Client:
    name: str
    package: str
    """As its package manager takes it."""
    script: str
    example: tuple[str, ...] = ()
    """Of examples/ with its arguments: `{}` is the archive, `[]` the repository. Run in the same environment."""

    @property
    def node(self) -> bool:
        return self.script.endswith(".mjs")


CLIENTS = (
    Client("openai-1", "openai==1.109.1", "openai_client.py"),
    Client("openai-2", "openai>=2,<3", "openai_client.py"),
    Client("openai-3", "openai>=3,<4", "openai_client.py"),
    Client(
        "groq-1", "groq>=1,<2", "groq_client.py",
        ("groq_upload.py", "{}", "example-groq", "edgelora-tiny", "What is hypertension?"),
    ),
    Client("together-2", "together>=2,<3", "together_v2.py"),
    Client(
        "together-3", "together>=3,<4", "together_v3.py",
        ("together_upload.py", "[]", "example-together", "edgelora-tiny", "What is hypertension?"),
    ),
    Client("npm-openai", "openai@latest", "openai_client.mjs", ("node.mjs", "What is hypertension?")),
)  # fmt: skip

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"

SCRIPTS = Path(__file__).with_name("scripts")


def possible(client: Client) -> bool:
    """Whether this machine can run it at all."""
    return not client.node or (shutil.which("node") is not None and shutil.which("npm") is not None)


def make(client: Client, folder: Path) -> Path:
    """The program that runs its scripts, its environment made in `folder` where it is not there yet."""
    home = folder / client.name
    if client.node:
        if not (home / "node_modules").is_dir():
            home.mkdir(parents=True, exist_ok=True)
            _run("npm", "install", "--prefix", str(home), "--no-audit", "--no-fund", "--silent", client.package)
        return Path("node")
    python = home / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    if not python.exists():
        _run(sys.executable, "-m", "venv", str(home))
        _run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", client.package)
    return python


def placed(client: Client, script: Path, folder: Path) -> Path:
    """Where a script is run from: Node looks for packages from its folder up."""
    return Path(shutil.copy(script, folder / client.name)) if client.node else script


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=MAKE_SECONDS, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
