"""The MLX backend: one resident base, its vocabulary, and steps over mixed adapters.

Everything but `open`, `load` and the vocabulary is for the engine's thread: mlx computes on streams of the thread that
asks, and what one thread has begun another cannot finish. What is evaluated any thread may read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from edgelora.backends.base import Capabilities, Chunk, Loaded
from edgelora.backends.ledger import Ledger
from edgelora.backends.mlx.adapter import LoadedMlx, load_adapter
from edgelora.backends.mlx.forward import forward
from edgelora.backends.mlx.kv import Kv
from edgelora.backends.mlx.kv_identity import kv_identity
from edgelora.backends.mlx.layout import StepLayout, lay_out
from edgelora.backends.mlx.limits import allocated_bytes
from edgelora.backends.mlx.model import Base, Progress, load_base
from edgelora.backends.mlx.options import STACK_BYTES, MlxOptions
from edgelora.backends.mlx.slots import Slots
from edgelora.backends.mlx.tokenizer import FolderTokenizer
from edgelora.core.errors import BackendError
from edgelora.core.kv import SavedKv
from edgelora_models.shape import LlamaShape


class MlxBackend:
    """Implements `edgelora.backends.base.Backend`. Made by `open`."""

    def __init__(self, *, base: Base, tokenizer: FolderTokenizer, options: MlxOptions) -> None:
        self._tokenizer = tokenizer
        slots = Slots(stack_bytes=_stack_bytes(options))
        self._resident: _Resident | None = _Resident(base, slots, Kv(base.shape, base.dtype))
        self._kv_identity = kv_identity(base.dtype)
        self._capabilities = Capabilities(
            adapter_format="mlx",
            mixed_adapters=True,
            max_slots=options.max_slots,
            max_sequences=options.max_sequences,
            max_step_tokens=options.max_step_tokens,
            context_length=min(options.context_length, base.trained_context, options.cells),
            kv_cells=options.cells,
            max_outputs=options.outputs,
            widens_adapters=True,
        )
        self._ledger = Ledger(self._capabilities, vocab_size=base.shape.vocab)

    @classmethod
    def open(
        cls, path: Path, *, shape: LlamaShape, options: MlxOptions, progress: Progress | None = None
    ) -> MlxBackend:
        """Load the base in the folder `path`. `progress` gets 0.0 to 1.0, and what it raises ends the load.

        Raises BaseError where it cannot be loaded or has no tokenizer.
        """
        tokenizer = FolderTokenizer(path, shape.vocab)
        return cls(base=load_base(path, shape=shape, progress=progress), tokenizer=tokenizer, options=options)

    @property
    def name(self) -> str:
        return "mlx"

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def tokenizer(self) -> FolderTokenizer:
        return self._tokenizer

    @property
    def kv_identity(self) -> str:
        return self._kv_identity

    def load(self, path: Path) -> Loaded:
        return load_adapter(path, self._opened().base)

    def attach(self, slot: int, loaded: Loaded) -> None:
        resident = self._opened()
        self._ledger.check_slot(slot)
        if not isinstance(loaded, LoadedMlx):
            message = f"Slot {slot} was given {type(loaded).__name__}, not an adapter of the MLX backend."
            raise BackendError("foreign_adapter", message)
        resident.slots.attach(slot, loaded)
        self._ledger.attach(slot)

    def detach(self, slot: int) -> None:
        if self._resident is not None:
            self._resident.slots.detach(slot)
        self._ledger.detach(slot)

    def step(self, chunks: Sequence[Chunk]) -> list[NDArray[np.float32] | None]:
        resident = self._opened()
        self._ledger.check_step(chunks)
        self._ledger.begin(chunks)
        cells = self._capabilities.kv_cells
        if self._ledger.cells + sum(chunk.position + len(chunk.tokens) for chunk in chunks) > cells:
            raise BackendError("kv_full", f"The KV of {cells} tokens has no room for this step.")
        layout = lay_out(chunks)
        logits = resident.compute(layout)
        self._ledger.finish(chunks)
        if logits is None:
            return [None] * len(chunks)
        rows = (layout.wanted[chunk.sequence] for chunk in chunks)
        return [logits[own.start : own.stop].copy() if own else None for own in rows]

    def clear(self, sequence: int) -> None:
        kv = self._opened().kv
        self._ledger.check_sequence(sequence)
        kv.clear(sequence)
        self._ledger.hold(sequence, 0)

    def truncate(self, sequence: int, length: int) -> None:
        if length == 0:
            self.clear(sequence)
            return
        self._opened()
        self._ledger.check_held(sequence, length)
        self._ledger.hold(sequence, length)

    def copy(self, source: int, target: int, length: int) -> None:
        kv = self._opened().kv
        self._ledger.check_held(source, length)
        self._ledger.check_empty(target, code="bad_copy")
        kv.copy(source, target, length)
        self._ledger.hold(target, length)

    def save(self, sequence: int, length: int) -> SavedKv:
        kv = self._opened().kv
        self._ledger.check_held(sequence, length)
        return SavedKv(self._kv_identity, length, kv.save(sequence, length))

    def restore(self, sequence: int, saved: SavedKv) -> None:
        kv = self._opened().kv
        self._ledger.check_sequence(sequence)
        if saved.identity != self._kv_identity:
            raise BackendError("foreign_kv", f"Saved KV of another build or type: {saved.identity}.")
        self._ledger.check_empty(sequence, code="bad_restore")
        if not 0 < saved.length <= self._capabilities.context_length:
            raise BackendError("bad_length", f"{saved.length} tokens of saved KV do not fit into a sequence.")
        room = self._capabilities.kv_cells - self._ledger.cells
        if saved.length > room or not kv.restore(sequence, saved.data, saved.length):
            message = f"{saved.data.nbytes} bytes of saved KV are not {saved.length} tokens, or find no room in {room}."
            raise BackendError("kv_not_restored", message)
        self._ledger.hold(sequence, saved.length)

    def allocated_bytes(self) -> tuple[int, int]:
        return allocated_bytes()

    def close(self) -> None:
        if self._resident is not None:
            self._resident = None
            mx.clear_cache()

    def _opened(self) -> _Resident:
        if self._resident is None:
            raise BackendError("backend_closed", "The base was closed.")
        return self._resident


@dataclass(frozen=True, slots=True)
class _Resident:
    """All that is in memory until the backend is closed."""

    base: Base
    slots: Slots
    kv: Kv

    def compute(self, layout: StepLayout) -> NDArray[np.float32] | None:
        """Logits of all outputs. Everything is evaluated here: a graph must not grow from step to step."""
        try:
            self.slots.begin(layout.segments)
            logits = forward(self.base, self.slots, self.kv, layout)
            held = [array for piece in layout.pieces for array in self.kv.arrays(piece.sequence)]
            mx.eval(held if logits is None else [logits, *held])
        except (RuntimeError, ValueError, MemoryError) as error:
            raise BackendError("step_failed", f"mlx could not compute the step: {error}.") from error
        return None if logits is None else np.array(logits)


def _stack_bytes(options: MlxOptions) -> int:
    if options.stack_bytes is None:
        return STACK_BYTES if mx.default_device().type == mx.DeviceType.gpu else 0
    return options.stack_bytes
