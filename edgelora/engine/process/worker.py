"""The engine's process: `python -m edgelora.engine.process.worker`, started by `process.py`. Owns its pipes and exit.

Commands arrive on stdin, and events leave on the original stdout; everything printed goes to stderr. The process exits
on `Close`, or as soon as its parent is gone: the pipe then ends, and Linux is also asked to kill it. It ignores signals
to the whole process group, which the parent handles.
"""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from io import BufferedReader
from typing import NoReturn, cast

from edgelora.backends.base import Backend
from edgelora.core.errors import BackendError
from edgelora.engine.engine import Engine
from edgelora.engine.prefix_cache.cache import PrefixCache
from edgelora.engine.process import messages
from edgelora.engine.process.dispatcher import Dispatcher
from edgelora.engine.process.error_codec import fault_of
from edgelora.engine.process.instrumented_backend import InstrumentedBackend
from edgelora.engine.process.messages import ExitCode
from edgelora.engine.process.pipes import Outbox, read_frames
from edgelora.store.prefixes.store import PrefixStore

_SET_PDEATHSIG = 1
_LAST_WORDS_SECONDS = 5.0

_log = logging.getLogger(__name__)


class ParentLogHandler(logging.Handler):
    """Forwards this process's log records to the parent."""

    def __init__(self, outbox: Outbox) -> None:
        super().__init__()
        self._outbox = outbox

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if record.exc_info:
            line += "\n" + logging.Formatter().formatException(record.exc_info)
        self._outbox.put(messages.Logged(record.name, record.levelno, line))


def main() -> int:
    incoming, outbox = _take_pipes()
    _alone()
    root = logging.getLogger()
    root.addHandler(ParentLogHandler(outbox))
    root.setLevel(logging.INFO)
    fail = partial(_fail, outbox)
    threading.excepthook = partial(_log_thread, then=fail)
    frames = read_frames(incoming, messages.decode_commands)
    first = next(iter(next(frames, ())), None)
    if not isinstance(first, messages.Open):
        return ExitCode.ORPHANED
    _die_with(first.parent)
    dispatcher = Dispatcher(outbox)

    def obey() -> None:
        try:
            for commands in frames:
                dispatcher.obey(commands)
        finally:  # Nobody is left to answer, or nobody who can be understood: no step is worth ending.
            os._exit(ExitCode.ORPHANED)

    threading.Thread(target=obey, name="edgelora-commands", daemon=True).start()
    try:
        engine, backend = _start(first, dispatcher, outbox, on_failure=fail)
    except Exception as error:
        outbox.put(messages.NotOpened(fault_of(error)))
        outbox.close(_LAST_WORDS_SECONDS)
        return ExitCode.NOT_OPENED
    dispatcher.open(engine, backend)
    dispatcher.closed.wait()
    outbox.close(_LAST_WORDS_SECONDS)
    return ExitCode.CLOSED


def _fail(outbox: Outbox) -> NoReturn:
    """End this process after a thread has failed: the parent starts another, and sends it the unanswered requests."""
    with suppress(RuntimeError):  # The thread that failed may be the outbox's own.
        outbox.close(_LAST_WORDS_SECONDS)
    os._exit(ExitCode.THREAD_FAILED)


def _log_thread(failure: threading.ExceptHookArgs, *, then: Callable[[], None]) -> None:
    name = failure.thread.name if failure.thread is not None else "a thread"
    _log.critical("%s failed", name, exc_info=failure.exc_value)
    then()


def _start(
    first: messages.Open, dispatcher: Dispatcher, outbox: Outbox, *, on_failure: Callable[[], None]
) -> tuple[Engine, InstrumentedBackend]:
    def progress(label: str, done: int, total: int) -> None:
        outbox.put(messages.Loading(label, done, total))

    backend = InstrumentedBackend(_backend(first, progress), dispatcher.trying)
    kept = first.prefixes
    cache = None
    if kept is not None:
        store = PrefixStore(kept.root, budget_bytes=kept.budget_bytes)
        cache = PrefixCache(store, kept.base, kv=backend.kv_identity, template=kept.template)
    engine = Engine(
        backend,
        adapter_budget_bytes=first.adapter_budget_bytes,
        max_queue=first.max_queue,
        prefixes=cache,
        speculate=first.speculate,
        streams=dispatcher.stream,
        on_change=dispatcher.tell_stats,
        on_failure=on_failure,
    )
    return engine, backend


def _backend(first: messages.Open, progress: object) -> Backend:
    module, _, function = first.opener.partition(":")
    opened = getattr(import_module(module), function)(first.argument, progress)
    if opened is None:
        raise BackendError("bad_opener", f"{first.opener} opened nothing.")
    return cast(Backend, opened)


def _take_pipes() -> tuple[BufferedReader, Outbox]:
    """Reserve both pipes for messages: native code may print to stdout, and a child process might read stdin."""
    incoming, outgoing = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return os.fdopen(incoming, "rb"), Outbox(outgoing, name="edgelora-events")


def _alone() -> None:
    """Ignore signals to the process group. Enable a traceback on a crash, and disable core files of the base's size."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    faulthandler.enable(all_threads=False)
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # It was gone before Linux was asked.
        os._exit(ExitCode.ORPHANED)


if __name__ == "__main__":
    code = main()
    # Native threads may still run, and an orderly exit would save nothing more.
    os._exit(code)
