"""The project's errors as values that can be sent to another process, and back. Pure.

A class is sent as its name and the names of its bases. A class that the other side has not imported arrives as its
nearest known base, with the same status, exit code and text.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from edgelora.core.engine_errors import as_backend_error
from edgelora.core.errors import Busy, EdgeloraError, NotFound


class EncodedError(msgspec.Struct, frozen=True, array_like=True):
    """An EdgeloraError with all its fields."""

    kinds: tuple[str, ...]
    """Names of its class and that class's bases up to EdgeloraError, in method resolution order."""
    code: str
    what: str
    remedy: str
    param: str | None
    retry_after: float | None = None
    name: str = ""
    near: tuple[str, ...] = ()


def fault_of(error: BaseException) -> EncodedError:
    """Encode an error; one that is not an EdgeloraError is converted by `as_backend_error`, with a line in the log."""
    ours = error if isinstance(error, EdgeloraError) else as_backend_error(Exception(repr(error)), "The engine failed")
    kinds = tuple(kind.__name__ for kind in type(ours).__mro__ if issubclass(kind, EdgeloraError))
    waiting = ours.retry_after if isinstance(ours, Busy) else None
    name, near = (ours.name, ours.near) if isinstance(ours, NotFound) else ("", ())
    return EncodedError(kinds, ours.code, ours.what, ours.remedy, ours.param, waiting, name, near)


def error_of(fault: EncodedError) -> EdgeloraError:
    kinds = {kind.__name__: kind for kind in _tree(EdgeloraError)}
    kind = next((kinds[name] for name in fault.kinds if name in kinds), EdgeloraError)
    # Some constructors compose their message themselves; here it already exists.
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
