"""The resident base in llama.cpp: loaded from a GGUF file, checked against the shape it is said to have, freed once."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgelora.backends.llama_cpp.libllama import captured_errors, library
from edgelora.core.config import Weights
from edgelora.core.errors import BackendError, BaseError
from edgelora_models.shape import LlamaShape

Progress = Callable[[float], None]

_FACTS: Mapping[str, Callable[[Any, Any], int]] = {
    "layers": lambda lib, handle: lib.llama_model_n_layer(handle),
    "hidden": lambda lib, handle: lib.llama_model_n_embd(handle),
    "heads": lambda lib, handle: lib.llama_model_n_head(handle),
    "kv_heads": lambda lib, handle: lib.llama_model_n_head_kv(handle),
    "vocab": lambda lib, handle: lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(handle)),
}
"""By the names that LlamaShape has for them."""
_ADD_AGAIN = "Check the file, or get it again with `edgelora base add` or `edgelora base pull`."


class Model:
    """Owns a `llama_model`. Any thread may use it inside `held()`; closing waits for them."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._users = 0
        self._idle = threading.Condition()

    @classmethod
    def load(cls, path: Path, *, shape: LlamaShape, progress: Progress | None, weights: Weights = "mapped") -> Model:
        """Load `path` into CPU memory.

        `progress` receives 0.0 to 1.0; its exception ends the load. Raises BaseError.
        """
        model = cls(_load(path, progress, weights))
        try:
            with model.held() as handle:
                _check(handle, path, {name: getattr(shape, name) for name in _FACTS})
        except BaseError:
            model.close()
            raise
        return model

    @classmethod
    def load_vocabulary(cls, path: Path, *, shape: LlamaShape) -> Model:
        """Open only the vocabulary of `path`: no weights are read or mapped. Raises BaseError."""
        model = cls(_load(path, None, "mapped", vocab_only=True))
        try:
            with model.held() as handle:
                _check(handle, path, {"vocab": shape.vocab})
        except BaseError:
            model.close()
            raise
        return model

    @property
    def trained_context(self) -> int:
        """Context length in tokens that the base was trained with."""
        with self.held() as handle:
            return int(library().llama_model_n_ctx_train(handle))

    @contextmanager
    def held(self) -> Iterator[Any]:
        """Yield the native handle, which is not freed while the block runs. Raises BackendError once closed."""
        with self._idle:
            if self._handle is None:
                raise BackendError("backend_closed", "The base was closed.")
            self._users += 1
        try:
            yield self._handle
        finally:
            with self._idle:
                self._users -= 1
                self._idle.notify_all()

    def close(self) -> None:
        """Free the memory once no thread uses the handle. May be called twice."""
        with self._idle:
            handle, self._handle = self._handle, None
            self._idle.wait_for(lambda: self._users == 0)
        if handle is not None:
            library().llama_model_free(handle)


def _load(path: Path, progress: Progress | None, weights: Weights, *, vocab_only: bool = False) -> Any:
    lib = library()
    if not path.is_file():
        raise BaseError("base_missing", f"There is no base at {path}.", "Add one with `edgelora base add PATH`.")
    raised: list[BaseException] = []
    callback = lib.llama_progress_callback(_guarded(progress, raised))
    parameters = lib.llama_model_default_params()
    # An empty list of devices: nothing is offloaded, even where the library was built with a GPU.
    no_devices = ctypes.c_void_p(None)
    parameters.devices = ctypes.addressof(no_devices)
    parameters.n_gpu_layers = 0
    # The extra buffer types are those that repack. Without them every tensor stays where the file is mapped.
    parameters.use_extra_bufts = weights == "repacked"
    parameters.vocab_only = vocab_only
    parameters.progress_callback = callback
    with captured_errors() as errors:
        handle = lib.llama_model_load_from_file(str(path).encode(), parameters)
    if raised:
        if handle:
            lib.llama_model_free(handle)
        raise raised[0]
    if not handle:
        reason = " ".join(errors) or "it gave no reason"
        raise BaseError("base_unreadable", f"llama.cpp cannot load {path}: {reason}.", _ADD_AGAIN)
    return handle


def _guarded(progress: Progress | None, raised: list[BaseException]) -> Callable[[float, object], bool]:
    # An exception cannot cross native code: it is kept, the load is told to stop, and it is raised afterwards.
    def report(fraction: float, _user: object) -> bool:
        try:
            if progress is not None:
                progress(fraction)
        except BaseException as error:
            raised.append(error)
            return False
        return True

    return report


def _check(handle: Any, path: Path, expected: Mapping[str, int]) -> None:
    lib = library()
    architecture = ctypes.create_string_buffer(64)
    lib.llama_model_meta_val_str(handle, b"general.architecture", architecture, len(architecture))
    if architecture.value != b"llama":
        name = architecture.value.decode("utf-8", "replace")
        raise BaseError("base_not_llama", f"{path} holds a {name!r} model, not a Llama.", _ADD_AGAIN)
    # Asked one by one: of a vocabulary alone the library aborts when it is asked for the heads.
    facts = {name: _FACTS[name](lib, handle) for name in expected}
    wrong = [name for name, value in expected.items() if facts[name] != value]
    if wrong:
        differences = ", ".join(f"{name} {facts[name]} instead of {expected[name]}" for name in wrong)
        raise BaseError("base_changed", f"{path} is not the base it was added as: {differences}.", _ADD_AGAIN)
