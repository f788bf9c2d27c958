"""llama.cpp's own LoRA: one adapter for the whole step. The fallback where the evaluation callback fails its test."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgelora.backends.base import AdapterFormat, Loaded
from edgelora.backends.llama_cpp.adapter import load_lora
from edgelora.backends.llama_cpp.library import captured_errors, library
from edgelora.backends.llama_cpp.method import Share
from edgelora.backends.llama_cpp.model import Model
from edgelora.errors import BackendError
from edgelora_models.shape import LlamaShape


@dataclass(frozen=True, slots=True)
class NativeLora:
    """A file that was read and checked once; llama.cpp, which trusts its input, reads it again when it is attached."""

    path: Path
    nbytes: int


class NativeMethod:
    """Owns llama.cpp's adapter objects, by slot, and knows which one the context has set."""

    mixed_adapters = False
    adapter_format: AdapterFormat = "gguf"
    widens_adapters = True

    def __init__(self, model: Model, context: Any, shape: LlamaShape) -> None:
        self._model = model
        self._context = context
        self._shape = shape
        self._slots: dict[int, Any] = {}
        self._current: int | None = None

    def load(self, path: Path) -> NativeLora:
        return NativeLora(path, load_lora(path, self._shape, widen=True).nbytes)

    def attach(self, slot: int, loaded: Loaded) -> None:
        if not isinstance(loaded, NativeLora):
            raise BackendError(
                "foreign_adapter", f"Slot {slot} was given {type(loaded).__name__}, not a llama.cpp adapter."
            )
        with self._model.held() as handle, captured_errors() as errors:
            adapter = library().llama_adapter_lora_init(handle, str(loaded.path).encode())
        if not adapter:
            reason = " ".join(errors) or "it gave no reason"
            raise BackendError("native_adapter", f"llama.cpp cannot load the adapter {loaded.path}: {reason}.")
        self._slots[slot] = adapter

    def detach(self, slot: int) -> None:
        if slot not in self._slots:
            return
        if self._current == slot:
            self._use(None)
        library().llama_adapter_lora_free(self._slots.pop(slot))

    def run(self, shares: Sequence[Share], decode: Callable[[], int]) -> int:
        if len({share.slot for share in shares}) > 1:
            raise BackendError("mixed_adapters", "llama.cpp's own LoRA computes one adapter in a step.")
        self._use(shares[0].slot)
        return decode()

    def _use(self, slot: int | None) -> None:
        if slot == self._current:
            return
        lib = library()
        count = 0 if slot is None else 1
        adapters = (lib.llama_adapter_lora_p_ctypes * 1)(None if slot is None else self._slots[slot])
        scales = (ctypes.c_float * 1)(1.0)
        if lib.llama_set_adapters_lora(self._context, adapters, count, scales) != 0:
            raise BackendError("native_adapter", "llama.cpp did not accept the adapter.")
        self._current = slot
