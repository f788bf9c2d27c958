"""A base to run something on that need not be installed: a name, a GGUF file, or a Hugging Face folder.

Owns the choice, and the GGUF file that a folder is converted to for as long as it is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgelora.core.errors import UsageError
from edgelora.core.files import workspace
from edgelora.store.bases.registry import identify
from edgelora_models.storage import check_space

if TYPE_CHECKING:
    from edgelora.store.bases.record import BaseRecord
    from edgelora.store.library import Library
    from edgelora_models.fingerprint import BaseFingerprint


@dataclass(frozen=True, slots=True)
class RunBase:
    name: str
    gguf: Path
    """The file that llama.cpp loads."""
    weights: Path
    """Path of the original weights: the same file, or the folder it was converted from."""
    fingerprint: BaseFingerprint
    record: BaseRecord | None
    """Its record, if it is installed."""


@contextmanager
def open_base(library: Library, base: str | None) -> Iterator[RunBase]:
    """The base that `base` names (None: the chosen one), or a path to one. Raises UsageError, NotFound, BaseError.

    A folder is converted to a float32 GGUF file, exactly, which takes four bytes a weight on disk until the block ends.
    """
    if base is not None and base not in library.bases.names() and Path(base).exists():
        yield from _at(library, Path(base))
        return
    record = (library.bases.current() if base is None else library.bases.get(base)).check()
    if record.path.is_dir():  # the oracle and the runtime are compared on a GGUF file
        raise _no_runner(record.name)
    yield RunBase(record.name, record.path, record.path, record.identity.fingerprint, record)


def _at(library: Library, path: Path) -> Iterator[RunBase]:
    fingerprint = identify(path).fingerprint
    if path.is_file():
        yield RunBase(path.name, path, path, fingerprint, None)
        return
    from edgelora_converters.base.gguf import write_base_gguf
    from edgelora_models.files import read_json

    if "quantization" in read_json(path / "config.json", limit=16 << 20, error=UsageError):
        raise _no_runner(path.name)
    with workspace(library.store.root / "tmp") as work:
        check_space(
            work, 2 * sum(file.stat().st_size for file in path.glob("*.safetensors")), what="A GGUF of the base"
        )
        write_base_gguf(path, work / "base.gguf", quantization="F32")
        yield RunBase(path.name, work / "base.gguf", path, fingerprint, None)


def _no_runner(name: str) -> UsageError:
    message = f"{name} is a base for MLX, which this cannot be run on."
    return UsageError("base_format", message, "Give a GGUF base, or the Hugging Face folder.", param="base")
