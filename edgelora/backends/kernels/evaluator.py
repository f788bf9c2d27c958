"""The native evaluation callback: which weights are modules, and what one step adds to their products.

Wraps evaluate.c's state. While it is idle or in a step of its own, no Python runs for any node; a Python watcher, as
the start-up self-test is, gets every node through it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgelora.backends.kernels.native import (
    CALLBACK,
    INSTRUCTION_SETS,
    BatchLayout,
    NativeShare,
    Outcome,
    Pair,
    instruction_sets,
    library,
    pair_of,
)
from edgelora.backends.kernels.reference import Factors

IDLE, PYTHON = 0, 1


@dataclass(frozen=True, slots=True, eq=False)
class Bound:
    """One adapter's factors by module number, kept alive with the native table that points into them."""

    factors: Mapping[int, Factors]
    pairs: Mapping[int, Pair]
    table: Any
    """A ctypes array of pointers, [modules]; null where the adapter leaves a module alone."""


@dataclass(frozen=True, slots=True)
class Part:
    """One adapter's part of a step: its range among all rows and among output rows. Parts may overlap."""

    bound: Bound
    rows: tuple[int, int]
    outputs: tuple[int, int]
    weight: float = 1.0
    gate: tuple[float, ...] = ()
    """Factor of each of `rows`, times `weight`; empty means all ones."""
    output_gate: tuple[float, ...] = ()
    """Factor of each of `outputs`, times `weight`; empty means all ones."""


class Evaluator:
    """Owns one native state. `address` and `user` are the callback and its argument; it must outlive their users."""

    def __init__(self, python: Any) -> None:
        """`python` is a ctypes callback that takes node, ask, user. Raises RuntimeError without the library."""
        lib = library()
        if lib is None:
            raise RuntimeError("the native kernel was not built")
        self._lib = lib
        self._python = ctypes.cast(python, CALLBACK)
        self.address = ctypes.cast(lib.lora_evaluate, ctypes.c_void_p).value
        self.user: int | None = lib.lora_open(self._python)
        if not self.user:
            raise MemoryError
        self._modules = self._threads = 0
        self._lookup = -1
        self._layout, self._addresses = BatchLayout(), (ctypes.c_void_p * 0)()
        self._shares: Any = None
        self._gates: list[Any] = []
        """The arrays that the shares of the step point into."""

    def __del__(self) -> None:
        if user := getattr(self, "user", None):
            self._lib.lora_free(user)

    def watch(self, on: bool) -> None:
        """Pass every node to the Python callback if `on`, otherwise to none."""
        self._lib.lora_set_mode(self.user, PYTHON if on else IDLE)

    def evaluate(self, node: int, *, ask: bool) -> bool:
        """Call the callback as llama.cpp does for the node at this address.

        Returns whether the node is wanted (`ask`), or whether it was changed after it was computed.
        """
        return bool(self._lib.lora_evaluate(node, ask, self.user))

    def set_modules(self, layout: BatchLayout, weights: Sequence[int], *, threads: int, lookup: int = -1) -> None:
        """Number the modules by the addresses of their weight tensors, in this order. `lookup`: the number of the one
        whose rows are looked up, the embedding; -1 for none. Raises MemoryError."""
        self._layout, self._addresses, self._lookup = layout, (ctypes.c_void_p * len(weights))(*weights), lookup
        self._modules = len(weights)
        self._register(threads)

    def use_threads(self, threads: int) -> None:
        """Use this number of threads from the next step on; a change costs microseconds. Raises MemoryError."""
        if threads != self._threads:
            self._register(threads)

    def _register(self, threads: int) -> None:
        isa, count = INSTRUCTION_SETS[instruction_sets()[-1]], self._modules
        layout = ctypes.byref(self._layout)
        if self._lib.lora_modules(self.user, layout, self._addresses, count, self._lookup, isa, threads):
            raise MemoryError
        self._threads = threads

    def bind(self, factors: Mapping[int, Factors]) -> Bound:
        """Return an adapter's factors by module number."""
        pairs = {module: pair_of(pair) for module, pair in factors.items()}
        table = (ctypes.c_void_p * self._modules)()
        for module, pair in pairs.items():
            table[module] = ctypes.addressof(pair)
        return Bound(factors, pairs, table)

    def begin(self, parts: Sequence[Part], *, rows: int, outputs: int) -> int:
        """Add these parts' deltas to the graph's products until `end`. Return the number of modules they change.

        Raises MemoryError.
        """
        self._shares, self._gates = (NativeShare * len(parts))(), []
        for share, part in zip(self._shares, parts, strict=True):
            share.pairs = ctypes.addressof(part.bound.table)
            share.rows[:], share.outputs[:], share.weight = part.rows, part.outputs, part.weight
            share.gate, share.output_gate = self._gate(part.gate), self._gate(part.output_gate)
        expected = int(self._lib.lora_begin(self.user, self._shares, len(parts), rows, outputs))
        if expected < 0:
            raise MemoryError
        return expected

    def end(self) -> Outcome:
        """Return to idle, and return the outcome of the step."""
        outcome = Outcome()
        self._lib.lora_end(self.user, ctypes.byref(outcome))
        self._shares, self._gates = None, []
        return outcome

    def _gate(self, factors: tuple[float, ...]) -> int | None:
        if not factors:
            return None
        self._gates.append((ctypes.c_float * len(factors))(*factors))
        return ctypes.addressof(self._gates[-1])
