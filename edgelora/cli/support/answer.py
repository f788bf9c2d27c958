"""Print an answer from a stream. Ending the reading early cancels the generation."""

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
    """Pass the text to `on_text` as it is generated, and return the last event. Raises the generation's error.

    An interrupt, or an exception from `on_text`, cancels the generation before it propagates.
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
    """Writes an answer to stdout as it is generated, and keeps its text."""

    def __init__(self, waiting: Spinner | None = None) -> None:
        self.text = ""
        self._waiting = waiting

    def __call__(self, text: str) -> None:
        self.quiet()
        self.text += text
        sys.stdout.write(text)
        sys.stdout.flush()

    def quiet(self) -> None:
        """Stop the spinner, so that nothing else writes to the terminal."""
        if self._waiting is not None:
            self._waiting.stop()

    def end_line(self) -> None:
        if self.text and not self.text.endswith("\n"):
            sys.stdout.write("\n")
            sys.stdout.flush()


def note_length(finished: Finished) -> None:
    """Print a hint if the answer was cut off or empty."""
    if finished.reason is FinishReason.LENGTH:
        hint(f"(cut off after {finished.usage.completion_tokens} tokens by --max-tokens or the context)")
    elif finished.usage.completion_tokens <= 1:
        hint("(the model gave an empty answer)")
