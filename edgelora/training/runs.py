"""Trainings on disk: what each was told, and its last checkpoint. Owns their folders; whoever trains holds the lock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgelora.core.errors import NotFound, UsageError
from edgelora.core.files import check_name, inside, locked
from edgelora.training.checkpoint import damaged, saved_iteration
from edgelora.training.recipe import Recipe
from edgelora_models.storage import discard, write_atomic


class TrainingRun(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A training as it was begun."""

    name: str
    """The name of the adapter it makes."""
    base: str
    """The installed base the adapter is for."""
    weights: str
    """`BaseRecord.weights_key` of the MLX base that is trained on."""
    data: str
    """Absolute path of the file or folder of examples."""
    data_digest: str
    recipe: Recipe
    schema: int = 1


@dataclass(frozen=True, slots=True)
class RunFolder:
    """
    run.json                  the Run
    checkpoint.safetensors    the state after the last iteration that was saved
    adapter/                  what mlx-lm's trainer writes: the finished adapter, in its own form
    """

    path: Path

    @property
    def description(self) -> Path:
        return self.path / "run.json"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.safetensors"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    def read(self) -> TrainingRun | None:
        """Return what was begun here; None where nothing was. Raises StorageError."""
        try:
            return msgspec.json.decode(self.description.read_bytes(), type=TrainingRun)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise damaged(self.description) from error

    def begin(self, run: TrainingRun) -> None:
        """Forget what was here and write down `run`."""
        discard(self.path)
        self.write(run)

    def write(self, run: TrainingRun) -> None:
        write_atomic(self.description, msgspec.json.format(msgspec.json.encode(run), indent=2) + b"\n")

    def reached(self) -> int:
        """Return the iteration of the last checkpoint; 0 where there is none. Raises StorageError."""
        return saved_iteration(self.checkpoint)


@contextmanager
def opened(data: Path, name: str) -> Iterator[RunFolder]:
    """The folder of the training of `name` below the data folder, nobody else's meanwhile. Raises Busy, UsageError."""
    check_name(name, kind="adapter")
    busy = f"Another process is training {name}."
    with locked(data / "locks" / f"training-{name}.lock", timeout=0.0, busy=busy):
        yield RunFolder(inside(data / "training", name))


def check_startable(folder: RunFolder) -> None:
    """Raise UsageError(training_unfinished) where a training stopped on its way here."""
    run = folder.read()
    if run is None:
        return
    reached = folder.reached()
    if 0 < reached < run.recipe.iterations:
        message = f"A training of {run.name} stopped after iteration {reached} of {run.recipe.iterations}."
        raise UsageError("training_unfinished", message, "Go on with it (--resume), or begin anew (--restart).")


def resumable(folder: RunFolder, name: str) -> TrainingRun:
    """Return what was begun here. Raises NotFound where nothing was."""
    run = folder.read()
    if run is None:
        raise NotFound("training", name, (), "Begin one: leave out --resume.")
    return run
