"""A script: writes prefixes in forked children that are killed at one call after another, or all at once.

    python -m tests.support.prefix_kills ROOT kills    replaces a name, making room, killed before each call in turn
    python -m tests.support.prefix_kills ROOT race     four processes write, read and evict in one folder

Prints JSON lines for the test to judge.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from edgelora.core.errors import StorageError
from edgelora.core.kv import BASE
from edgelora.store.prefixes.store import PrefixStore
from tests.support.faults import at_call, die
from tests.support.prefixes import BASE_ALONE, HERE, acting, saved, store_at, tokens, with_adapters
from tests.support.store_kills import in_child, no_sync

BUDGET = 9000


def report(root: Path) -> dict[str, object]:
    """What lies there: names by age, files that cannot be read, and whether it is too much."""
    store = store_at(root, budget=BUDGET)
    named = [e for e in store.entries() if e.held.stored.name is not None]
    return {
        "named": sorted({str(e.held.stored.name) for e in named}),
        "broken": [str(e.held.stored.path) for e in store.entries() if not readable(store, e.held.stored.length)],
        "over_budget": sum(e.held.nbytes for e in store.entries()) > BUDGET,
    }


def readable(store: PrefixStore, length: int) -> bool:
    for origin in (BASE_ALONE, with_adapters(acting())):
        found = store.find(lambda _, origin=origin: origin, BASE, tokens(length))  # type: ignore[misc]
        if found is not None and found.stored.length == length:
            return bytes(store.read(found).data) == bytes(saved(length, nbytes=2000).data)
    return False


def kills(root: Path) -> None:
    template = store_at(root / "template", budget=BUDGET)
    template.keep(BASE_ALONE, tokens(20), saved(20, nbytes=2000), name="clinic")
    for length in (30, 31):
        template.keep(BASE_ALONE, tokens(length), saved(length, nbytes=2000))
    origin = with_adapters(acting())
    point, killed = 0, True
    while killed:
        point += 1
        folder = root / f"store-{point}"
        shutil.copytree(root / "template", folder)

        def work(point: int = point, folder: Path = folder) -> None:
            with at_call(point, die):
                store_at(folder, budget=BUDGET).keep(origin, tokens(25), saved(25, nbytes=2000), name="clinic")

        killed = os.waitpid(in_child(work), 0)[1] != 0
        found = report(folder) | {"point": point, "killed": killed, "named": which(folder)}
        store_at(folder, budget=BUDGET).keep(origin, tokens(25), saved(25, nbytes=2000), name="clinic")
        after = {"after": which(folder), "after_over_budget": report(folder)["over_budget"]}
        print(json.dumps(found | after), flush=True)
        shutil.rmtree(folder)


def which(root: Path) -> list[str]:
    """Which prefixes bear the name: the one that was there, the new one."""
    found = {e.held.stored.length for e in store_at(root).entries() if e.held.stored.name == "clinic"}
    return [word for length, word in ((20, "old"), (25, "new")) if length in found]


def race(root: Path) -> None:
    def work(number: int) -> None:
        store = store_at(root / "shared", budget=BUDGET)
        store.keep(BASE_ALONE, tokens(10 + number), saved(10 + number, nbytes=500), name=f"clinic-{number}")
        for n in range(40):
            length = 20 + (7 * n + 3 * number) % 25
            found = store.find(lambda length: HERE.origin(BASE, length), BASE, tokens(length))
            try:
                if found is not None:
                    store.read(found)
                store.keep(BASE_ALONE, tokens(length), saved(length, nbytes=2000))
            except StorageError as error:
                # Another one made room in between: then it is gone, and never half there.
                if error.code == "prefix_damaged":
                    raise

    children = [in_child(lambda n=n: work(n)) for n in range(4)]  # type: ignore[misc]
    statuses = [os.waitpid(child, 0)[1] for child in children]
    store = store_at(root / "shared", budget=BUDGET)
    broken = []
    for entry in store.entries():
        stored = entry.held.stored
        nbytes = 500 if stored.name else 2000
        found = store.find(lambda length: HERE.origin(BASE, length), BASE, tokens(stored.length))
        whole = found is not None and bytes(store.read(found).data) == bytes(saved(stored.length, nbytes=nbytes).data)
        broken += [] if whole else [str(stored.path)]
    over = sum(e.held.nbytes for e in store.entries()) > BUDGET
    names = sorted(str(e.held.stored.name) for e in store.entries() if e.held.stored.name)
    print(json.dumps({"statuses": statuses, "broken": broken, "over_budget": over, "named": names}))


if __name__ == "__main__":
    os.fsync = no_sync
    {"kills": kills, "race": race}[sys.argv[2]](Path(sys.argv[1]))
