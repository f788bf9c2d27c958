"""A script: adds an adapter to a store in forked children that are killed at one call after another.

    python -m tests.support.store_kills ROOT STRIDE    ROOT holds `template` (a store), and `second`, `third` (PEFT)
    python -m tests.support.store_kills ROOT race      ROOT holds `0` to `3` (PEFT); added to `store` all at once

Prints JSON lines for the test to judge. Forking from one process that has imported everything makes a hundred kills a
matter of seconds.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from edgelora.store.adapters.store import Store
from tests.support.adapters import TINY
from tests.support.faults import at_call, die
from tests.support.records import base_record

BASE = base_record(TINY)


def in_child(work: Callable[[], None]) -> int:
    """Begin `work` in a forked child; its exit status is 0 only where it ended by itself."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)


def kill_at(point: int, root: Path, store: Path) -> bool:
    """Add `second` in a child that dies before its `point`-th call. False where it came to its end."""

    def work() -> None:
        with at_call(point, die):
            Store(store).add(root / "second", name="kept", base=BASE)

    _, status = os.waitpid(in_child(work), 0)
    return status != 0


def report(point: int, root: Path, store_root: Path) -> dict[str, object]:
    """What a killed add has left, and whether the store still does everything."""
    store = Store(store_root)
    before = store.get("kept")
    found: dict[str, object] = {
        "point": point,
        "versions": [version.digest for version in before.versions],
        "problems": [problem.what for problem in store.verify()],
        "readable": store.ref("kept", BASE).path.is_file(),
    }
    manifest, _ = store.add(root / "second", name="kept", base=BASE)
    store.add(root / "third", name="another", base=BASE)
    found["after"] = [version.digest for version in manifest.versions]
    found["after_problems"] = [problem.what for problem in store.verify()]
    for _ in range(2):
        store.gc()
    found["after_gc"] = [problem.what for problem in store.verify()]
    return found


def kills(root: Path, stride: int) -> None:
    point, killed = 1, True
    while killed:
        store = root / f"store-{point}"
        shutil.copytree(root / "template", store)
        killed = kill_at(point, root, store)
        print(json.dumps({"killed": killed} | report(point, root, store)), flush=True)
        shutil.rmtree(store)
        point += stride


def race(root: Path) -> None:
    def adding(n: int) -> Callable[[], None]:
        return lambda: (Store(root / "store").add(root / str(n), name="same", base=BASE), None)[1]

    children = [in_child(adding(n)) for n in (0, 1, 2, 3, 0)]
    print(json.dumps([os.waitpid(child, 0)[1] for child in children]))


def no_sync(descriptor: int) -> None:
    """A kill loses nothing that was written; only a power cut does. A busy disk would make minutes of this."""


if __name__ == "__main__":
    os.fsync = no_sync
    if sys.argv[2] == "race":
        race(Path(sys.argv[1]))
    else:
        kills(Path(sys.argv[1]), int(sys.argv[2]))
