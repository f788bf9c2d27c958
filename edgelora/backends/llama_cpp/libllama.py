"""The native library: imported once, initialised once, and never allowed to print.

llama.cpp writes its log to stderr unless a callback takes it. Here it goes to this module's logger, and the latest
error lines are kept, so that a failed load can say why. Owns no model and no context.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from edgelora.core.errors import BackendError

log = logging.getLogger("edgelora.llama_cpp")

# enum ggml_log_level; level 5 continues the line before.
_LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.INFO, 4: logging.WARNING}
_ERROR = 4
_CONTINUED = 5

_lock = threading.Lock()
_library: Any = None
_router: _LogRouter | None = None


class _LogRouter:
    """Takes llama.cpp's log lines, one level lower than it says: its information is for its developers."""

    def __init__(self, native: Callable[..., Any]) -> None:
        """`native` makes a callback of a Python function; the router keeps it, for it must outlive every call."""
        self.callback = native(self.take)
        self.errors: deque[str] = deque(maxlen=4)
        self._level = 1

    def take(self, level: int, text: bytes, _user: object) -> None:
        if level != _CONTINUED:
            self._level = level
        line = text.decode("utf-8", "replace").rstrip()
        if not line.strip("."):
            return
        if self._level == _ERROR:
            self.errors.append(line)
        log.log(_LEVELS.get(self._level, logging.DEBUG), "%s", line)


def library() -> Any:
    """Return the initialised `llama_cpp` module with its log routed. Raises BackendError if it cannot be loaded."""
    global _library
    with _lock:
        if _library is None:
            _library = _initialise()
        return _library


def _initialise() -> Any:
    global _router
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendError(
            "llama_cpp_missing",
            f"llama-cpp-python cannot be loaded: {error}.",
            "Install it again: pip install --force-reinstall llama-cpp-python==0.3.36",
        ) from error
    _router = _LogRouter(llama_cpp.llama_log_callback)
    llama_cpp.llama_log_set(_router.callback, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return llama_cpp


@contextmanager
def captured_errors() -> Iterator[deque[str]]:
    """Yield the library's error lines since the block began, oldest first, at most the last four."""
    library()
    assert _router is not None
    _router.errors.clear()
    yield _router.errors
