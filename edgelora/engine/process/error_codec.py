"""Errors of the tree as values that cross to another process, and back. Pure.

A class is sent by its name and those of its bases, so that one the other side has not imported arrives as the nearest
that it has: status, exit code and everything said stay right.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from edgelora.core.engine_errors import as_backend_error
from edgelora.core.errors import Busy, EdgeloraError, NotFound


class EncodedError(msgspec.Struct, frozen=True, array_like=True):
    """An error of the tree with all its fields."""

    kinds: tuple[str, ...]
    """Names of its class and of that class's bases in the tree, itself first, the root last."""
    code: str
    what: str
    remedy: str
    param: str | None
    retry_after: float | None = None
    name: str = ""
    near: tuple[str, ...] = ()


def fault_of(error: BaseException) -> EncodedError:
    """Turn an error that is not of the tree into the backend's, with a line in the log."""
    ours = error if isinstance(error, EdgeloraError) else as_backend_error(Exception(repr(error)), "The engine failed")
    kinds = tuple(kind.__name__ for kind in type(ours).__mro__ if issubclass(kind, EdgeloraError))
    waiting = ours.retry_after if isinstance(ours, Busy) else None
    name, near = (ours.name, ours.near) if isinstance(ours, NotFound) else ("", ())
    return EncodedError(kinds, ours.code, ours.what, ours.remedy, ours.param, waiting, name, near)


def error_of(fault: EncodedError) -> EdgeloraError:
    kinds = {kind.__name__: kind for kind in _tree(EdgeloraError)}
    kind = next((kinds[name] for name in fault.kinds if name in kinds), EdgeloraError)
    # Some classes make their sentences themselves; these are made already.
    error = kind.__new__(kind)
    EdgeloraError.__init__(error, fault.code, fault.what, fault.remedy, param=fault.param)
    if isinstance(error, Busy):
        error.retry_after = fault.retry_after
    if isinstance(error, NotFound):
        error.name, error.near = fault.name, fault.near
    return error


def _tree(kind: type[EdgeloraError]) -> Iterator[type[EdgeloraError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _tree(below)
