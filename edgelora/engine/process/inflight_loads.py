"""Adapters asked for without a request, as the engine's parent knows them: who waits, and which pins a new process has
to be told of. The caller holds a lock.
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
        """It was answered. None for one that is not waited for any more."""
        pending = self._pending.pop(number, None)
        return None if pending is None else (pending.command, pending.done)

    @property
    def pins(self) -> Mapping[tuple[str, str], AdapterRef]:
        """The pinned adapters, as in `Pool.pinned`."""
        return dict(self._pinned)

    def pinned(self, command: messages.Preload) -> None:
        """It is in memory to stay."""
        if command.instead_of is not None:
            self._pinned.pop(command.instead_of.key, None)
        self._pinned[command.ref.key] = command.ref

    def forget(self, ref: AdapterRef) -> None:
        """It is not to be pinned again."""
        self._pinned.pop(ref.key, None)

    def again(self) -> list[messages.Preload]:
        """For a new process: the pins there were, and what still waits."""
        waiting = list(self._pending)
        return [self.send(number) for number in (*map(self._pin_again, self._pinned.values()), *waiting)]

    def send(self, number: int) -> messages.Preload:
        """Return what to give to a process."""
        pending = self._pending[number]
        pending.attempts += 1
        return pending.command

    def crash(self, *, stopped: bool = False) -> list[Future[bool]]:
        """The process died. Returns who waits no longer: for hints, and for pins that were tried before; all of them
        where nothing is started any more.
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
    """Return what those hear whose work the process died over."""
    return BackendError("engine_crash", f"The engine crashed while it worked on this ({why}).", "Send it again.")
