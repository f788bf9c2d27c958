"""The evaluation callback itself: one native function pointer, and whoever watches the step being computed.

Python runs here for every node of every step, over a thousand times for 32 layers, so the idle answer is one attribute
and one comparison. An exception cannot cross native code: it is kept, the computation is ended, and it is raised after.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from edgelora.backends.llama_cpp.library import library
from edgelora.errors import BackendError


class Watcher(Protocol):
    def wants(self, node: int) -> bool:
        """Whether to stop after the node at this address, before it is computed. Must be fast and must not raise."""
        ...

    def visit(self, node: int) -> None:
        """The node at this address has been computed; its memory may be read and written. May raise."""
        ...


class Tap:
    """Owns the callback; must outlive the context it is given to."""

    def __init__(self) -> None:
        self._watcher: Watcher | None = None
        self._error: BaseException | None = None
        self.callback: Any = library().ggml_backend_sched_eval_callback(self._evaluate)

    def watch(self, watcher: Watcher, decode: Callable[[], int]) -> int:
        """Call `decode` with `watcher` at every node; its return code. Raises BackendError where `visit` raised."""
        self._watcher, self._error = watcher, None
        try:
            code = decode()
        finally:
            self._watcher = None
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
