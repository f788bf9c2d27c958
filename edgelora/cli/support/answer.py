"""An answer from the stream to stdout. Owns the cancel: whatever ends the reading early ends the generation too."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgelora.cli.support.output import hint
from edgelora.cli.support.progress import Spinner
from edgelora.core.errors import BackendError
from edgelora.core.events import Finished, FinishReason, TextDelta

if TYPE_CHECKING:
    from edgelora.engine.stream import Stream


def follow(stream: Stream, on_text: Callable[[str], None]) -> Finished:
    """Hand on the text as it comes and give the end. Raises what the generation failed with.

    An interrupt, or anything `on_text` raises, cancels the generation before it is passed on.
    """
    try:
        for event in stream:
            if isinstance(event, TextDelta):
                on_text(event.text)
            elif isinstance(event, Finished):
                return event
            else:
                raise event.error
    except BaseException:
        stream.cancel()
        raise
    raise BackendError("stream_ended", "The answer ended without a reason.", "`edgelora doctor` checks the engine.")


class Printer:
    """Writes an answer to stdout piece by piece; remembers it, and whether its line is still open."""

    def __init__(self, waiting: Spinner | None = None) -> None:
        self.text = ""
        self._waiting = waiting

    def __call__(self, text: str) -> None:
        self.quiet()
        self.text += text
        sys.stdout.write(text)
        sys.stdout.flush()

    def quiet(self) -> None:
        """End the spinner, so that nothing else writes on the terminal."""
        if self._waiting is not None:
            self._waiting.stop()

    def end_line(self) -> None:
        if self.text and not self.text.endswith("\n"):
            sys.stdout.write("\n")
            sys.stdout.flush()


def note_length(finished: Finished) -> None:
    """Say so where an answer was cut, or nothing came at all."""
    if finished.reason is FinishReason.LENGTH:
        hint(f"(cut after {finished.usage.completion_tokens} tokens: --max-tokens or the context allows no more)")
    elif finished.usage.completion_tokens <= 1:
        hint("(the model ended its turn at once)")
