"""LoRA by evaluation callback in native code: as `python_hook`, but no Python runs while a step is computed.

`python_hook` documents the method and is the reference: both raise the same error codes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgelora.backends.base import Loaded
from edgelora.backends.kernels.evaluator import Bound, Evaluator, Part
from edgelora.backends.kernels.native import Outcome
from edgelora.backends.llama_cpp.adapter import LoadedLora, load_lora
from edgelora.backends.llama_cpp.ggml_tensor import native_layout
from edgelora.backends.llama_cpp.lora_method import Share, StepShares
from edgelora.core.errors import BackendError
from edgelora.core.request import AdapterFormat
from edgelora_converters.lora.adapter import Target
from edgelora_models.modules import EMBEDDING
from edgelora_models.shape import LlamaShape


@dataclass(frozen=True, slots=True, eq=False)
class BoundLora(LoadedLora):
    """With the native table that points into its factors: over two hundred modules take milliseconds to enter."""

    bound: Bound


class NativeHookMethod:
    """Owns the attached adapters, by slot, bound to the native tables that point into their memory."""

    kv_name = "CompiledHookMethod"
    mixed_adapters = True
    adapter_format: AdapterFormat = "mapped"
    widens_adapters = False

    def __init__(
        self, evaluator: Evaluator, shape: LlamaShape, weights: Mapping[Target, int], *, threads: Callable[[int], int]
    ) -> None:
        """`weights`: the address of every module's weight tensor, as the self-test found them. `threads`: how
        many llama.cpp computes a step of so many rows with; the kernel takes the same ones."""
        self._evaluator = evaluator
        self._shape = shape
        self._modules = {target: number for number, target in enumerate(weights)}
        self._slots: dict[int, Bound] = {}
        self._threads = threads
        lookup = self._modules.get(Target(None, EMBEDDING), -1)
        evaluator.set_modules(native_layout(), list(weights.values()), threads=threads(1), lookup=lookup)

    def load(self, path: Path) -> BoundLora:
        return self.bind(load_lora(path, self._shape, widen=False))

    def bind(self, lora: LoadedLora) -> BoundLora:
        """Any thread: what is left for `attach` is to put it in its slot."""
        factors = {self._modules[target]: factors for target, factors in lora.factors.items()}
        return BoundLora(lora.path, lora.factors, self._evaluator.bind(factors))

    def attach(self, slot: int, loaded: Loaded) -> None:
        if not isinstance(loaded, BoundLora):
            raise BackendError(
                "foreign_adapter", f"Slot {slot} was given {type(loaded).__name__}, not a llama.cpp adapter."
            )
        self._slots[slot] = loaded.bound

    def detach(self, slot: int) -> None:
        self._slots.pop(slot, None)

    def run(self, step: StepShares, decode: Callable[[], int]) -> int:
        if not step.shares:
            return decode()
        self._evaluator.use_threads(self._threads(step.rows))
        self._evaluator.begin([self._part(share) for share in step.shares], rows=step.rows, outputs=step.outputs)
        try:
            code = decode()
        finally:
            outcome = self._evaluator.end()
        _check(outcome, code)
        return code

    def _part(self, share: Share) -> Part:
        return Part(
            bound=self._slots[share.slot],
            rows=share.rows,
            outputs=share.outputs,
            weight=share.weight,
            gate=share.gate,
            output_gate=share.output_gate,
        )


def _check(outcome: Outcome, code: int) -> None:
    """Raise what the native code noticed, and check that every module came by. Raises BackendError."""
    name, rows = bytes(outcome.node).decode("utf-8", "replace"), outcome.rows
    problems = {
        1: ("graph_layout", f"Node {name!r} is no product of plain float32 matrices."),
        2: ("graph_rows", f"Node {name!r} has {rows} rows, neither all of the step's nor its output rows."),
        3: ("graph_layout", f"Node {name!r} uses its weight a second time in one step."),
        4: ("graph_layout", f"Node {name!r} has other widths than the adapter's factors."),
        5: ("lora_kernel", "The adapter's delta could not be added: out of memory."),
        6: ("graph_layout", f"Node {name!r} looks up a token that the adapter does not have."),
    }
    if outcome.error:
        raise BackendError(*problems[outcome.error])
    if code == 0 and outcome.visited != outcome.expected:
        raise BackendError(
            "graph_incomplete",
            f"The graph passed by {outcome.expected - outcome.visited} of the {outcome.expected} modules the adapters"
            " change.",
        )
