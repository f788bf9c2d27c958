"""The llama.cpp backend: one resident base, its vocabulary, and steps over mixed adapters."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgelora.backends.base import Capabilities, Chunk, Loaded, SavedKv
from edgelora.backends.llama_cpp.compiled import CompiledHookMethod
from edgelora.backends.llama_cpp.context import Context
from edgelora.backends.llama_cpp.hook import HookMethod
from edgelora.backends.llama_cpp.kv import check_kv_type
from edgelora.backends.llama_cpp.kv_identity import kv_identity
from edgelora.backends.llama_cpp.method import LoraMethod, shares_of
from edgelora.backends.llama_cpp.model import Model, Progress
from edgelora.backends.llama_cpp.native import NativeMethod
from edgelora.backends.llama_cpp.options import BackendOptions
from edgelora.backends.llama_cpp.selftest import find_weights
from edgelora.backends.llama_cpp.trial import Trial
from edgelora.backends.llama_cpp.vocabulary import LlamaVocabulary
from edgelora.errors import BackendError
from edgelora_models.shape import LlamaShape

log = logging.getLogger(__name__)


class LlamaCppBackend:
    """Implements `edgelora.backends.base.Backend`. Made by `open`."""

    def __init__(self, *, model: Model, context: Context, method: LoraMethod, options: BackendOptions) -> None:
        self._model = model
        self._context = context
        self._method = method
        self._vocabulary = LlamaVocabulary(model)
        self._kv_identity = kv_identity(model, context, options, method=type(method).__name__)
        self._attached: set[int] = set()
        self._lengths: dict[int, int | None] = {}
        """Tokens in each sequence's KV; None where a failed step left it undefined."""
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

    @classmethod
    def open(
        cls, path: Path, *, shape: LlamaShape, settings: BackendOptions, progress: Progress | None = None
    ) -> LlamaCppBackend:
        """Load the GGUF base at `path`. `progress` gets 0.0 to 1.0, and what it raises ends the load.

        Where the self-test of the evaluation callback fails, a warning is logged and the next best way is taken: numpy
        for the deltas, or llama.cpp's own LoRA.
        Raises UsageError where the base cannot have that KV type, BaseError where it cannot be loaded, BackendError
        where the library cannot.
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
    def vocabulary(self) -> LlamaVocabulary:
        return self._vocabulary

    @property
    def kv_identity(self) -> str:
        return self._kv_identity

    def set_threads(self, threads: int, batch_threads: int) -> None:
        """From the next step on: compute threads of a step of one token, and of every other."""
        self._check_open()
        self._context.set_threads(threads, batch_threads)

    def load(self, path: Path) -> Loaded:
        return self._method.load(path)

    def attach(self, slot: int, loaded: Loaded) -> None:
        self._check_open()
        if not 0 <= slot < self._capabilities.max_slots or slot in self._attached:
            raise BackendError("bad_slot", f"Slot {slot} is taken or not one of {self._capabilities.max_slots}.")
        self._method.attach(slot, loaded)
        self._attached.add(slot)

    def detach(self, slot: int) -> None:
        self._method.detach(slot)
        self._attached.discard(slot)

    def step(self, chunks: Sequence[Chunk]) -> list[NDArray[np.float32] | None]:
        self._check(chunks)
        # Chunks of the same adapters side by side: their rows are one range, and an adapter's weights are read once.
        ordered = sorted(chunks, key=lambda chunk: sorted(applied.slot for applied in chunk.adapters))
        self._compute(ordered)
        ends = accumulate(len(chunk.tokens) for chunk in ordered)
        rows = {chunk.sequence: range(end - chunk.logits, end) for chunk, end in zip(ordered, ends, strict=True)}
        return [self._context.logits(rows[chunk.sequence]) if chunk.logits else None for chunk in chunks]

    def clear(self, sequence: int) -> None:
        self._check_open()
        self._check_sequence(sequence)
        self._context.clear(sequence)
        self._lengths.pop(sequence, None)

    def truncate(self, sequence: int, length: int) -> None:
        if length == 0:
            self.clear(sequence)
            return
        self._check_open()
        self._check_held(sequence, length)
        self._context.truncate(sequence, length)
        self._lengths[sequence] = length

    def copy(self, source: int, target: int, length: int) -> None:
        self._check_open()
        self._check_held(source, length)
        self._check_sequence(target)
        if self._lengths.get(target, 0) != 0:
            raise BackendError("bad_copy", f"Sequence {target} holds tokens already.")
        self._context.copy(source, target, length)
        self._lengths[target] = length

    def save(self, sequence: int, length: int) -> SavedKv:
        self._check_open()
        self._check_held(sequence, length)
        if self._lengths[sequence] == length:
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
        self._check_sequence(sequence)
        if saved.identity != self._kv_identity:
            raise BackendError("foreign_kv", f"Saved KV of another build or type: {saved.identity}.")
        if self._lengths.get(sequence, 0) != 0:
            raise BackendError("bad_restore", f"Sequence {sequence} holds tokens already.")
        if not 0 < saved.length <= self._capabilities.context_length:
            raise BackendError("bad_length", f"{saved.length} tokens of saved KV do not fit into a sequence.")
        self._context.set_state(sequence, saved.data, length=saved.length)
        self._lengths[sequence] = saved.length

    def close(self) -> None:
        for slot in tuple(self._attached):
            self.detach(slot)
        self._context.close()
        self._model.close()

    def _compute(self, chunks: Sequence[Chunk]) -> None:
        lengths = {chunk.sequence: chunk.position + len(chunk.tokens) for chunk in chunks}
        self._lengths.update(dict.fromkeys(lengths))
        code = self._method.run(shares_of(chunks), lambda: self._context.decode(chunks))
        if code == 1:
            cells = self._capabilities.kv_cells
            raise BackendError("kv_full", f"The KV of {cells} tokens has no room for this step.")
        if code != 0:
            raise BackendError("decode_failed", f"llama.cpp could not compute the step (code {code}).")
        self._lengths.update(lengths)

    def _check(self, chunks: Sequence[Chunk]) -> None:
        """What llama.cpp would abort on, or compute wrongly, is refused here."""
        self._check_open()
        tokens = sum(len(chunk.tokens) for chunk in chunks)
        if not 0 < tokens <= self._capabilities.max_step_tokens:
            limit = self._capabilities.max_step_tokens
            raise BackendError("bad_step", f"A step of {tokens} tokens; 1 to {limit} can be.")
        if len({chunk.sequence for chunk in chunks}) != len(chunks):
            raise BackendError("bad_step", "A sequence has two chunks in one step.")
        if (outputs := sum(chunk.logits for chunk in chunks)) > self._capabilities.max_outputs:
            limit = self._capabilities.max_outputs
            raise BackendError("bad_step", f"Logits after {outputs} tokens of one step; {limit} at most can be.")
        for chunk in chunks:
            self._check_chunk(chunk)

    def _check_chunk(self, chunk: Chunk) -> None:
        self._check_sequence(chunk.sequence)
        held = self._lengths.get(chunk.sequence, 0)
        end = chunk.position + len(chunk.tokens)
        if not chunk.tokens or held != chunk.position or end > self._capabilities.context_length:
            raise BackendError(
                "bad_chunk",
                f"Sequence {chunk.sequence} holds {'undefined' if held is None else held} tokens of"
                f" {self._capabilities.context_length}; positions {chunk.position} to {end} do not follow.",
            )
        slots = [applied.slot for applied in chunk.adapters]
        for slot in slots:
            if slot not in self._attached or slots.count(slot) > 1:
                raise BackendError("bad_slot", f"Slot {slot} holds no adapter, or is named twice.")
        if not 0 <= chunk.logits <= len(chunk.tokens):
            raise BackendError("bad_chunk", f"Logits after {chunk.logits} of {len(chunk.tokens)} tokens.")
        if not all(0 <= token < self._vocabulary.size for token in chunk.tokens):
            raise BackendError("bad_token", f"A token of sequence {chunk.sequence} is not in the vocabulary.")

    def _check_held(self, sequence: int, length: int) -> None:
        self._check_sequence(sequence)
        held = self._lengths.get(sequence, 0)
        if held is None or not 0 < length <= held:
            what = "undefined" if held is None else held
            raise BackendError("bad_length", f"Sequence {sequence} holds {what} tokens, not {length} to keep.")

    def _check_open(self) -> None:
        if self._context.handle is None:
            raise BackendError("backend_closed", "The base was closed.")

    def _check_sequence(self, sequence: int) -> None:
        if not 0 <= sequence < self._capabilities.max_sequences:
            raise BackendError("bad_sequence", f"Sequence {sequence} is not one of {self._capabilities.max_sequences}.")


def _choose_method(model: Model, context: Context, shape: LlamaShape, options: BackendOptions) -> LoraMethod:
    """The fastest whose self-test holds: the native kernel, numpy, llama.cpp's own LoRA. A warning says what failed."""
    evaluator = context.tap.evaluator
    trial = None if evaluator is None else Trial(evaluator)
    if options.method == "native":
        return NativeMethod(model, context.handle, shape)
    try:
        weights = find_weights(context, shape, max_sequences=options.max_sequences, trial=trial)
    except BackendError as error:
        log.warning("%s Using llama.cpp's own LoRA: one adapter in a step, so answers with several are slower.", error)
        return NativeMethod(model, context.handle, shape)
    if evaluator is None or trial is None:
        return HookMethod(context.tap, shape, weights)
    if trial.problem is not None:
        log.warning("%s Computing adapters with numpy, which is slower. Please report this.", trial.problem)
        return HookMethod(context.tap, shape, weights)
    return CompiledHookMethod(evaluator, shape, weights, threads=context.threads_for)
