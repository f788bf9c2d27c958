"""Real llama.cpp on a tiny base, with its own adapter path: what converted files are checked against.

Everything in float32 (KV too), one thread, flash attention off, so that only rounding separates it from the oracle.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

CONTEXT = 64


@contextmanager
def native_model(path: Path) -> Iterator[Any]:
    """A loaded llama_model, freed at the end."""
    llama_cpp.llama_backend_init()
    parameters = llama_cpp.llama_model_default_params()
    parameters.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
    if model is None:
        raise RuntimeError(f"llama.cpp could not load {path}")
    try:
        yield model
    finally:
        llama_cpp.llama_model_free(model)


def native_logits(model: Any, tokens: Sequence[int], adapter: Path | None = None) -> NDArray[np.float32]:
    """Logits after every token, [len(tokens), vocab], with the adapter at scale 1 where one is given."""
    context = llama_cpp.llama_init_from_model(model, _context_parameters())
    if context is None:
        raise RuntimeError("llama.cpp could not make a context")
    try:
        if adapter is not None:
            _apply(model, context, adapter)
        return _decode(model, context, tokens)
    finally:
        llama_cpp.llama_free(context)


def _context_parameters() -> Any:
    parameters = llama_cpp.llama_context_default_params()
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = CONTEXT
    parameters.n_threads = parameters.n_threads_batch = 1
    parameters.type_k = parameters.type_v = llama_cpp.GGML_TYPE_F32
    parameters.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return parameters


def _apply(model: Any, context: Any, path: Path) -> None:
    """The model frees its adapters itself."""
    adapter = llama_cpp.llama_adapter_lora_init(model, str(path).encode())
    if adapter is None:
        raise RuntimeError(f"llama.cpp could not load the adapter {path}")
    adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(adapter)
    if llama_cpp.llama_set_adapters_lora(context, adapters, 1, (ctypes.c_float * 1)(1.0)) != 0:
        raise RuntimeError(f"llama.cpp could not apply the adapter {path}")


def _decode(model: Any, context: Any, tokens: Sequence[int]) -> NDArray[np.float32]:
    batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
    try:
        batch.n_tokens = len(tokens)
        for index, token in enumerate(tokens):
            batch.token[index], batch.pos[index] = token, index
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, 0
            batch.logits[index] = 1
        if llama_cpp.llama_decode(context, batch) != 0:
            raise RuntimeError("llama.cpp could not decode")
        vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits(context), (len(tokens), vocab)).copy()
    finally:
        llama_cpp.llama_batch_free(batch)
