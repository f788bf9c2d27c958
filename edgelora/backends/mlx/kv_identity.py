"""The facts that saved KV depends on besides the base's files, the adapters and the tokens. One line, compared
as a whole.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import mlx.core as mx

LAYOUT = 1
"""The version of the bytes and of the arithmetic in `forward`: another number where either changes."""


def kv_identity(dtype: Any) -> str:
    """`dtype`: of activations, keys and values."""
    from edgelora.core.machine import processor_name
    from edgelora.core.version import __version__

    facts = {
        "edgelora": __version__,
        "mlx": version("mlx"),
        "device": str(mx.default_device().type).rpartition(".")[2],
        "processor": processor_name(),
        "kv": str(dtype).rpartition(".")[2],
        "layout": str(LAYOUT),
    }
    return "; ".join(f"{name} {fact}" for name, fact in facts.items())
