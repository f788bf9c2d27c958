"""`python -m tests.system.crash --count 10000`: the whole corpus. Exit code 1 where anything was found;
`--case NAME` one.
"""

from __future__ import annotations

import argparse
import time

from tests.system.crash.corpus import cuts, killers, mutants
from tests.system.crash.originals import KINDS
from tests.system.crash.runner import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.system.crash", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="damaged files (default 10,000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first (default 0)")
    parser.add_argument("--case", action="append", help="try this one only; may be given several times")
    options = parser.parse_args()
    names = options.case or [
        *(case.name for case in killers()),
        *(case.name for kind in KINDS for case in cuts(kind)),
        *(case.name for case in mutants(options.first, options.count)),
    ]
    began = time.perf_counter()
    outcome = run(names)
    for finding in outcome.findings:
        print(finding)
    common = ", ".join(f"{code} {count}" for code, count in outcome.codes.most_common(40))
    print(f"{outcome.tried} files in {time.perf_counter() - began:.0f} s: {common}")
    print(f"{len(outcome.findings)} findings")
    return 1 if outcome.findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
