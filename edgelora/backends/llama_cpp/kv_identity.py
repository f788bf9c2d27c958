"""The facts that saved KV depends on besides the base's file, the adapters and the tokens. One line of text,
compared as a whole.

llama.cpp's own format (`llama_state_seq_get_data`) names the KV's types and widths, but not the library that computed
the numbers, nor how: that is told apart here.
"""

from __future__ import annotations

import ctypes
import hashlib
from pathlib import Path

from edgelora.backends.llama_cpp.context import Context
from edgelora.backends.llama_cpp.libllama import library
from edgelora.backends.llama_cpp.model import Model
from edgelora.backends.llama_cpp.options import BackendOptions

_LONG_ROPE = b"longrope"


def kv_identity(model: Model, context: Context, options: BackendOptions, *, method: str) -> str:
    """`method`: what adds the adapters. The rope's own parameters are the base's, so they stand in its file."""
    from edgelora.core.version import __version__

    lib = library()
    facts = {
        "edgelora": __version__,
        "llama-cpp-python": lib.__version__,
        "libraries": build_digest(Path(lib.llama_cpp._lib._name).parent),
        "system": lib.llama_print_system_info().decode("utf-8", "replace").strip(" |"),
        "adapters": method,
        "weights": options.weights,
        "kv": options.kv_type,
        "context": str(context.cells) if _depends_on_context(model) else "any",
    }
    return "; ".join(f"{name} {fact}" for name, fact in facts.items())


def build_digest(folder: Path) -> str:
    """Names, sizes and times of the native libraries: another build of one version is another build."""
    files = [(path.name, path.stat()) for path in sorted(folder.glob("*")) if path.is_file()]
    listing = "".join(f"{name} {stat.st_size} {stat.st_mtime_ns}\n" for name, stat in files)
    return hashlib.sha256(listing.encode()).hexdigest()[:16]


def _depends_on_context(model: Model) -> bool:
    """LongRoPE takes other factors where the context is longer than the one trained on (`get_rope_factors`)."""
    scaling = ctypes.create_string_buffer(32)
    with model.held() as handle:
        library().llama_model_meta_val_str(handle, b"llama.rope.scaling.type", scaling, len(scaling))
    return scaling.value == _LONG_ROPE
