"""Drain."""

from __future__ import annotations

import asyncio


class Drain:
    """The server's end: `begun` once no new connection is taken, `cut` once running answers must end too."""

    def __init__(self) -> None:
        self.begun = False
        self.cut = asyncio.Event()

    def begin(self) -> None:
        self.begun = True
