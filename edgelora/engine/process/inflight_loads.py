"""Adapters loaded without a request, as the engine's parent knows them. The caller holds a lock.

Records which callers wait, and which pins have to be sent to a new process.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count

from edgelora.core.errors import BackendError, EdgeloraError
from edgelora.core.request import AdapterRef
from edgelora.engine.process import messages
from edgelora.engine.process.inflight import ATTEMPTS

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _PendingLoad:
    command: messages.Preload
    done: Future[bool] = field(default_factory=Future)
    attempts: int = 0


class InflightLoads:
    def __init__(self) -> None:
        self._numbers = count()
        self._pending: dict[int, _PendingLoad] = {}
        self._pinned: dict[tuple[str, str], AdapterRef] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def begin(
        self, ref: AdapterRef, *, pin: bool, instead_of: AdapterRef | None
    ) -> tuple[messages.Preload, Future[bool]]:
        pending = _PendingLoad(messages.Preload(next(self._numbers), ref, pin, instead_of))
        self._pending[pending.command.number] = pending
        return pending.command, pending.done

    def settle(self, number: int) -> tuple[messages.Preload, Future[bool]] | None:
        """Remove and return an answered preload; None if no caller waits for it any more."""
        pending = self._pending.pop(number, None)
        return None if pending is None else (pending.command, pending.done)

    @property
    def pins(self) -> Mapping[tuple[str, str], AdapterRef]:
        """The pinned adapters, as in `Pool.pinned`."""
        return dict(self._pinned)

    def pinned(self, command: messages.Preload) -> None:
        """Record that a pin was loaded and stays resident."""
        if command.instead_of is not None:
            self._pinned.pop(command.instead_of.key, None)
        self._pinned[command.ref.key] = command.ref

    def forget(self, ref: AdapterRef) -> None:
        """Do not pin the adapter again after a restart."""
        self._pinned.pop(ref.key, None)

    def again(self) -> list[messages.Preload]:
        """Return what to send to a new process: the earlier pins, and all pending preloads."""
        waiting = list(self._pending)
        return [self.send(number) for number in (*map(self._pin_again, self._pinned.values()), *waiting)]

    def send(self, number: int) -> messages.Preload:
        """Return the command to send to a process, counted as one attempt."""
        pending = self._pending[number]
        pending.attempts += 1
        return pending.command

    def crash(self, *, stopped: bool = False) -> list[Future[bool]]:
        """Remove and return the futures that fail with a process that died: hints, and pins at ATTEMPTS.

        If `stopped`, no process is started any more and all futures are returned.
        """
        gone = []
        for number, pending in tuple(self._pending.items()):
            if stopped or not pending.command.pin or pending.attempts >= ATTEMPTS:
                del self._pending[number]
                gone.append(pending.done)
        return gone

    def _pin_again(self, ref: AdapterRef) -> int:
        command, done = self.begin(ref, pin=True, instead_of=None)
        done.add_done_callback(lambda done: _check_pin(ref, done))
        return command.number


def _check_pin(ref: AdapterRef, done: Future[bool]) -> None:
    if (error := done.exception()) is not None:
        _log.warning("Adapter %s is not pinned any more: %s", ref, error)


def tell(done: Future[bool], outcome: bool | EdgeloraError) -> None:
    if isinstance(outcome, bool):
        done.set_result(outcome)
    else:
        done.set_exception(outcome)


def lost(why: str) -> BackendError:
    """Return the error for callers whose work was in the process when it died."""
    return BackendError("engine_crash", f"The engine crashed while it worked on this ({why}).", "Send it again.")
