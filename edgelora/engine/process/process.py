"""One engine process, seen from its parent: start, write, read, wait, kill. Owns the process and its pipes.

The process gets its own session, so that Ctrl-C on a terminal reaches only the parent. It inherits the environment
without secrets, and the parent's import path.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from edgelora.engine.process import messages
from edgelora.engine.process.output_log import OutputLog
from edgelora.engine.process.pipes import Outbox, read_frames

_SECRETS = frozenset({"EDGELORA_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"})

Handler = Callable[[Sequence[messages.Event]], None]


class EngineProcess:
    """An engine process. Create it on a thread that outlives it: Linux kills the process when that thread ends."""

    def __init__(self, first: messages.Open, said: OutputLog) -> None:
        """Start the process and send `first`. `said` receives its stderr. Raises OSError."""
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "edgelora.engine.process.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=_environment(),
            start_new_session=True,
        )
        stdin, stdout, stderr = self._process.stdin, self._process.stdout, self._process.stderr
        if stdin is None or stdout is None or stderr is None:
            raise RuntimeError("the pipes are missing")
        self._outbox = Outbox(os.dup(stdin.fileno()), name="edgelora-commands")
        stdin.close()
        self._printed = threading.Thread(target=said.read, args=(stderr,), name="edgelora-printed", daemon=True)
        self._printed.start()
        self._outbox.send(first)
        self._events = os.fdopen(os.dup(stdout.fileno()), "rb")
        stdout.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def read(self, on_events: Handler, on_end: Callable[[], None]) -> None:
        """Start reading events. One thread makes both callbacks, `on_end` last. Call it once."""
        threading.Thread(target=self._read, args=(on_events, on_end), name="edgelora-events", daemon=True).start()

    def put(self, command: messages.Command) -> None:
        """Queue a command, which is lost if the process is dead. Never blocks."""
        self._outbox.put(command)

    def kill(self) -> None:
        self._process.kill()

    def finish(self, timeout: float | None) -> bool:
        """Wait for the process to exit. Return False if it still runs after `timeout` seconds."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def bury(self) -> int:
        """Make sure that the process is dead after its pipe ended. Return its exit code, negative for a signal."""
        if not self.finish(1.0):
            self.kill()
        code = self._process.wait()  # Gigabytes may have to be given back first.
        self._printed.join(1.0)
        self._outbox.close(1.0)
        return code

    def _read(self, on_events: Handler, on_end: Callable[[], None]) -> None:
        try:
            with self._events:
                for events in read_frames(self._events, messages.decode_events):
                    on_events(events)
        finally:
            on_end()


def ending(code: int) -> str:
    """Return an exit code in words."""
    if code == messages.ExitCode.THREAD_FAILED:
        return "one of its threads failed, as the log says"
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _SECRETS}
    path = [str(Path(entry).absolute()) for entry in sys.path if entry]
    # Without this, ggml runs a debugger when it aborts, which keeps the process alive for as long as that takes.
    kept.setdefault("GGML_NO_BACKTRACE", "1")
    return kept | {"PYTHONPATH": os.pathsep.join(path)}
