"""`python -m tests.clients`: every client in its environment against one server. Exit code 1 where a case failed."""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from pathlib import Path

from tests.clients.environments import CLIENTS, Client, make, possible
from tests.clients.served import Served, serving

SCRIPT_SECONDS = 300.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.clients", description=__doc__)
    names = [client.name for client in CLIENTS]
    parser.add_argument("--only", action="append", choices=names, help="this client; may be given several times")
    parser.add_argument("--case", action="append", default=[], help="this case of the scripts; also several times")
    parser.add_argument("--environments", type=Path, help="keep the environments here, and use those that are there")
    options = parser.parse_args()
    chosen = [client for client in CLIENTS if client.name in (options.only or names)]
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as served:
        environments = options.environments or Path(folder) / "environments"
        failed = [client.name for client in chosen if not _run(client, environments, served, options.case)]
    print(
        f"{len(chosen) - len(failed)} of {len(chosen)} clients" + (f"; failed: {', '.join(failed)}" if failed else "")
    )
    return 1 if failed else 0


def _run(client: Client, environments: Path, served: Served, cases: list[str]) -> bool:
    if not possible(client):
        print(f"== {client.name}: left out, there is no node and npm here", flush=True)
        return True
    command = make(client, environments)
    began = time.perf_counter()
    done = subprocess.run(
        [*command, served.url, *cases], env=served.environment, capture_output=True, text=True,
        timeout=SCRIPT_SECONDS, check=False,
    )  # fmt: skip
    print(f"== {client.name} ({time.perf_counter() - began:.1f} s)\n{done.stdout}{done.stderr}", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    raise SystemExit(main())
