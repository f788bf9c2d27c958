"""`python -m benchmarks.serving.soak [--minutes 20] [--adapters 200]`: full load for a while, and what is left behind.

A real `edgelora serve` on the built-in base, with a budget for adapters that holds a few dozen of them. Clients ask
without a pause: long and short, streamed and whole, conversations, compositions, clients that hang up, bad requests;
meanwhile adapters get new versions, disappear and come back. The engine writes down what it holds
(benchmarks.harness.watched).

Exit code 0: every request got an answer it may get; nothing is left of leases, KV, threads and files once the load is
gone; memory is flat (benchmarks.harness.trend) after the first 40% of the time. Otherwise 1. Memory is judged
in runs of ten
minutes or more: before that the arenas of Python and of malloc are still filling.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.client import exchange, post_json
from benchmarks.harness.homes import Home, builtin_home, install_random, settings_of
from benchmarks.harness.machine import describe
from benchmarks.harness.targets import EdgeloraServer, Limits
from benchmarks.harness.trend import BLOCKS, trend
from benchmarks.harness.watched import INTERVAL, WATCH_FILE, Sample
from benchmarks.serving.traffic import NOBODY, Counts, Traffic
from edgelora.store.library import open_library

BASELINE_SECONDS = 3.0
QUIET_SECONDS = 15.0
"""After the load: idle worker threads of the server end after ten."""
WARM_UP = 0.4
"""Share of the time that memory may grow in."""
JUDGED_MINUTES = 10.0
"""A shorter run says nothing of memory."""
SPARE_FILES, SPARE_THREADS = 2, 2
"""The last connection may still be open, and a worker thread may have been needed for it."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        home = builtin_home(options.home or Path(scratch, "home"), options.adapters, rank=4)
        watch = options.samples or Path(scratch, "watch")
        environ = {WATCH_FILE: str(watch), "EDGELORA_ADAPTER_MEMORY": str(options.memory)}
        limits = Limits(options.context, options.sequences, options.threads)
        counts, disk = Counts(), Disk()
        with EdgeloraServer(
            home.path, home.names, limits, module="benchmarks.harness.watched", engine="in-process", environ=environ
        ) as server:
            baseline, loaded = asyncio.run(_run(server, home, watch, options, counts, disk))
        samples = [Sample(**json.loads(line)) for line in watch.read_text().splitlines()]
        said = server.output()
    judged = options.minutes >= JUDGED_MINUTES
    problems = [*_answers(counts, said), *_leftovers(baseline, samples)]
    problems += _memory(samples, *loaded) if judged else []
    print(f"\n{sum(counts.sent.values())} requests: {dict(counts.sent)}")
    print(f"Answers by status: {dict(sorted(counts.statuses.items()))}")
    print(f"Adapters replaced {disk.replaced} times, removed and added again {disk.removed} times")
    print(f"{samples[-1].steps} steps, {samples[-1].tokens} tokens; {describe()}")
    for problem in problems:
        print(f"FAILED: {problem}")
    good = "Nothing lost, nothing left behind, " + (
        "memory flat." if judged else "memory not judged in so short a run."
    )
    print("FAILED" if problems else good)
    return 1 if problems else 0


@dataclass
class Disk:
    """What happened to the installed adapters meanwhile."""

    replaced: int = 0
    removed: int = 0


async def _run(
    server: EdgeloraServer, home: Home, watch: Path, options: argparse.Namespace, counts: Counts, disk: Disk
) -> tuple[Sample, tuple[float, float]]:
    """Baseline, load, quiet. Returns the idle sample before the load, and when the load began and ended."""
    removed: set[str] = set()
    await _settle(server, home)
    baseline = _last(watch)
    start, end = time.monotonic(), time.monotonic() + 60 * options.minutes
    clients = [
        Traffic(server.port, list(home.names), removed, counts, seed=options.seed + number)
        for number in range(options.clients)
    ]
    changing = asyncio.create_task(_change(home, removed, disk, until=end, seed=options.seed))
    await asyncio.gather(*(_keep_asking(client, until=end) for client in clients))
    await changing
    await asyncio.sleep(QUIET_SECONDS)
    await _settle(server, home)
    return baseline, (start, end)


async def _keep_asking(client: Traffic, *, until: float) -> None:
    while time.monotonic() < until:
        await client.one()


async def _settle(server: EdgeloraServer, home: Home) -> None:
    """One request, and the time in which everything of it ends."""
    body = {"model": home.names[0], "prompt": [300], "max_tokens": 2}
    await exchange(NOBODY, server.port, post_json("/v1/completions", body), intended=0.0)
    await asyncio.sleep(BASELINE_SECONDS)


async def _change(home: Home, removed: set[str], disk: Disk, *, until: float, seed: int) -> None:
    """New versions, and names that go and come back, as another process's `edgelora add` and `rm` do it."""
    chance = random.Random(seed)
    library = open_library(settings_of(home.path))
    base = library.bases.current()
    scratch = home.path / "changing"
    for number in _endless():
        await asyncio.sleep(chance.uniform(0.1, 0.6))
        if time.monotonic() > until:
            return
        # The first stays: what is left behind is looked at with it.
        name = chance.choice(home.names[1:])
        if chance.random() < 0.5:
            removed.add(name)
            await asyncio.to_thread(library.store.remove, name)
            await asyncio.sleep(chance.uniform(0.0, 0.5))
            disk.removed += 1
        else:
            disk.replaced += 1
        await asyncio.to_thread(install_random, library, base, scratch, name=name, rank=4, seed=10_000 + number)
        # A request that was on its way may still meet what was there before.
        asyncio.get_running_loop().call_later(5.0, removed.discard, name)


def _endless() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1


def _last(watch: Path) -> Sample:
    return Sample(**json.loads(watch.read_text().splitlines()[-1]))


def _answers(counts: Counts, said: str) -> Iterator[str]:
    yield from counts.wrong[:10]
    if len(counts.wrong) > 10:
        yield f"and {len(counts.wrong) - 10} more answers that nobody should get"
    if "Traceback" in said:
        yield f"the server logged a traceback:\n{said[said.index('Traceback') :][:2000]}"


def _leftovers(baseline: Sample, samples: Sequence[Sample]) -> Iterator[str]:
    """What the last sample, taken in quiet, still holds that the one before the load did not."""
    for sample in samples:
        if sample.wrong:
            yield f"the engine's own recount: {sample.wrong}"
            break
    end = samples[-1]
    rows = (
        ("live requests", end.live, 0),
        ("leases", end.leases, 0),
        ("KV tokens of running requests", end.running_cells, 0),
        ("KV tokens in llama.cpp beyond the warm ones", end.backend_cells - end.warm_cells, 0),
        # A mapped adapter is an open file.
        ("open files", end.files, baseline.files + end.slots - baseline.slots + SPARE_FILES),
        ("threads", end.threads, baseline.threads + SPARE_THREADS),
    )
    print("\n| left when the load is gone | before | at most under load | after |\n|---|---:|---:|---:|")
    for what in ("live", "leases", "slots", "running_cells", "warm_cells", "backend_cells", "files", "threads"):
        most = max(getattr(sample, what) for sample in samples)
        print(f"| {what.replace('_', ' ')} | {getattr(baseline, what)} | {most} | {getattr(end, what)} |")
    if not end.idle:
        yield "the engine did not come to rest"
    for what, found, allowed in rows:
        if found > allowed:
            yield f"{what}: {found} are left, {allowed} at most may be"
    if end.backend_cells < end.warm_cells:
        yield f"llama.cpp holds {end.backend_cells} KV tokens; {end.warm_cells} are said to be warm"


def _memory(samples: Sequence[Sample], start: float, end: float) -> Iterator[str]:
    """The trend of each kind of memory, under load and after the warm-up."""
    from_then_on = start + WARM_UP * (end - start)
    kept = [sample for sample in samples if from_then_on <= sample.at <= end]
    if len(kept) < 2 * BLOCKS:
        yield f"{len(kept)} samples are too few for memory: {2 * BLOCKS * INTERVAL:g} s after the warm-up at least"
        return
    times = [sample.at for sample in kept]
    print("\n| memory | mean | growth an hour | 95% interval | verdict |\n|---|---:|---:|---|---|")
    for what in ("resident", "proportional", "anonymous"):
        found = trend(times, [getattr(sample, what) for sample in kept])
        hourly = [3600 * slope / 1e6 for slope in (found.slope, found.low, found.high)]
        interval = f"{hourly[1]:+.1f} to {hourly[2]:+.1f} MB"
        print(f"| {what} | {found.mean / 1e6:.1f} MB | {hourly[0]:+.1f} MB | {interval} | {found.verdict} |")
        if found.verdict != "flat":
            yield f"{what} memory: {found.verdict} ({interval} an hour, over {found.seconds:.0f} s)"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.soak", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--samples", type=Path, help="file to leave the samples in, one JSON object a line")
    add("--minutes", type=float, default=20.0, help="of load (default 20)")
    add("--adapters", type=int, default=200, help="installed (default 200)")
    add("--clients", type=int, default=24, help="asking at any time (default 24)")
    add("--memory", type=int, default=16, help="MiB for adapters in memory (default 16)")
    add("--context", type=int, default=1024, help="tokens of one sequence; the KV holds two such (default 1024)")
    add("--sequences", type=int, default=8, help="answers computed side by side (default 8)")
    add("--threads", type=int, default=None, help="compute threads (default: edgelora's own)")
    add("--home", type=Path, help="folder that keeps the installed adapters for the next run (default: none)")
    add("--seed", type=int, default=0, help="of everything drawn (default 0)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
