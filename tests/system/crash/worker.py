"""One process that tries many cases: `python -m tests.system.crash.worker JOURNAL BASE SECONDS`, case names on stdin.

The journal gets a line before each case and one after it, unbuffered, so that whoever started this process knows which
case ended it. A case that takes more than SECONDS ends it too, with the stacks on stderr.
"""

from __future__ import annotations

import faulthandler
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.system.crash.checks import Checker
from tests.system.crash.corpus import find

MEMORY_BYTES = 3 << 30
"""Of address space: a file of some kilobytes that asks for more is a finding, not a reason to swap."""

HARMFUL: Mapping[str, Callable[[], None]] = {
    "self/abort": os.abort,
    "self/hang": lambda: time.sleep(600),
    "self/wrong": lambda: sys.intern(0),  # type: ignore[arg-type]
}
"""No files: what the runner is tested with."""


def main() -> int:
    journal_path, base, seconds = sys.argv[1:]
    faulthandler.enable()
    _limit_memory()
    journal = os.open(journal_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    checker = Checker(Path(base))
    for name in map(str.strip, sys.stdin):
        os.write(journal, f"> {name}\n".encode())
        faulthandler.dump_traceback_later(float(seconds), exit=True)
        outcome = _try(checker, name)
        faulthandler.cancel_dump_traceback_later()
        os.write(journal, f"< {outcome}\n".encode())
    checker.close()
    return 0


def _try(checker: Checker, name: str) -> str:
    """`ok OUTCOME`, or `wrong REASON` on one line."""
    folder = Path(tempfile.mkdtemp())
    try:
        if name in HARMFUL:
            HARMFUL[name]()
        return f"ok {checker.check(find(name), folder)}"
    except Exception as error:  # whatever it is, it is what this process looks for
        traceback.print_exc()
        return f"wrong {type(error).__name__}: {error}".replace("\n", " ")[:500]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


if __name__ == "__main__":
    raise SystemExit(main())
