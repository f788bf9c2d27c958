"""Seeded damage to files: the same seed gives the same files."""

from __future__ import annotations

import random
from collections.abc import Iterator

_NASTY = (b"\0", b"\xff", b"\xff\xff\xff\xff", b"\xff" * 8, b"\0" * 8, b"\x80", b"{", b'"', b"-1", b"9" * 30, b"[" * 64)


def mutations(data: bytes, *, seed: int, count: int, within: int | None = None) -> Iterator[bytes]:
    """`count` damaged copies: cut, bits flipped, bytes overwritten, removed or doubled, in the first `within` bytes."""
    rng = random.Random(seed)
    end = min(len(data), within or len(data))
    for _ in range(count):
        mutant = bytearray(data)
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            _damage(mutant, rng.randrange(end), rng)
        yield bytes(mutant)


def _damage(mutant: bytearray, at: int, rng: random.Random) -> None:
    kind = rng.randrange(6)
    if kind == 0:
        del mutant[at:]
    elif kind == 1 and at < len(mutant):
        mutant[at] ^= 1 << rng.randrange(8)
    elif kind == 2 and at < len(mutant):
        mutant[at] = rng.randrange(256)
    elif kind == 3:
        nasty = rng.choice(_NASTY)
        mutant[at : at + len(nasty)] = nasty
    elif kind == 4:
        del mutant[at : at + rng.randrange(1, 9)]
    else:
        mutant[at:at] = mutant[at : at + rng.randrange(1, 17)]
