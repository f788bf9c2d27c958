"""`python -m tests.system.clients`: every client in its environment against one server. Exit code 1 where a
case failed.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.system.clients.environments import CLIENTS, EXAMPLES, SCRIPTS, Client, make, placed, possible
from tests.system.clients.served import REPOSITORY, Served, serving
from tests.system.clients.window import Window, browser, page

SCRIPT_SECONDS = 300.0
WINDOW = "desktop.html"
MARK = "not medical advice"
"""Stands in every answer that the examples are to give."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.system.clients", description=__doc__)
    names = [*(client.name for client in CLIENTS), WINDOW]
    parser.add_argument("--only", action="append", choices=names, help="this client; may be given several times")
    parser.add_argument("--case", action="append", default=[], help="this case of the scripts; also several times")
    parser.add_argument("--environments", type=Path, help="keep the environments here, and use those that are there")
    options = parser.parse_args()
    chosen = options.only or names
    with (
        tempfile.TemporaryDirectory() as folder,
        page(EXAMPLES / WINDOW) as window,
        serving(Path(folder), origin=window.origin) as served,
    ):
        environments = options.environments or Path(folder) / "environments"
        clients = [client for client in CLIENTS if client.name in chosen]
        failed = [client.name for client in clients if not _run(client, environments, served, options.case)]
        if WINDOW in chosen and not _look(window, served):
            failed.append(WINDOW)
    print(
        f"{len(chosen) - len(failed)} of {len(chosen)} clients" + (f"; failed: {', '.join(failed)}" if failed else "")
    )
    return 1 if failed else 0


def _run(client: Client, environments: Path, served: Served, cases: Sequence[str]) -> bool:
    if not possible(client):
        print(f"== {client.name}: left out, there is no node and npm here", flush=True)
        return True
    program = make(client, environments)

    def call(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(program), str(placed(client, script, environments)), *arguments], env=served.environment,
            capture_output=True, text=True, timeout=SCRIPT_SECONDS, check=False,
        )  # fmt: skip

    began = time.perf_counter()
    done = call(SCRIPTS / client.script, served.url, *cases)
    print(f"== {client.name} ({time.perf_counter() - began:.1f} s)\n{done.stdout}{done.stderr}", flush=True)
    good = done.returncode == 0
    if client.example and not cases:
        name, *arguments = client.example
        known = {"{}": served.environment["EDGELORA_ARCHIVE"], "[]": REPOSITORY}
        shown = call(EXAMPLES / name, *(known.get(argument, argument) for argument in arguments))
        answered = shown.returncode == 0 and MARK in shown.stdout
        print(f"{'ok   ' if answered else 'FAIL '} examples/{name}\n{shown.stdout}{shown.stderr}", flush=True)
        good = good and answered
    return good


def _look(window: Window, served: Served) -> bool:
    executable = browser()
    if executable is None:
        print(f"== {WINDOW}: left out, there is no Chromium here", flush=True)
        return True
    shown = window.seen(executable, served.url)
    print(f"== {WINDOW}\n{'ok   ' if MARK in shown else 'FAIL '} {shown}", flush=True)
    return MARK in shown


if __name__ == "__main__":
    raise SystemExit(main())
