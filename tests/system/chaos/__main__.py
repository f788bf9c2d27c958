"""`python -m tests.system.chaos --count 200`: exit code 1 where anything was found. `--seed` repeats the same kills."""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.system.chaos.arena import chaos
from tests.system.chaos.deaths import DEATHS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.system.chaos", description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="kills (default 200)")
    parser.add_argument("--seed", type=int, default=1, help="of the kills and of what clients ask (default 1)")
    parser.add_argument("--backend", choices=["real", "fake"], default="real", help="what computes (default real)")
    options = parser.parse_args()
    began = time.perf_counter()
    logging.getLogger("edgelora.engine.process").setLevel(logging.CRITICAL)  # it reports every death
    for death in DEATHS:
        with tempfile.TemporaryDirectory(prefix="edgelora-chaos-") as folder:
            death(Path(folder))
        print(f"{time.perf_counter() - began:5.1f} s  {death.__module__}.{death.__name__}")
    record = chaos(options.count, kind=options.backend, seed=options.seed)
    for finding, times in Counter(record.findings).most_common():
        print(f"{finding}{f' ({times} times)' if times > 1 else ''}")
    for message, count in sorted(record.counts.items()):
        print(f"{count:6} {message}")
    print(f"{options.count} kills in {time.perf_counter() - began:.0f} s: {len(record.findings)} findings")
    return 1 if record.findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
