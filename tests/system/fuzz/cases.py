"""One case from its number: what is sent, in which pieces, how the connection ends. The same number, the same case."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests.system.fuzz.messages import damaged, damaged_bytes, framed, right

Route = tuple[str, str]
"""Method and template."""


@dataclass(frozen=True, slots=True)
class Piece:
    data: bytes
    pause: float = 0.0
    """Seconds before it is sent."""


@dataclass(frozen=True, slots=True)
class Case:
    number: int
    route: Route
    kind: str
    pieces: tuple[Piece, ...]
    ending: str = "read"
    """`read` what is answered; `close` or `reset` without reading; `half` close after sending."""
    requests: int = 1
    """How many whole requests were meant."""


def make_case(number: int, routes: Sequence[Route], *, token: str) -> Case:
    """`routes`: all that the server has. `token`: opens the management routes."""
    random_ = random.Random(f"edgelora {number}")
    route = random_.choice(routes)
    message = right(*route, random_, token=token)
    kind = random_.choices(KINDS, WEIGHTS)[0]
    if kind not in ("right", "cut"):
        message = damaged(message, route[1], random_)
    raw = framed(message, random_)
    if kind == "bytes":
        raw = damaged_bytes(raw, random_)
    if kind == "cut":
        ending = random_.choice(["close", "reset", "half"])
        return Case(number, route, kind, (Piece(raw[: random_.randint(1, len(raw))]),), ending)
    if kind == "leave":
        return Case(number, route, kind, (Piece(raw),), random_.choice(["close", "reset", "half"]))
    if kind == "slow":
        return Case(number, route, kind, tuple(_slowly(raw, random_)))
    if kind == "pipelined":
        return _pipelined(number, route, raw, routes, random_, token=token)
    return Case(number, route, kind, (Piece(raw),))


KINDS = ("damaged", "bytes", "right", "cut", "leave", "slow", "pipelined")
WEIGHTS = (60, 13, 8, 6, 5, 3, 5)


def _slowly(raw: bytes, random_: random.Random) -> list[Piece]:
    """In a few pieces, mostly within the time there is."""
    cuts = sorted(random_.randrange(len(raw) + 1) for _ in range(random_.randint(1, 4)))
    bounds = [0, *cuts, len(raw)]
    pauses = [0.0, *(random_.choice([0.001, 0.01, 0.03, 0.2]) for _ in cuts)]
    return [Piece(raw[a:b], pause) for a, b, pause in zip(bounds, bounds[1:], pauses, strict=False)]


def _pipelined(
    number: int, route: Route, raw: bytes, routes: Sequence[Route], random_: random.Random, *, token: str
) -> Case:
    """Several requests before the first answer, one of them damaged."""
    others = [
        framed(right(*random_.choice(routes), random_, token=token), random_) for _ in range(random_.randint(1, 6))
    ]
    others.insert(random_.randrange(len(others) + 1), raw)
    return Case(number, route, "pipelined", (Piece(b"".join(others)),), requests=len(others))
