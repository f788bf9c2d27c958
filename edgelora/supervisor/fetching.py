"""Adapters asked for without a request, as the engine's parent knows them: who waits, and which pins a new process has
to be told of. The caller holds a lock.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count

from edgelora.core import AdapterRef
from edgelora.errors import BackendError, EdgeloraError
from edgelora.supervisor import messages
from edgelora.supervisor.flights import ATTEMPTS

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Wish:
    command: messages.Fetch
    done: Future[bool] = field(default_factory=Future)
    attempts: int = 0


class Fetching:
    def __init__(self) -> None:
        self._numbers = count()
        self._wishes: dict[int, _Wish] = {}
        self._pinned: dict[tuple[str, str], AdapterRef] = {}

    def __len__(self) -> int:
        return len(self._wishes)

    def begin(
        self, ref: AdapterRef, *, pin: bool, instead_of: AdapterRef | None
    ) -> tuple[messages.Fetch, Future[bool]]:
        wish = _Wish(messages.Fetch(next(self._numbers), ref, pin, instead_of))
        self._wishes[wish.command.number] = wish
        return wish.command, wish.done

    def settle(self, number: int) -> tuple[messages.Fetch, Future[bool]] | None:
        """It was answered. None for one that is not waited for any more."""
        wish = self._wishes.pop(number, None)
        return None if wish is None else (wish.command, wish.done)

    @property
    def pins(self) -> Mapping[tuple[str, str], AdapterRef]:
        """As `Pool.pinned`."""
        return dict(self._pinned)

    def pinned(self, command: messages.Fetch) -> None:
        """It is in memory to stay."""
        if command.instead_of is not None:
            self._pinned.pop(command.instead_of.key, None)
        self._pinned[command.ref.key] = command.ref

    def forget(self, ref: AdapterRef) -> None:
        """It is not to be pinned again."""
        self._pinned.pop(ref.key, None)

    def again(self) -> list[messages.Fetch]:
        """For a new process: the pins there were, and what still waits."""
        waiting = list(self._wishes)
        return [self.send(number) for number in (*map(self._pin_again, self._pinned.values()), *waiting)]

    def send(self, number: int) -> messages.Fetch:
        """What to give to a process."""
        wish = self._wishes[number]
        wish.attempts += 1
        return wish.command

    def crash(self, *, stopped: bool = False) -> list[Future[bool]]:
        """The process died. Returns who waits no longer: for hints, and for pins that were tried before; all of them
        where nothing is started any more.
        """
        gone = []
        for number, wish in tuple(self._wishes.items()):
            if stopped or not wish.command.pin or wish.attempts >= ATTEMPTS:
                del self._wishes[number]
                gone.append(wish.done)
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
    """What those hear whose work the process died over."""
    return BackendError("engine_crash", f"The engine crashed while it worked on this ({why}).", "Send it again.")
