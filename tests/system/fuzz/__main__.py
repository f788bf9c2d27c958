"""`python -m tests.system.fuzz --count 50000`: that many cases. Exit code 1 where anything was found; `--case
N` shows one.
"""

from __future__ import annotations

import argparse
import time

from tests.system.fuzz.cases import make_case
from tests.system.fuzz.runner import run, target
from tests.system.fuzz.server import TOKEN
from tests.system.fuzz.wire import attempt


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.system.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=50_000, help="malformed requests (default 50,000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first (default 0)")
    parser.add_argument("--case", type=int, help="only this one, and show it")
    options = parser.parse_args()
    if options.case is not None:
        return show(options.case)
    began = time.perf_counter()
    report = run(range(options.first, options.first + options.count))
    for finding in report.findings:
        print(finding)
    seconds = time.perf_counter() - began
    print(f"{sum(report.kinds.values())} cases on {report.routes} routes in {seconds:.0f} s: {dict(report.kinds)}")
    print(f"answers: {dict(sorted(report.statuses.items()))}")
    for state in report.states:
        print({name: value for name, value in state.items() if name != "errors"})
    print(f"{len(report.findings)} findings")
    return 1 if report.findings else 0


def show(number: int) -> int:
    with target() as server:
        case = make_case(number, server.routes, token=TOKEN)
        print(case.kind, case.route, case.ending)
        for piece in case.pieces:
            print(piece.pause, piece.data[:2000], "..." if len(piece.data) > 2000 else "")
        outcome = attempt(server.port, case)
        print(outcome)
        print(*server.settled()["errors"], sep="\n")
    return 1 if outcome.findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
