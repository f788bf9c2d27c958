"""The bases this machine has, and which of them is the chosen one. Records only: a local model file is never copied.

Readers take no lock. Every write is one atomic file.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgelora.core.errors import BaseError, NotFound, StorageError, UsageError
from edgelora.core.files import check_name, inside, suggest_name, valid_name
from edgelora.store.bases.names import means_base
from edgelora.store.bases.record import LOCAL, BaseRecord, Stamp, decode, encode
from edgelora_models.storage import discard, storing, sync_folder, write_atomic

if TYPE_CHECKING:
    from edgelora.core.config import Directories
    from edgelora_models.identity import BaseIdentity

logger = logging.getLogger(__name__)


class _Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str


class Bases:
    """The base records below `directories.data`, and the downloads below `directories.cache` they may refer to."""

    def __init__(self, directories: Directories, *, clock: Callable[[], float] = time.time) -> None:
        self.directories = directories
        self._folder = directories.data / "bases"
        self._choice = directories.data / "current-base.json"
        self._clock = clock

    @property
    def downloads(self) -> Path:
        """The folder that `pull` puts model files in; `remove` deletes files only there."""
        return self.directories.cache / "bases"

    def names(self) -> tuple[str, ...]:
        with storing(self._folder):
            return tuple(sorted(path.stem for path in self._folder.glob("*.json") if valid_name(path.stem)))

    def list(self) -> tuple[BaseRecord, ...]:
        """Return every installed base, by name. A damaged record is logged and left out, so that it hides no other."""
        records = []
        for name in self.names():
            try:
                records.append(self._read(name))
            except (NotFound, StorageError) as error:
                logger.warning("base %s is not listed: %s", name, error)
        return tuple(records)

    def get(self, name: str) -> BaseRecord:
        """Return a base by name or alias. Raises NotFound with near names."""
        if name not in self.names():
            for record in self.list():
                if name in record.aliases:
                    return record
        return self._read(name)

    def means_base(self, name: str) -> bool:
        """Return whether `name` is taken by an installed base, by the catalogue, or reserved (`names.means_base`)."""
        return means_base(name, self.list())

    def add(
        self,
        path: Path,
        name: str | None = None,
        *,
        origin: str = LOCAL,
        model: str | None = None,
        aliases: Sequence[str] = (),
        temperature: float = 0.0,
        top_p: float = 1.0,
    ) -> BaseRecord:
        """Register a GGUF file or an MLX folder where it lies. The same path again refreshes its record.

        `model`: the name of the checkpoint on the Hugging Face hub, if it is known; adapters of others get a warning.
        Raises UsageError for a path that is not there or a name another file has, BaseError for one that is no Llama.
        """
        path = path.expanduser().absolute()
        chosen = suggest_name(path.name if path.is_dir() else path.stem, kind="base") if name is None else name
        self._check_free(check_name(chosen, kind="base"), path, origin)
        with storing(path):
            stamp = Stamp.of(path) if path.exists() else None
        if stamp is None:
            raise UsageError("no_such_path", f"There is no {path}.", "Name a GGUF file or an MLX model folder.")
        record = BaseRecord(
            name=chosen,
            format="mlx" if path.is_dir() else "gguf",
            location=str(path),
            identity=identify(path),
            origin=origin,
            created=self._clock(),
            stamp=stamp,
            model=model,
            aliases=tuple(aliases),
            temperature=temperature,
            top_p=top_p,
        )
        write_atomic(self._path(chosen), encode(record))
        return record

    def use(self, name: str) -> BaseRecord:
        """Choose the base that `run` and `serve` load. Raises NotFound, or BaseError where its file is not usable."""
        record = self.get(name).check()
        write_atomic(self._choice, msgspec.json.encode(_Choice(record.name)) + b"\n")
        return record

    def chosen(self) -> str | None:
        """Return the name given to `use` last, whether or not that base is still there."""
        try:
            return msgspec.json.decode(self._choice.read_bytes(), type=_Choice).name
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            logger.warning("%s is damaged, so no base is chosen: %s", self._choice, error)
            return None

    def current(self) -> BaseRecord:
        """Return the chosen base, its file checked. Raises BaseError saying how to get one."""
        name = self.chosen()
        if name is None or name not in self.names():
            message = "No base is chosen." if name is None else f"The chosen base {name} is not installed any more."
            names = ", ".join(self.names())
            remedy = f"Choose one of {names}: edgelora base use NAME." if names else "Get one: edgelora base pull NAME."
            raise BaseError("no_base", message, remedy)
        return self._read(name).check()

    def remove(self, name: str) -> BaseRecord:
        """Forget a base. Its file stays, unless `pull` downloaded it. Raises NotFound."""
        record = self.get(name)
        path = self._path(record.name)
        with storing(path):
            path.unlink()
            sync_folder(path.parent)
        self.discard_download(record)
        return record

    def discard_download(self, record: BaseRecord) -> None:
        """Delete a base's files where they are a download of ours that no record refers to."""
        if self.downloads not in record.path.parents or any(r.location == record.location for r in self.list()):
            return
        discard(record.path if record.path.is_dir() else record.path.parent)

    def _check_free(self, name: str, path: Path, origin: str) -> None:
        """Refuse a name in use, except for the same path again, or a newer file of the same repository or built-in."""
        if name not in self.names():
            return
        record = self._read(name)
        same_origin = origin != LOCAL and record.origin.partition("@")[0] == origin.partition("@")[0]
        if record.location != str(path) and not same_origin:
            message = f"{name} is already the name of the base at {record.location}."
            raise UsageError("name_taken", message, "Give the new one another name (--name), or remove the old one.")

    def _read(self, name: str) -> BaseRecord:
        path = self._path(name) if valid_name(name) else None
        if path is None or not path.is_file():
            raise NotFound("base", name, self.names(), "`edgelora base ls` shows what is installed.")
        with storing(path):
            return decode(path.read_bytes(), path=path)

    def _path(self, name: str) -> Path:
        return inside(self._folder, f"{name}.json")


def identify(path: Path) -> BaseIdentity:
    """Identify a GGUF file or MLX folder. Raises BaseError."""
    from edgelora_models.identity import identify_folder, identify_gguf

    return identify_folder(path) if path.is_dir() else identify_gguf(path)
