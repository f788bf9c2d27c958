"""How an MLX base is opened. Values only: no import of mlx."""

from __future__ import annotations

from dataclasses import dataclass

STACK_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class MlxOptions:
    context_length: int = 4096
    """Maximum tokens of one sequence, at most the base's trained context and `kv_cells`."""
    max_sequences: int = 8
    max_step_tokens: int = 512
    """Maximum tokens of one step; the memory for activations grows with it."""
    max_slots: int = 8
    """Maximum number of adapters attached at once."""
    kv_cells: int | None = None
    """Number of KV tokens over all sequences; None for twice `context_length`."""
    max_outputs: int | None = None
    """Maximum number of tokens of one step with logits; None for one per sequence."""
    stack_bytes: int | None = None
    """Memory beside the adapters' own for copies of those that meet in one step, see `stacks`; 0: none are made. None:
    none on a CPU, where they cost more than they save, and STACK_BYTES where every product is a launch on a GPU."""

    @property
    def cells(self) -> int:
        return 2 * self.context_length if self.kv_cells is None else self.kv_cells

    @property
    def outputs(self) -> int:
        return self.max_sequences if self.max_outputs is None else max(self.max_outputs, self.max_sequences)
