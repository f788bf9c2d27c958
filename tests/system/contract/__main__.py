"""`python -m tests.system.contract`: every operation of the document, right and wrong requests. Exit code 1
for a finding.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from tests.system.contract.names import known_server
from tests.system.contract.runner import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.system.contract", description=__doc__)
    parser.add_argument("--examples", type=int, default=60, help="right requests, and wrong ones, an operation")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="operations whose path has this in it")
    options = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, known_server(Path(folder)) as known:
        url = known.manager.server.url
        outcome = run(url, known, examples=options.examples, seed=options.seed, only=options.only)
    for finding in outcome.findings:
        print(finding)
    statuses = ", ".join(f"{status} {count}" for status, count in sorted(outcome.statuses.items()))
    print(f"{outcome.tried} requests in {time.perf_counter() - began:.0f} s: {statuses}")
    print(f"never answered with success: {', '.join(sorted(outcome.operations - outcome.accepted)) or 'none'}")
    print(f"{len(outcome.findings)} findings")
    return 1 if outcome.findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
