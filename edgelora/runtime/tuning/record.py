"""The measurements, kept for the next start: one small file a base, good for this machine and these builds alone."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from edgelora.core.config import Weights
from edgelora.runtime.tuning.search import Workload
from edgelora_models.storage import discard, write_atomic

if TYPE_CHECKING:
    from edgelora.core.config import Directories
    from edgelora.store.bases.record import BaseRecord

logger = logging.getLogger(__name__)

Threads = Annotated[int, msgspec.Meta(ge=1, le=4096)]


class Conditions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The conditions that the times depend on besides the base."""

    processor: str
    cores: int
    """Number of usable physical cores."""
    processors: int
    library: str
    """Digest of llama.cpp's build."""
    kernel: str
    """Digest of the native kernel; "numpy" without one."""


class Finding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One question and its answer."""

    question: str
    """Question of the search: threads, batch threads or weights."""
    chosen: str
    default: str
    rival: str | None
    """The candidate that the default was compared with last."""
    ratio: float | None
    """Median over the rounds of the rival's time divided by the default's."""
    sure: bool
    """True if the difference is significant."""

    def __str__(self) -> str:
        if self.rival is None or self.ratio is None:
            return f"{self.chosen}: there is no other choice"
        if not self.sure:
            return f"{self.chosen}: no difference to {self.rival} that is more than noise"
        if self.chosen == self.rival:
            return f"{self.chosen}: {1 / self.ratio:.2f} times as fast as {self.default}"
        if self.ratio < 1:
            why = "too little for its cost" if self.question == "weights" else "but others kept the machine busy"
            return f"{self.chosen}: {self.rival} was {1 / self.ratio:.2f} times as fast, {why}"
        return f"{self.chosen}: {self.rival} takes {self.ratio:.2f} times as long"


class Tuning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    base: str
    """The base's name when it was measured; for people."""
    conditions: Conditions
    threads: Threads
    batch_threads: Threads
    weights: Weights | None
    """The chosen way to hold weights; None if memory was too short to measure."""
    findings: tuple[Finding, ...]
    seconds: dict[Workload, float]
    """Seconds of a step with the chosen settings."""
    others: Annotated[float, msgspec.Meta(ge=0, le=1)]
    """Share of the machine that other programs used meanwhile."""
    created: float
    """Unix seconds."""
    schema: Literal[1] = 1


@dataclass(frozen=True, slots=True)
class Tunings:
    """The files below `state/tuning`."""

    directories: Directories

    def get(self, record: BaseRecord) -> Tuning | None:
        """Return what was measured for this very file's contents, under whatever conditions; None where nothing was."""
        path = self.path(record)
        try:
            return msgspec.json.decode(path.read_bytes(), type=Tuning)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            logger.warning("%s is not used: %s", path, error)
            return None

    def current(self, record: BaseRecord) -> Tuning | None:
        """Return what `get` does, if it still holds for this machine and these builds."""
        tuning = self.get(record)
        return tuning if tuning is not None and tuning.conditions == conditions() else None

    def put(self, record: BaseRecord, tuning: Tuning) -> None:
        """Raises StorageError."""
        write_atomic(self.path(record), msgspec.json.format(msgspec.json.encode(tuning), indent=2) + b"\n")

    def clear(self, record: BaseRecord) -> bool:
        """Delete the measurements. Return True if there were any."""
        path = self.path(record)
        existed = path.exists()
        discard(path)
        return existed

    def path(self, record: BaseRecord) -> Path:
        """By what the base is, not by its name or place: quantizations of one model have different times."""
        facts = (record.identity.fingerprint.digest, record.quantization, str(record.nbytes))
        digest = hashlib.sha256("\n".join(facts).encode()).hexdigest()
        return self.directories.state / "tuning" / f"{digest[:32]}.json"


def conditions() -> Conditions:
    """Return the conditions of this process. Loads no native library."""
    from edgelora.backends.kernels.native import PATH
    from edgelora.core.machine import processor_name, usable_cores, usable_processors

    return Conditions(
        processor=processor_name(),
        cores=usable_cores(),
        processors=usable_processors(),
        library=_library_build(),
        kernel=_digest(PATH.read_bytes()) if PATH.is_file() else "numpy",
    )


def _library_build() -> str:
    """Names, sizes and times of llama.cpp's libraries: another build of one version is another build."""
    from importlib.util import find_spec

    library_spec = find_spec("llama_cpp")
    folders = [] if library_spec is None else library_spec.submodule_search_locations or []
    files = sorted(path for folder in folders for path in Path(folder, "lib").glob("*") if path.is_file())
    stats = [(path.name, path.stat()) for path in files]
    return _digest("".join(f"{name} {stat.st_size} {stat.st_mtime_ns}\n" for name, stat in stats).encode())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
