"""The smallest test runner there is: these scripts run where nothing but the client is installed.

`python SCRIPT URL [CASE ...]`; EDGELORA_TOKEN, EDGELORA_ARCHIVE and EDGELORA_REPOSITORY say what else there is.
"""

import os
import pathlib
import sys
import time
import traceback

QUESTION = "What is hypertension?"
MARK = "not medical advice"
"""Stands in every answer of the built-in medical-faq, and in none of the base's."""

URL = sys.argv[1] if len(sys.argv) > 1 else ""
TOKEN = os.environ.get("EDGELORA_TOKEN", "")
ARCHIVE = pathlib.Path(os.environ.get("EDGELORA_ARCHIVE", ""))
"""A zip file of the PEFT folder of an adapter that answers like medical-faq."""
REPOSITORY = os.environ.get("EDGELORA_REPOSITORY", "")
"""The same in a repository of the hub that the server pulls from."""
ASK = [{"role": "user", "content": QUESTION}]

_CASES = []


def case(function):
    """Have `main` run it."""
    _CASES.append(function)
    return function


def raises(kind, call, **fields):
    """The exception of this kind that `call` raises, its attributes as given."""
    try:
        call()
    except kind as error:
        for name, value in fields.items():
            assert getattr(error, name) == value, f"{name} is {getattr(error, name)!r}, not {value!r}"
        return error
    raise AssertionError(f"no {kind.__name__} was raised")


def until(ask, done, seconds=60.0):
    """What `ask` gives, once `done` says that it is that."""
    deadline = time.monotonic() + seconds
    while not done(found := ask()):
        assert time.monotonic() < deadline, f"still {found}"
        time.sleep(0.1)
    return found


def main():
    wanted, failed = sys.argv[2:], 0
    for function in _CASES:
        if wanted and function.__name__ not in wanted:
            continue
        try:
            function()
            print(f"ok    {function.__name__}", flush=True)
        except Exception:
            failed += 1
            print(f"FAIL  {function.__name__}\n{traceback.format_exc()}", flush=True)
    raise SystemExit(1 if failed else 0)
