"""The part of the start-up self-test that tests the native callback.

It adds a known delta to every module of a step, natively and, on a copy, with numpy. If they differ, numpy computes the
deltas. `graph_selftest` checks the graph's layout.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelora.backends.kernels.evaluator import Evaluator, Part
from edgelora.backends.kernels.reference import Factors, Group, add_delta
from edgelora.backends.llama_cpp.ggml_tensor import native_layout

_RANK = 2
_WEIGHT = 0.5


class KernelTrial:
    """Uses an evaluator while its Python watcher has a step. `problem` is the first thing that was not right."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.problem: str | None = None
        self._evaluator = evaluator
        self._factors: dict[tuple[int, int], Factors] = {}
        """By width in and out: modules of one shape share them."""

    def visit(self, node: int, *, weight: int, name: str, x: NDArray[Any], y: NDArray[np.float32]) -> None:
        """The computed node at this address is the product of the weight tensor at that one: y [rows, out], its own
        memory, of x [rows, in]; or what was looked up in it for the tokens x, int32 [rows]. It is changed.
        """
        if self.problem is not None:
            return
        gate = np.linspace(1.0, 0.25, len(y), dtype=np.float32)
        factors = self._looked_up(x, y.shape[1]) if x.ndim == 1 else self._known(x.shape[1], y.shape[1])
        expected = y.copy()
        add_delta(expected, x, [Group(0, len(y), factors, _WEIGHT, gate)])
        if not self._add(node, weight, factors, tuple(map(float, gate))):
            self.problem = f"The native callback refused {name}."
        elif not np.allclose(y, expected, rtol=1e-4, atol=1e-4 * float(np.abs(expected).max())):
            self.problem = f"The native callback added something else than numpy to {name}."

    def _add(self, node: int, weight: int, factors: Factors, gate: tuple[float, ...]) -> bool:
        evaluator, rows = self._evaluator, (0, len(gate))
        evaluator.set_modules(native_layout(), [weight], threads=1, lookup=0 if factors.lookup else -1)
        part = Part(evaluator.bind({0: factors}), rows, rows, _WEIGHT, gate, gate)
        evaluator.begin([part], rows=len(gate), outputs=len(gate))
        try:
            done = evaluator.evaluate(node, ask=True) and evaluator.evaluate(node, ask=False)
        finally:
            outcome = evaluator.end()
            evaluator.watch(True)
        return done and outcome.error == 0 and outcome.visited == 1

    def _looked_up(self, tokens: NDArray[np.int32], out: int) -> Factors:
        table = self._known(int(tokens.max()) + 1, out)
        return replace(table, a=np.ascontiguousarray(table.a.T), lookup=True)

    def _known(self, width: int, out: int) -> Factors:
        if (width, out) not in self._factors:
            a = np.cos(np.arange(_RANK * width, dtype=np.float32)).reshape(_RANK, width)
            b = np.sin(np.arange(_RANK * out, dtype=np.float32)).reshape(_RANK, out)
            scale, bias = (np.linspace(*ends, out, dtype=np.float32) for ends in ((0.5, 1.5), (-0.1, 0.1)))
            self._factors[width, out] = Factors(a, b, scale, bias, multiplier=0.75)
        return self._factors[width, out]
