"""The record of an installed base, and the check that its file is still the one that was recorded."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal, Self

import msgspec

from edgelora.core.errors import BaseError, StorageError
from edgelora.core.newer import refuse_newer
from edgelora_models.checkpoints import names_a_llama
from edgelora_models.identity import BaseIdentity

BUILTIN = "builtin"
LOCAL = "local"


class Stamp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Size in bytes and newest modification time of a base's files: tells a changed file without reading it."""

    nbytes: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """Return the stamp of a file, or of the files right in a folder. Raises OSError."""
        files = [entry for entry in path.iterdir() if entry.is_file()] if path.is_dir() else [path]
        stats = [file.stat() for file in files]
        return cls(sum(stat.st_size for stat in stats), max((stat.st_mtime_ns for stat in stats), default=0))


class BaseRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An installed base. Its file or folder stays where it is; this only refers to it."""

    name: str
    format: Literal["gguf", "mlx"]
    location: str
    """Absolute path of the GGUF file or of the MLX folder."""
    identity: BaseIdentity
    origin: str
    """`builtin`, `local`, or `hub:<repository>@<commit>`."""
    created: float
    """Unix seconds."""
    stamp: Stamp
    aliases: tuple[str, ...] = ()
    """Other names that mean this base."""
    temperature: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Temperature that the model's makers recommend, used where a request sets none; 0.0 is greedy."""
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    model: str | None = None
    """Name of the checkpoint on the Hugging Face hub, as it was pulled or declared; None if it is not known."""
    schema: Literal[1] = 1

    @property
    def path(self) -> Path:
        return Path(self.location)

    @property
    def weights_key(self) -> str:
        """A key of this very file, 16 hex digits: quantizations and fine-tunes share a fingerprint, but not what is
        computed from their weights. It is as reliable as `check`."""
        identity = f"{self.location}\0{self.stamp.nbytes}\0{self.stamp.mtime_ns}"
        return hashlib.sha256(identity.encode()).hexdigest()[:16]

    @property
    def checkpoint(self) -> str | None:
        """The name of the base's checkpoint: `model`, the built-in base's own name, the repository it came from, or the
        name in its file if that tells anything."""
        if self.model is not None:
            return self.model
        if self.origin == BUILTIN:
            return self.name
        kind, _, repository = self.origin.partition(":")
        if kind == "hub":
            return repository.partition("@")[0]
        return self.identity.name if names_a_llama(self.identity.name) else None

    @property
    def quantization(self) -> str:
        return self.identity.quantization

    @property
    def context_length(self) -> int:
        return self.identity.context_length

    @property
    def nbytes(self) -> int:
        return self.identity.nbytes

    def check(self) -> Self:
        """Itself, where its file is there and as it was. Raises BaseError saying what became of it."""
        again = f"Add it again: edgelora base add {self.location}"
        try:
            stamp = Stamp.of(self.path)
        except OSError as error:
            message = f"The base {self.name} is not at {self.location} any more."
            raise BaseError("base_gone", message, "Put it back, or choose another: edgelora base use NAME.") from error
        if stamp != self.stamp:
            message = f"The base {self.name} at {self.location} has changed since it was added."
            raise BaseError("base_changed", message, again)
        return self


def encode(record: BaseRecord) -> bytes:
    return msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"


def decode(data: bytes, *, path: Path) -> BaseRecord:
    """Return a record read from `path`. Raises StorageError if the file is damaged, or of a newer edgelora."""
    try:
        record = msgspec.json.decode(data, type=BaseRecord)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        refuse_newer(data, error, path)
        raise damaged(path, str(error)) from error
    if record.name != path.stem:
        raise damaged(path, f"it names the base {record.name!r}")
    return record


def damaged(path: Path, why: str) -> StorageError:
    remedy = "Delete that file and add the base again (edgelora base add PATH); the model itself is not touched."
    return StorageError("store_damaged", f"{path} is damaged: {why}.", remedy)
