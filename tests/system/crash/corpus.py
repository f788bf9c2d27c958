"""The files of the corpus: known killers by name, cuts at every boundary, damage by seed. Pure; writes nothing.

A case's name is enough to make it again: `gguf/killer/f64`, `peft/cut/17`, `mlx/mutant/4711`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from tests.support.fuzz import mutations
from tests.system.crash.boundaries import boundaries
from tests.system.crash.killers import KILLERS
from tests.system.crash.originals import KINDS, MAIN, Files, Kind, originals

_WORDS = ("", "LORA", "lora", "F64", "F32", "F8_E4M3", "I8", "\u0000", "x" * 300, "1e999", "regex(((", "[a-z]*" * 9)
_VALUES = (None, True, False, 0, -1, 1, 3, 1 << 31, 1 << 63, 1 << 70, 0.0, -0.5, 1e308, [], {}, [[]], {"a": 1}, *_WORDS)


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    kind: Kind
    files: Files

    @property
    def main(self) -> str:
        return MAIN[self.kind]


def killers() -> Iterator[Case]:
    """Every file of the table of what libllama does to its process, and its like in the other formats."""
    for kind in KINDS:
        for name, make in KILLERS[kind].items():
            yield Case(f"{kind}/killer/{name}", kind, make())


def cuts(kind: Kind) -> Iterator[Case]:
    """Each original, each file of it, cut at every structural boundary and one byte before and after it."""
    number = 0
    for files in originals(kind):
        for name, data in files.items():
            for cut in sorted({at + by for at in boundaries(name, data) for by in (-1, 0, 1)} & set(range(len(data)))):
                yield Case(f"{kind}/cut/{number}", kind, {**files, name: data[:cut]})
                number += 1


def mutant(kind: Kind, seed: int) -> Case:
    """One damaged copy: of bytes, mostly in the header; of a value in the configuration; or of two files spliced."""
    rng = random.Random(f"{kind}/{seed}")
    original = rng.choice(originals(kind))
    while (files := _damaged_folder(original, kind, rng)) == original:
        pass  # a byte was replaced by itself
    return Case(f"{kind}/mutant/{seed}", kind, files)


def mutants(first: int, count: int) -> Iterator[Case]:
    """`count` of them, the kinds in turn: numbers `first` and on. The same numbers are the same files."""
    for number in range(first, first + count):
        yield mutant(KINDS[number % len(KINDS)], number // len(KINDS))


def find(name: str) -> Case:
    """A case by its name. Raises KeyError."""
    kind, group, which = name.split("/", 2)
    if kind not in KINDS:
        raise KeyError(name)
    if group == "mutant":
        return mutant(kind, int(which))
    return _known()[name]


@cache
def _known() -> Mapping[str, Case]:
    """Every case that is not made of a seed, by name."""
    return {case.name: case for case in (*killers(), *(case for kind in KINDS for case in cuts(kind)))}


def _damaged_folder(original: Files, kind: Kind, rng: random.Random) -> Files:
    files = dict(original)
    if "adapter_config.json" in files and rng.random() < 0.3:
        files["adapter_config.json"] = _other_config(files["adapter_config.json"], rng)
    if "adapter_config.json" not in files or rng.random() < 0.8:
        name = rng.choice(sorted(files))
        files[name] = _damaged(name, files[name], kind, rng)
    return files


def _damaged(name: str, data: bytes, kind: Kind, rng: random.Random) -> bytes:
    if rng.random() < 0.1:
        other = rng.choice([files[name] for files in originals(kind) if name in files])
        return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]
    header = max(boundaries(name, data, data_too=False))
    within = header if rng.random() < 0.8 else None
    return next(mutations(data, seed=rng.randrange(1 << 40), count=1, within=within))


def _other_config(data: bytes, rng: random.Random) -> bytes:
    """A value, at any depth, replaced by one of another type or size; or a key taken away, or added."""
    config = json.loads(data)
    place = config
    while isinstance(inner := place[key := rng.choice(sorted(place))], Mapping) and inner and rng.random() < 0.8:
        place = inner
    choice = rng.random()
    if choice < 0.15:
        del place[key]
    elif choice < 0.25:
        place[rng.choice(("unknown", "", "r ", "modules"))] = rng.choice(_VALUES)
    else:
        place[key] = rng.choice(_VALUES)
    return json.dumps(config).encode()
