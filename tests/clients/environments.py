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

    @property
    def node(self) -> bool:
        return self.script.endswith(".mjs")


CLIENTS = (
    Client("openai-1", "openai==1.109.1", "openai_client.py"),
    Client("openai-2", "openai>=2,<3", "openai_client.py"),
    Client("openai-3", "openai>=3,<4", "openai_client.py"),
    Client("groq-1", "groq>=1,<2", "groq_client.py"),
    Client("together-2", "together>=2,<3", "together_v2.py"),
    Client("together-3", "together>=3,<4", "together_v3.py"),
    Client("npm-openai", "openai@latest", "openai_client.mjs"),
)

SCRIPTS = Path(__file__).with_name("scripts")


def possible(client: Client) -> bool:
    """Whether this machine can run it at all."""
    return not client.node or (shutil.which("node") is not None and shutil.which("npm") is not None)


def make(client: Client, folder: Path) -> list[str]:
    """The command that runs the client's script, its environment made in `folder` where it is not there yet."""
    home = folder / client.name
    if client.node:
        if not (home / "node_modules").is_dir():
            home.mkdir(parents=True, exist_ok=True)
            _run("npm", "install", "--prefix", str(home), "--no-audit", "--no-fund", "--silent", client.package)
        script = shutil.copy(SCRIPTS / client.script, home)  # Node looks for packages from the script's folder up.
        return ["node", str(script)]
    python = home / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    if not python.exists():
        _run(sys.executable, "-m", "venv", str(home))
        _run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", client.package)
    return [str(python), str(SCRIPTS / client.script)]


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=MAKE_SECONDS, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
