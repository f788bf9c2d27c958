"""Progress."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""(label, done, total): how far long work is. total 0 is unknown; done == total ends it."""
