"""The llama.cpp backend: one resident base, its vocabulary, and steps over mixed adapters."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from edgelora.backends.base import Capabilities, Chunk, Loaded
from edgelora.backends.ledger import Ledger
from edgelora.backends.llama_cpp.context import Context
from edgelora.backends.llama_cpp.graph_selftest import find_weights
from edgelora.backends.llama_cpp.kernel_selftest import KernelTrial
from edgelora.backends.llama_cpp.kv_identity import kv_identity
from edgelora.backends.llama_cpp.kv_types import check_kv_type
from edgelora.backends.llama_cpp.lora_method import LoraMethod, shares_of
from edgelora.backends.llama_cpp.model import Model, Progress
from edgelora.backends.llama_cpp.native_hook import NativeHookMethod
from edgelora.backends.llama_cpp.options import BackendOptions
from edgelora.backends.llama_cpp.python_hook import PythonHookMethod
from edgelora.backends.llama_cpp.tokenizer import LlamaTokenizer
from edgelora.backends.llama_cpp.upstream_lora import UpstreamLoraMethod
from edgelora.core.errors import BackendError
from edgelora.core.kv import SavedKv
from edgelora_models.shape import LlamaShape

log = logging.getLogger(__name__)


class LlamaCppBackend:
    """Implements `edgelora.backends.base.Backend`. Made by `open`."""

    def __init__(self, *, model: Model, context: Context, method: LoraMethod, options: BackendOptions) -> None:
        self._model = model
        self._context = context
        self._method = method
        self._tokenizer = LlamaTokenizer(model)
        self._kv_identity = kv_identity(model, context, options, method=method.kv_name)
        self._capabilities = Capabilities(
            adapter_format=method.adapter_format,
            mixed_adapters=method.mixed_adapters,
            max_slots=options.max_slots,
            max_sequences=options.max_sequences,
            max_step_tokens=options.max_step_tokens,
            context_length=min(options.context_length, model.trained_context, context.cells),
            kv_cells=context.cells,
            max_outputs=context.max_outputs,
            widens_adapters=method.widens_adapters,
        )
        self._ledger = Ledger(self._capabilities, vocab_size=self._tokenizer.size)

    @classmethod
    def open(cls, path: Path, *, shape: LlamaShape, settings: BackendOptions, progress: Progress | None = None) -> Self:
        """Load the GGUF base at `path`. `progress` receives 0.0 to 1.0, and its exception ends the load.

        If the self-test of the evaluation callback fails, a warning is logged and the next best method is used: numpy
        for the deltas, or llama.cpp's own LoRA. Raises UsageError if the base does not support the KV type, BaseError
        if it cannot be loaded, BackendError if the library cannot.
        """
        check_kv_type(settings.kv_type, shape)
        model = Model.load(path, shape=shape, progress=progress, weights=settings.weights)
        context: Context | None = None
        try:
            context = Context(model, settings, vocab=shape.vocab)
            method = _choose_method(model, context, shape, settings)
            return cls(model=model, context=context, method=method, options=settings)
        except BaseException:
            if context is not None:
                context.close()
            model.close()
            raise

    @property
    def name(self) -> str:
        return "llama.cpp"

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def tokenizer(self) -> LlamaTokenizer:
        return self._tokenizer

    @property
    def kv_identity(self) -> str:
        return self._kv_identity

    def set_threads(self, threads: int, batch_threads: int) -> None:
        """Set the compute threads of a step of one token, and of every other, from the next step on."""
        self._check_open()
        self._context.set_threads(threads, batch_threads)

    def load(self, path: Path) -> Loaded:
        return self._method.load(path)

    def attach(self, slot: int, loaded: Loaded) -> None:
        self._check_open()
        self._ledger.check_slot(slot)
        self._method.attach(slot, loaded)
        self._ledger.attach(slot)

    def detach(self, slot: int) -> None:
        self._method.detach(slot)
        self._ledger.detach(slot)

    def step(self, chunks: Sequence[Chunk]) -> list[NDArray[np.float32] | None]:
        self._check_open()
        self._ledger.check_step(chunks)
        # Chunks of the same adapters side by side: their rows are one range, and an adapter's weights are read once.
        ordered = sorted(chunks, key=lambda chunk: sorted(applied.slot for applied in chunk.adapters))
        self._compute(ordered)
        ends = accumulate(len(chunk.tokens) for chunk in ordered)
        rows = {chunk.sequence: range(end - chunk.logits, end) for chunk, end in zip(ordered, ends, strict=True)}
        return [self._context.logits(rows[chunk.sequence]) if chunk.logits else None for chunk in chunks]

    def clear(self, sequence: int) -> None:
        self._check_open()
        self._ledger.check_sequence(sequence)
        self._context.clear(sequence)
        self._ledger.hold(sequence, 0)

    def truncate(self, sequence: int, length: int) -> None:
        if length == 0:
            self.clear(sequence)
            return
        self._check_open()
        self._ledger.check_held(sequence, length)
        self._context.truncate(sequence, length)
        self._ledger.hold(sequence, length)

    def copy(self, source: int, target: int, length: int) -> None:
        self._check_open()
        self._ledger.check_held(source, length)
        self._ledger.check_empty(target, code="bad_copy")
        self._context.copy(source, target, length)
        self._ledger.hold(target, length)

    def save(self, sequence: int, length: int) -> SavedKv:
        self._check_open()
        self._ledger.check_held(sequence, length)
        if self._ledger.length(sequence) == length:
            return SavedKv(self._kv_identity, length, self._context.state(sequence))
        # llama.cpp saves whole sequences only. The copy shares the cells.
        spare = self._context.spare
        self._context.copy(sequence, spare, length)
        try:
            return SavedKv(self._kv_identity, length, self._context.state(spare))
        finally:
            self._context.clear(spare)

    def restore(self, sequence: int, saved: SavedKv) -> None:
        self._check_open()
        self._ledger.check_sequence(sequence)
        if saved.identity != self._kv_identity:
            raise BackendError("foreign_kv", f"Saved KV of another build or type: {saved.identity}.")
        self._ledger.check_empty(sequence, code="bad_restore")
        if not 0 < saved.length <= self._capabilities.context_length:
            raise BackendError("bad_length", f"{saved.length} tokens of saved KV do not fit into a sequence.")
        self._context.set_state(sequence, saved.data, length=saved.length)
        self._ledger.hold(sequence, saved.length)

    def allocated_bytes(self) -> tuple[int, int]:
        """Return (0, 0): llama.cpp does not count its memory."""
        return (0, 0)

    def close(self) -> None:
        for slot in self._ledger.attached:
            self.detach(slot)
        self._context.close()
        self._model.close()

    def _compute(self, chunks: Sequence[Chunk]) -> None:
        self._ledger.begin(chunks)
        code = self._method.run(shares_of(chunks), lambda: self._context.decode(chunks))
        if code == 1:
            cells = self._capabilities.kv_cells
            raise BackendError("kv_full", f"The KV of {cells} tokens has no room for this step.")
        if code != 0:
            raise BackendError("decode_failed", f"llama.cpp could not compute the step (code {code}).")
        self._ledger.finish(chunks)

    def _check_open(self) -> None:
        if self._context.handle is None:
            raise BackendError("backend_closed", "The base was closed.")


def _choose_method(model: Model, context: Context, shape: LlamaShape, options: BackendOptions) -> LoraMethod:
    """Return the fastest method that passes its self-test: native kernel, numpy, llama.cpp's own LoRA.

    A warning is logged for each failure.
    """
    evaluator = context.eval_callback.evaluator
    trial = None if evaluator is None else KernelTrial(evaluator)
    if options.method == "native":
        return UpstreamLoraMethod(model, context.handle, shape)
    try:
        weights = find_weights(context, shape, max_sequences=options.max_sequences, trial=trial)
    except BackendError as error:
        log.warning("%s Using llama.cpp's own LoRA: one adapter in a step, so answers with several are slower.", error)
        return UpstreamLoraMethod(model, context.handle, shape)
    if evaluator is None or trial is None:
        return PythonHookMethod(context.eval_callback, shape, weights)
    if trial.problem is not None:
        log.warning("%s Computing adapters with numpy, which is slower. Please report this.", trial.problem)
        return PythonHookMethod(context.eval_callback, shape, weights)
    return NativeHookMethod(evaluator, shape, weights, threads=context.threads_for)
