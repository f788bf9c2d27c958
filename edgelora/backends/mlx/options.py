"""How an MLX base is opened. Values only: no import of mlx."""

from __future__ import annotations

from dataclasses import dataclass

STACK_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class MlxOptions:
    context_length: int = 4096
    """Tokens of one sequence at most; never more than the base was made for, nor than `kv_cells`."""
    max_sequences: int = 8
    max_step_tokens: int = 512
    """Tokens of one step at most; the memory for activations grows with it."""
    max_slots: int = 8
    """Adapters attached at once."""
    kv_cells: int | None = None
    """Tokens of KV over all sequences; None: twice `context_length`."""
    max_outputs: int | None = None
    """Tokens of one step whose logits may be wanted; None: one for each sequence."""
    stack_bytes: int | None = None
    """Memory beside the adapters' own for copies of those that meet in one step, see `stacks`; 0: none are made. None:
    none on a CPU, where they cost more than they save, and STACK_BYTES where every product is a launch on a GPU."""

    @property
    def cells(self) -> int:
        return 2 * self.context_length if self.kv_cells is None else self.kv_cells

    @property
    def outputs(self) -> int:
        return self.max_sequences if self.max_outputs is None else max(self.max_outputs, self.max_sequences)
