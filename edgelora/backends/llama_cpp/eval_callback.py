"""The evaluation callback itself: one native function pointer, and whoever watches the step being computed.

With the native kernel llama.cpp is given its callback, and Python runs only for a watcher. Without it Python runs here
for every node of every step, over a thousand times for 32 layers, so the idle answer is one attribute and one
comparison. An exception cannot cross native code: it is kept, the computation is ended, and it is raised after.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from edgelora.backends.kernels.evaluator import Evaluator
from edgelora.backends.llama_cpp.libllama import library
from edgelora.core.errors import BackendError


class TensorObserver(Protocol):
    def wants(self, node: int) -> bool:
        """Return whether to stop after the node at this address, before it is computed. Must be fast and not raise."""
        ...

    def visit(self, node: int) -> None:
        """The node at this address has been computed; its memory may be read and written. May raise."""
        ...


class EvalCallback:
    """Owns the callback; must outlive the context it is given to."""

    def __init__(self, *, native: bool) -> None:
        """`native`: through the kernel's own callback, which must have been built."""
        self._watcher: TensorObserver | None = None
        self._error: BaseException | None = None
        make = library().ggml_backend_sched_eval_callback
        # Kept whatever is given to llama.cpp: the native callback calls it for a watcher.
        self._python: Any = make(self._evaluate)
        self.evaluator = Evaluator(self._python) if native else None
        self.callback: Any = self._python if self.evaluator is None else make(self.evaluator.address)
        self.user: int | None = None if self.evaluator is None else self.evaluator.user

    def watch(self, watcher: TensorObserver, decode: Callable[[], int]) -> int:
        """Call `decode` with `watcher` at every node; its return code. Raises BackendError where `visit` raised."""
        self._watcher, self._error = watcher, None
        if self.evaluator is not None:
            self.evaluator.watch(True)
        try:
            code = decode()
        finally:
            self._watcher = None
            if self.evaluator is not None:
                self.evaluator.watch(False)
        error, self._error = self._error, None
        if error is None:
            return code
        if isinstance(error, BackendError) or not isinstance(error, Exception):
            raise error
        raise BackendError("lora_kernel", f"The adapter's delta could not be added: {error}.") from error

    def _evaluate(self, node: int, ask: bool, _user: object) -> bool:
        watcher = self._watcher
        if watcher is None:
            return False
        if ask:
            return watcher.wants(node)
        try:
            watcher.visit(node)
        except BaseException as error:
            self._error = error
            # llama.cpp stops here but reports success: `watch` raises.
            return False
        return True
