"""The attribution of an engine crash to adapters, and what follows: quarantine, and a line in the log."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgelora.core.errors import StorageError
from edgelora.core.request import AdapterRef, Request
from edgelora.engine.process.messages import Phase
from edgelora.store.adapters.quarantine import Quarantine

STRIKES = 2
"""Crashes, of different prompts, that put an adapter into quarantine."""
STRIKE_SECONDS = 3600.0
"""Seconds after which a crash no longer counts against an adapter."""
KNOWN_ADAPTERS = 1024
"""Adapters that blame can name: the latest that were asked for, far more than can be in flight."""

Prompts = frozenset[tuple[str, int]]
"""Identities of requests: the client, and a hash of the prompt's tokens."""

_log = logging.getLogger(__name__)


def prompts_of(requests: Iterable[Request], path: Path) -> Prompts:
    """Return the identities of the requests that use the adapter at `path`."""
    return frozenset(
        (request.client, hash(request.prompt))
        for request in requests
        if any(use.ref.path == path for use in request.adapters)
    )


@dataclass(frozen=True, slots=True)
class Strike:
    """A crash while an adapter was tried."""

    at: float
    """When, in time.monotonic."""
    prompts: Prompts
    """The requests in flight that used the adapter; none if it was loaded for no request."""


class CrashSuspects:
    """The strikes of adapters, by the path of their conversion. Pure: the caller has the clock."""

    def __init__(self) -> None:
        self._trying: dict[Phase, tuple[Path, ...]] = {}
        self._strikes: dict[Path, list[Strike]] = {}

    def trying(self, phase: Phase, paths: Sequence[Path]) -> None:
        """Note a `messages.FirstUse`. An adapter whose first step succeeded has no strikes."""
        before = self._trying.pop(phase, ())
        if paths:
            self._trying[phase] = tuple(paths)
        elif phase == "step":
            for path in before:
                self._strikes.pop(path, None)

    def ended(self, *, blamed: bool, prompts: Callable[[Path], Prompts], now: float) -> tuple[Path, ...]:
        """Note the end of the process, and return the adapters that now have STRIKES strikes, which are forgotten.

        `blamed`: the process crashed or hung by itself. `prompts`: the requests in flight that use an adapter. The
        same prompt strikes once, however often it is sent again: it may be the prompt that crashes the engine.
        """
        tried = {path for paths in self._trying.values() for path in paths} if blamed else set()
        self._trying.clear()
        self._strikes = {
            path: recent
            for path, strikes in self._strikes.items()
            if (recent := [strike for strike in strikes if now - strike.at < STRIKE_SECONDS])
        }
        for path in tried:
            strike, strikes = Strike(now, prompts(path)), self._strikes.setdefault(path, [])
            if all(strike.prompts.isdisjoint(earlier.prompts) for earlier in strikes):
                strikes.append(strike)
        guilty = tuple(sorted(path for path in tried if len(self._strikes[path]) >= STRIKES))
        for path in guilty:
            del self._strikes[path]
        return guilty


class CrashBlame:
    """The caller holds a lock, except for `trying`, which one thread calls for as long as a process lives."""

    def __init__(self, quarantine: Quarantine | None) -> None:
        self._quarantine = quarantine
        self._suspects = CrashSuspects()
        self._known: OrderedDict[Path, AdapterRef] = OrderedDict()
        """The adapters that were asked for last, by the path of their conversion."""

    def __len__(self) -> int:
        return len(self._known)

    def know(self, refs: Iterable[AdapterRef]) -> None:
        """Note adapters that are about to be used."""
        for ref in refs:
            self._known[ref.path] = ref
            self._known.move_to_end(ref.path)
        while len(self._known) > KNOWN_ADAPTERS:
            self._known.popitem(last=False)

    def trying(self, phase: Phase, paths: Sequence[Path]) -> None:
        """Record a `messages.FirstUse`."""
        self._suspects.trying(phase, paths)

    def ended(self, why: str, *, blamed: bool, requests: Iterable[Request], now: float) -> list[AdapterRef]:
        """Note the end of a process; return the adapters that are in quarantine now. As `CrashSuspects.ended`.

        `requests`: those in flight. `now`: time.monotonic.
        """
        in_flight = tuple(requests)
        paths = self._suspects.ended(blamed=blamed, prompts=lambda path: prompts_of(in_flight, path), now=now)
        guilty = [self._known[path] for path in paths if path in self._known]
        for ref in guilty:
            _log.error("Adapter %s crashed the engine with %d prompts and is not run any more: %s.", ref, STRIKES, why)
            self._add(ref, why)
        return guilty

    def _add(self, ref: AdapterRef, why: str) -> None:
        if self._quarantine is None:
            return
        try:
            self._quarantine.add(ref, why)
        except StorageError as error:  # The adapter may crash the engine twice more.
            _log.error("The quarantine cannot be kept: %s", error)
