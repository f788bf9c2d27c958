"""Log output of a long-running process: lines of text, or one JSON object a line, on stderr.

What is logged holds names, numbers and times. Prompts, answers and keys are nobody's to write down: who logs leaves
them out, and tests/edgelora/server/telemetry/test_logs.py looks.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TextIO, get_args

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]
FORMATS: tuple[LogFormat, ...] = get_args(LogFormat)
LEVELS: tuple[LogLevel, ...] = get_args(LogLevel)

ACCESS = "edgelora.access"
"""The logger of the access log: it is asked for apart from the level."""


@dataclass(frozen=True, slots=True)
class LogOptions:
    format: LogFormat = "text"
    level: LogLevel = "warning"
    """Lowest level of edgelora's own lines; other packages log from warnings on."""


@contextmanager
def logged(options: LogOptions, *, stream: TextIO | None = None) -> Iterator[None]:
    """Have this process log so while the body runs. `stream`: instead of stderr."""
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter() if options.format == "json" else TextFormatter())
    root, own, access = logging.getLogger(), logging.getLogger("edgelora"), logging.getLogger(ACCESS)
    before = own.level, access.level
    root.addHandler(handler)
    own.setLevel(options.level.upper())
    access.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        own.setLevel(before[0])
        access.setLevel(before[1])


class TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = f"{_time(record)} {record.levelname.lower()} {record.name}: {record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object: time, level, logger, message, and the fields in `extra={"fields":
    {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        value: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            value["traceback"] = self.formatException(record.exc_info)
        return json.dumps(value, default=str)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
