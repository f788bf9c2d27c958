"""From token bytes to readable text: decodes UTF-8 and holds back stop strings. Pure.

The same bytes give the same text, however they are split.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class ByteDecoder:
    """Decodes bytes to text. Incomplete characters wait for more bytes; invalid ones become U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    @property
    def waiting(self) -> bool:
        """True if there are bytes of an incomplete character."""
        return bool(self._decoder.getstate()[0])

    def feed(self, piece: bytes) -> str:
        return self._decoder.decode(piece)

    def finish(self) -> str:
        """Return what was still waiting: U+FFFD for a character cut short."""
        return self._decoder.decode(b"", final=True)


class StopFilter:
    """Lets text through up to the first stop string, which is swallowed unless it is to be included. Text that may be
    its beginning waits.

    The first one is the one that is complete first (of two complete at once, the longer), so that the text does not
    depend on how it arrived.
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        """`include`: let the stop string itself through, too."""
        self._include = include
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.stopped = False

    def feed(self, text: str, *, may_stop: bool = True) -> str:
        """Return the text that may be shown now. Nothing once `stopped`.

        `may_stop`: whether a stop string that `text` completes ends the answer, or is text as any other.
        """
        if self.stopped:
            return ""
        text = self._held + text
        ends = [(text.index(stop) + len(stop), text.index(stop)) for stop in self._stops if stop in text]
        if ends and may_stop:
            self.stopped, self._held = True, ""
            end, start = min(ends)
            return text[: end if self._include else start]
        cut = len(text) - self._begun(text)
        self._held = text[cut:]
        return text[:cut]

    def finish(self) -> str:
        """Return what was held back and is now known to be no stop string."""
        held, self._held = self._held, ""
        return held

    def _begun(self, text: str) -> int:
        """Return how many characters at the end of `text` may be the beginning of a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stops):
                return size
        return 0


class Detokenizer:
    """The text of one answer: a ByteDecoder, then a StopFilter."""

    def __init__(self, stops: Sequence[str], *, include_stop: bool = False) -> None:
        self._detokenizer = ByteDecoder()
        self._filter = StopFilter(stops, include=include_stop)
        self._read = 0
        self.shown = 0
        """Number of characters returned so far."""

    @property
    def stopped(self) -> bool:
        """True once a stop string was found, which ends the answer."""
        return self._filter.stopped

    @property
    def read(self) -> int:
        """Number of complete characters, shown or not."""
        return self._read

    @property
    def touched(self) -> int:
        """Number of characters of which at least one byte was read."""
        return self._read + self._detokenizer.waiting

    def feed(self, piece: bytes, *, may_stop: bool = True) -> str:
        """Return the text that may be shown now. `may_stop`: whether a stop string may end the answer with it."""
        text = self._detokenizer.feed(piece)
        self._read += len(text)
        return self._show(self._filter.feed(text, may_stop=may_stop))

    def finish(self) -> str:
        """Return the rest, once no token follows; empty if a stop string was found."""
        text = self._detokenizer.finish()
        self._read += len(text)
        return self._show(self._filter.feed(text) + self._filter.finish())

    def _show(self, text: str) -> str:
        self.shown += len(text)
        return text
