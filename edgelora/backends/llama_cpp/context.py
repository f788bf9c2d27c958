"""llama.cpp's context: the KV, the activations, and one decode of one step. Knows nothing of adapters."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelora.backends.base import Chunk
from edgelora.backends.kernels import native
from edgelora.backends.llama_cpp.batch import Batch
from edgelora.backends.llama_cpp.eval_callback import EvalCallback
from edgelora.backends.llama_cpp.kv_types import FORMATS
from edgelora.backends.llama_cpp.libllama import captured_errors, library
from edgelora.backends.llama_cpp.model import Model
from edgelora.backends.llama_cpp.options import BackendOptions
from edgelora.core.errors import BackendError, BaseError
from edgelora.core.machine import usable_cores

SELF_TEST_TOKENS = 8
SELF_TEST_OUTPUTS = 2


class Context:
    """Owns a `llama_context` of `model`, its batch memory and its tap. Engine thread only."""

    def __init__(self, model: Model, options: BackendOptions, *, vocab: int) -> None:
        """Allocate for `options`; `vocab` is the width of a row of logits. Raises BaseError where memory is short."""
        self.threads = options.threads or usable_cores()
        self.batch_threads = options.batch_threads or self.threads
        self.spare = options.max_sequences
        """Id of an additional sequence, hidden from the engine, to which a prefix is copied in order to save it."""
        # The library ends the process where there is less than one for each sequence.
        self.max_outputs = max(options.max_outputs or 0, self.spare + 1, SELF_TEST_OUTPUTS)
        self.eval_callback = EvalCallback(native=_native_kernel(options))
        self._batch = Batch(_step_tokens(options))
        self._vocab = vocab
        with model.held() as handle, captured_errors() as errors:
            created = library().llama_init_from_model(handle, self._parameters(options))
        if not created:
            reason = " ".join(errors) or "it gave no reason"
            raise BaseError(
                "context_refused",
                f"llama.cpp cannot make room for a context of {options.context_length} tokens: {reason}.",
                "Start with a smaller context (--context) or fewer sequences.",
            )
        self.handle: Any = created

    def _parameters(self, options: BackendOptions) -> Any:
        parameters = library().llama_context_default_params()
        parameters.n_ctx = options.kv_cells or 2 * options.context_length
        # A step is one micro-batch, whose rows llama.cpp keeps in the order given only with one KV for all sequences.
        parameters.n_batch = parameters.n_ubatch = _step_tokens(options)
        parameters.kv_unified = True
        parameters.n_seq_max = self.spare + 1
        parameters.n_threads, parameters.n_threads_batch = self.threads, self.batch_threads
        parameters.type_k = parameters.type_v = FORMATS[options.kv_type].number
        parameters.n_outputs_max = self.max_outputs
        parameters.flash_attn_type = 0 if options.kv_type == "f32" else 1
        parameters.op_offload = parameters.offload_kqv = False
        if options.method == "hook":
            parameters.cb_eval = self.eval_callback.callback
            parameters.cb_eval_user_data = self.eval_callback.user
        return parameters

    @property
    def cells(self) -> int:
        """Number of KV cells over all sequences."""
        return int(library().llama_n_ctx(self.handle))

    def threads_for(self, rows: int) -> int:
        """Compute threads of a step of so many rows; llama.cpp decides by the same rule."""
        return self.threads if rows == 1 else self.batch_threads

    def set_threads(self, threads: int, batch_threads: int) -> None:
        """Set the compute threads of a step of one row, and of every other, from the next step on."""
        self.threads, self.batch_threads = threads, batch_threads
        library().llama_set_n_threads(self.handle, threads, batch_threads)

    def decode(self, chunks: Sequence[Chunk]) -> int:
        """Compute the chunks' rows in this order. Return llama.cpp's return code, 0 for success."""
        return int(library().llama_decode(self.handle, self._batch.fill(chunks)))

    def logits(self, rows: range) -> NDArray[np.float32]:
        """Return a copy of the logits [rows, vocab] of the last step. Raises BackendError if a row has none."""
        logits = np.empty((len(rows), self._vocab), np.float32)
        for copied, row in zip(logits, rows, strict=True):
            pointer = library().llama_get_logits_ith(self.handle, row)
            if not pointer:
                raise BackendError("no_logits", f"llama.cpp computed no logits for row {row}.")
            copied[:] = np.ctypeslib.as_array(pointer, (self._vocab,))
        return logits

    def clear(self, sequence: int) -> None:
        self.truncate(sequence, 0)

    def truncate(self, sequence: int, length: int) -> None:
        """Forget positions from `length` on. Raises BackendError where the library cannot."""
        lib = library()
        if not lib.llama_memory_seq_rm(lib.llama_get_memory(self.handle), sequence, length, -1):
            raise BackendError("kv_not_cut", f"llama.cpp could not cut sequence {sequence} to {length} tokens.")

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy positions before `length`; both sequences share the cells."""
        lib = library()
        lib.llama_memory_seq_cp(lib.llama_get_memory(self.handle), source, target, 0, length)

    def state(self, sequence: int) -> memoryview:
        """Return a copy of a sequence's KV, in llama.cpp's own form. Raises BackendError where the library cannot."""
        lib = library()
        size = int(lib.llama_state_seq_get_size_ext(self.handle, sequence, 0))
        data = np.empty(size, np.uint8)
        written = size and int(lib.llama_state_seq_get_data_ext(self.handle, _bytes_at(data), size, sequence, 0))
        if not size or written != size:
            raise BackendError("kv_not_saved", f"llama.cpp saved {written} of {size} bytes of sequence {sequence}.")
        return data.data

    def set_state(self, sequence: int, data: memoryview, *, length: int) -> None:
        """Fill an empty sequence with what `state` gave for one of `length` tokens.

        Raises BackendError where the library does not take all of it, or finds other positions in it; the sequence is
        then empty.
        """
        lib = library()
        source = np.frombuffer(data, np.uint8)
        taken = int(lib.llama_state_seq_set_data_ext(self.handle, _bytes_at(source), len(source), sequence, 0))
        memory = lib.llama_get_memory(self.handle)
        first = int(lib.llama_memory_seq_pos_min(memory, sequence))
        last = int(lib.llama_memory_seq_pos_max(memory, sequence))
        if taken != len(source) or (first, last) != (0, length - 1):
            self.clear(sequence)
            message = f"llama.cpp took {taken} of {len(source)} bytes of saved KV, positions {first} to {last}"
            raise BackendError("kv_not_restored", f"{message}; {length} tokens were to be restored.")

    def close(self) -> None:
        """Free the context. May be called twice."""
        if self.handle is not None:
            library().llama_free(self.handle)
            self.handle = None


def _native_kernel(options: BackendOptions) -> bool:
    built = native.library() is not None
    if options.kernel == "native" and not built:
        raise BackendError(
            "kernel_missing",
            "The native kernel was not built when edgelora was installed.",
            "Install edgelora again where there is a C compiler, or let it use numpy: EDGELORA_KERNEL=auto.",
        )
    return built and options.kernel != "numpy" and options.method == "hook"


def _bytes_at(array: NDArray[np.uint8]) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(ctypes.c_uint8))


def _step_tokens(options: BackendOptions) -> int:
    """Return the step size, at least that of the self-test."""
    return max(options.max_step_tokens, SELF_TEST_TOKENS)
