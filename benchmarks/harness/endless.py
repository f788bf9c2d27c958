"""`python -m benchmarks.harness.endless serve ...`: edgelora's own command line, except that no token ends an answer.

Benchmarks must know how many tokens an answer has, and compare servers by the same work; ending where the model would
not is no feature of the product. Each token becomes one piece of visible text, so that a reader sees them one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgelora.backends.base import Backend
from edgelora.core.progress import Progress
from edgelora.core.tokenizer import Tokenizer
from edgelora.runtime import engine_process
from edgelora.runtime.opening import open as opening_open


class EndlessTokenizer:
    """A vocabulary in which no token ends an answer, and each has a text of its own."""

    end_ids: frozenset[int] = frozenset()

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def piece(self, token: int) -> bytes:
        """The token's text where that is plain; else a sign for it: half a character would wait for its other half."""
        text = self._tokenizer.piece(token)
        return text if text and text.isascii() else b"?"


class EndlessBackend:
    """A backend with that vocabulary. Everything else is the real one's."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.tokenizer = EndlessTokenizer(backend.tokenizer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


def never_ending(open_backend: Callable[..., Backend]) -> Callable[..., Any]:
    """Return the same way to open a base, wrapped."""
    return lambda *arguments: EndlessBackend(open_backend(*arguments))


def open_base(argument: bytes, progress: Progress) -> Any:
    """Return the same in the engine's process."""
    return EndlessBackend(engine_process.open_base(argument, progress))


def main() -> None:
    from edgelora.cli import main as edgelora

    opening_open.open_backend = never_ending(opening_open.open_backend)
    engine_process.OPENER = "benchmarks.harness.endless:open_base"
    edgelora()


if __name__ == "__main__":
    main()
