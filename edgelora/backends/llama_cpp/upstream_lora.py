"""llama.cpp's own LoRA: the same adapters and weights for the whole step. The fallback where the evaluation callback
fails its test.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgelora.backends.base import Loaded
from edgelora.backends.llama_cpp.adapter import load_lora
from edgelora.backends.llama_cpp.libllama import captured_errors, library
from edgelora.backends.llama_cpp.lora_method import StepShares
from edgelora.backends.llama_cpp.model import Model
from edgelora.core.errors import BackendError
from edgelora.core.request import AdapterFormat
from edgelora_models.shape import LlamaShape


@dataclass(frozen=True, slots=True)
class UpstreamLora:
    """A file that was read and checked once; llama.cpp, which trusts its input, reads it again when it is attached."""

    path: Path
    nbytes: int


class UpstreamLoraMethod:
    """Owns llama.cpp's adapter objects, by slot, and knows which of them the context has set."""

    kv_name = "NativeMethod"
    mixed_adapters = False
    adapter_format: AdapterFormat = "gguf"
    widens_adapters = True

    def __init__(self, model: Model, context: Any, shape: LlamaShape) -> None:
        self._model = model
        self._context = context
        self._shape = shape
        self._slots: dict[int, Any] = {}
        self._current: dict[int, float] = {}
        """Current weights by slot."""

    def load(self, path: Path) -> UpstreamLora:
        return UpstreamLora(path, load_lora(path, self._shape, widen=True).nbytes)

    def attach(self, slot: int, loaded: Loaded) -> None:
        if not isinstance(loaded, UpstreamLora):
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
        if slot in self._current:
            self._use({})
        library().llama_adapter_lora_free(self._slots.pop(slot))

    def run(self, step: StepShares, decode: Callable[[], int]) -> int:
        if any(share.rows != (0, step.rows) or share.gate for share in step.shares):
            raise BackendError("mixed_adapters", "llama.cpp's own LoRA applies the same adapters to a whole step.")
        self._use({share.slot: share.weight for share in step.shares})
        return decode()

    def _use(self, weights: dict[int, float]) -> None:
        if weights == self._current:
            return
        lib, count = library(), len(weights)
        # A null pointer even where there is none: an array of no length has no address.
        adapters = (lib.llama_adapter_lora_p_ctypes * (count + 1))(*(self._slots[slot] for slot in weights), None)
        scales = (ctypes.c_float * (count + 1))(*weights.values(), 0.0)
        if lib.llama_set_adapters_lora(self._context, adapters, count, scales) != 0:
            raise BackendError("native_adapter", "llama.cpp did not accept the adapters.")
        self._current = weights
