"""The one error tree of the project. Its root stands here, in the lowest package, so that all three can raise from it.

Every error says what happened (`what`) and what to do (`remedy`), and has a stable `code` for programs. The CLI takes
`exit_code` and the HTTP server takes `status` from the class; neither is decided anywhere else.

    EdgeloraError
    |-- UsageError             exit 2, 400   a request or command that cannot be right as written
    |   `-- ContextTooLong     exit 2, 400   the prompt does not fit the context
    |-- NotFound               exit 3, 404   an unknown name; carries near names
    |-- Offline                exit 4, 503   the network is needed and was forbidden or is not there
    |-- AdapterError           exit 5, 400   the adapter itself
    |   |-- AdapterCorrupt                   its bytes cannot be trusted (truncated, overlapping, NaN, a bomb)
    |   |-- AdapterUnsupported               a feature that cannot be honoured exactly
    |   |-- AdapterIncompatible              made for a base of other shapes
    |   `-- ConversionFailed     exit 5, 500   what was written is not what was read (edgelora_converters.errors)
    |-- BaseError              exit 6, 503   the base model: missing, corrupt, not a Llama
    |-- StorageError           exit 7, 507   no space, no permission, an I/O error
    |-- Busy                   exit 8, 429   the queue is full; a name or port is taken
    |   `-- Unavailable        exit 8, 503   not ready yet, or ending
    |-- BackendError           exit 9, 500   the engine below failed
    `-- Cancelled              exit 130, 499 somebody asked for an end
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar


class EdgeloraError(Exception):
    """Root of the tree: `code` (stable, snake_case), `what` (one sentence), `remedy` (what to do, or empty).

    `param` names the request field or tensor at fault where there is one.
    """

    exit_code: ClassVar[int] = 1
    status: ClassVar[int] = 500

    def __init__(self, code: str, what: str, remedy: str = "", *, param: str | None = None) -> None:
        super().__init__(f"{what} {remedy}".strip())
        self.code = code
        self.what = what
        self.remedy = remedy
        self.param = param


class UsageError(EdgeloraError):
    exit_code = 2
    status = 400


class ContextTooLong(UsageError):
    def __init__(self, *, tokens: int, limit: int, at_least: bool = False) -> None:
        """`at_least`: the prompt was not tokenised, because it cannot have fewer tokens than that."""
        count = f"at least {tokens}" if at_least else str(tokens)
        super().__init__(
            "context_length_exceeded",
            f"The prompt has {count} tokens; the context holds {limit}, and at least one must be left for the answer.",
            "Shorten the prompt, or start with a larger context (--context).",
            param="messages",
        )


class NotFound(EdgeloraError):
    """An unknown name. `near` are the closest known ones, best first."""

    exit_code = 3
    status = 404

    def __init__(self, kind: str, name: str, known: Iterable[str] = (), remedy: str = "") -> None:
        self.near = tuple(get_close_matches(name, list(known), n=3, cutoff=0.5))
        hint = f"Did you mean {' or '.join(repr(n) for n in self.near)}?" if self.near else remedy
        super().__init__(f"{kind}_not_found", f"There is no {kind} named {name!r}.", hint, param="model")
        self.name = name


class Offline(EdgeloraError):
    exit_code = 4
    status = 503


class AdapterError(EdgeloraError):
    exit_code = 5
    status = 400


class AdapterCorrupt(AdapterError):
    pass


class AdapterUnsupported(AdapterError):
    pass


class AdapterIncompatible(AdapterError):
    pass


class BaseError(EdgeloraError):
    exit_code = 6
    status = 503


class StorageError(EdgeloraError):
    exit_code = 7
    status = 507


class Busy(EdgeloraError):
    """Nothing is wrong, only taken. `retry_after` (seconds) where a wait would help."""

    exit_code = 8
    status = 429

    def __init__(self, code: str, what: str, remedy: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(code, what, remedy)
        self.retry_after = retry_after


class Unavailable(Busy):
    status = 503


class BackendError(EdgeloraError):
    exit_code = 9
    status = 500


class Cancelled(EdgeloraError):
    exit_code = 130
    status = 499

    def __init__(self, what: str = "The request was cancelled.") -> None:
        super().__init__("cancelled", what)
