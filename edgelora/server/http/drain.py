"""The draining of a server that is ending."""

from __future__ import annotations

import asyncio


class Drain:
    """The state of a server that is ending.

    `begun` is True once no new connection is accepted, and `cut` is set once running generations must end too.
    """

    def __init__(self) -> None:
        self.begun = False
        self.cut = asyncio.Event()

    def begin(self) -> None:
        self.begun = True
