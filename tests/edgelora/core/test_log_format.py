"""The form of log lines, and that a process is left as it was."""

from __future__ import annotations

import io
import json
import logging

from edgelora.core.log_format import ACCESS, LogFormat, LogLevel, LogOptions, logged

log = logging.getLogger("edgelora.some.module")


def written(format: LogFormat, level: LogLevel) -> list[str]:
    stream = io.StringIO()
    with logged(LogOptions(format, level), stream=stream):
        log.debug("one %d", 1)
        log.warning("two\nlines", extra={"fields": {"count": 2}})
        logging.getLogger("other").info("not ours")
        logging.getLogger(ACCESS).info("asked")
        try:
            raise ValueError("bad")
        except ValueError:
            log.exception("three")
    log.warning("after")
    return stream.getvalue().splitlines()


def test_json_is_one_object_a_line() -> None:
    """Whatever the message holds; with time, level, logger, the fields it brought, and any traceback."""
    found = [json.loads(line) for line in written("json", "debug")]
    assert [one["message"] for one in found] == ["one 1", "two\nlines", "asked", "three"]
    assert (found[1]["level"], found[1]["logger"], found[1]["count"]) == ("warning", "edgelora.some.module", 2)
    assert found[0]["time"].endswith("Z") and "ValueError: bad" in found[3]["traceback"]


def test_text_is_for_people() -> None:
    """Time, level, where, message."""
    first = written("text", "debug")[0].split(" ", 1)
    assert first[0].endswith("Z") and first[1] == "debug edgelora.some.module: one 1"


def test_the_level_is_that_of_edgelora() -> None:
    """Lines below it are left out; the access log, which is asked for by itself, is not."""
    messages = [json.loads(line)["message"] for line in written("json", "error")]
    assert messages == ["asked", "three"]


def test_it_ends_with_the_block() -> None:
    """Handlers and levels are as before."""
    before = (logging.getLogger("edgelora").level, list(logging.getLogger().handlers))
    written("text", "debug")
    assert (logging.getLogger("edgelora").level, list(logging.getLogger().handlers)) == before
