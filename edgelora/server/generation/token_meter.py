"""The tokens of a running answer, counted against its caller's limits as they are used.

A prompt is counted when its request is accepted, so that requests that run at the same time see one another's, and is
given back if it is never computed. A client that hangs up has used what was computed until then.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgelora.core.events import Event, Finished, TextDelta
from edgelora.engine.stream import Stream
from edgelora.server.auth.caller import charge


class TokenMeter:
    """Counts the choices of one answer. Used on the event loop only."""

    def __init__(self, streams: Sequence[Stream], *, prompts: int) -> None:
        """Count the prompts. `prompts`: how many the choices answer, as many choices each, in order."""
        each = len(streams) // prompts
        self._groups = [streams[first : first + each] for first in range(0, len(streams), each)]
        """The streams of each prompt, which is computed once for all of them."""
        self._counted = [0] * len(streams)
        """Tokens of each choice that were counted."""
        charge(sum(group[0].prompt_tokens for group in self._groups))

    def event(self, choice: int, event: Event) -> None:
        """Count the tokens of an event."""
        if isinstance(event, TextDelta):
            self._counted[choice] += 1
            charge(1)
        elif isinstance(event, Finished):
            charge(event.usage.completion_tokens - self._counted[choice])

    def close(self) -> None:
        """Give back the prompts that no choice began to compute."""
        charge(-sum(group[0].prompt_tokens for group in self._groups if not any(stream.placed for stream in group)))
