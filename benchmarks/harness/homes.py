"""Folders for EDGELORA_HOME with many adapters: really installed for the built-in base, or adopted GGUF files.

Owns the making, and the finding again of what was made: a thousand adapters take a minute.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from edgelora.core.config import Settings, read_settings
from edgelora.core.files import file_digest
from edgelora.store.adapters import conversions
from edgelora.store.adapters.layout import AdapterLayout
from edgelora.store.adapters.manifest import Conversion, StoredFile, Version, encode, first_manifest
from edgelora.store.bases.record import BaseRecord
from edgelora.store.library import Library, open_library
from edgelora_converters.convert.convert import CONVERTER_VERSION
from edgelora_converters.gguf import adapter_reader as gguf_adapter_reader
from edgelora_converters.lora.adapter import LoraAdapter, LoraPair
from edgelora_converters.mapped import writer as mapped_writer
from edgelora_converters.tensors.row_order import deinterleave
from edgelora_models.modules import LINEAR_MODULES
from edgelora_models.shape import LlamaShape
from edgelora_models.storage import write_atomic

BASE_NAME = "benchmark-base"


@dataclass(frozen=True, slots=True)
class Home:
    """A prepared folder: its chosen base, and the adapters' names."""

    path: Path
    base: Path
    names: tuple[str, ...]
    tokenizer: range
    """Token ids that are text in every vocabulary."""
    given: tuple[Path, ...] = ()
    """The adapters' GGUF files where that is what they were made of."""

    def files(self) -> tuple[Path, ...]:
        """Return the adapters as GGUF files, for other programs; converted now where there are none."""
        if self.given:
            return self.given
        library = open_library(settings_of(self.path))
        base = library.bases.current()
        return tuple(library.store.ref(name, base, to="gguf").path for name in self.names)


def settings_of(path: Path) -> Settings:
    return read_settings({"EDGELORA_HOME": str(path), "EDGELORA_OFFLINE": "1"})


def make_home(path: Path, count: int, *, base: Path | None, folder: Path | None) -> Home:
    """Return the built-in base with `count` random adapters; or `base`, with so many of the GGUF adapters in `folder`.

    Raises FileNotFoundError where there are not so many.
    """
    if base is None or folder is None:
        return builtin_home(path, count)
    files = sorted(folder.glob("*.gguf"))[:count]
    if len(files) < count:
        raise FileNotFoundError(f"There are {len(files)} adapters (*.gguf) in {folder}, not {count}.")
    return adopted_home(path, base, files)


def builtin_home(path: Path, count: int, *, rank: int = 8) -> Home:
    """The built-in base with `count` random adapters on all its linear modules, each converted, checked and installed
    by the store as `edgelora add` does it. Those that are there already are kept."""
    library = open_library(settings_of(path))
    base = library.bases.current()
    names = tuple(adapter_name(number) for number in range(count))
    known = set(library.store.names())
    for number, name in enumerate(names):
        if name not in known:
            install_random(library, base, path / "source", name=name, rank=rank, seed=number)
    return _home(path, base, names)


def adopted_home(path: Path, base_file: Path, files: Sequence[Path]) -> Home:
    """Another base, with adapters that exist as GGUF files only: rewritten in edgelora's layout, value for value, and
    put where the store keeps its conversions."""
    library = open_library(settings_of(path))
    base = library.bases.add(base_file, BASE_NAME)
    library.bases.use(BASE_NAME)
    names = tuple(adapter_name(number) for number in range(len(files)))
    for name, file in zip(names, files, strict=True):
        _adopt(library, base, file.resolve(), name)
    return _home(path, base, names, tuple(files))


def adapter_name(number: int) -> str:
    return f"random-{number:04}"


def install_random(library: Library, base: BaseRecord, scratch: Path, *, name: str, rank: int, seed: int) -> None:
    """Write a PEFT folder with random factors and add it as the latest version of `name`."""
    write_random_peft(scratch, base.identity.fingerprint.shape, rank=rank, seed=seed)
    library.store.add(scratch, name=name, base=base)
    shutil.rmtree(scratch)


def write_random_peft(folder: Path, shape: LlamaShape, *, rank: int, seed: int) -> None:
    """Factors large enough to change every answer, and small enough to leave finite ones."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for layer in range(shape.layers):
        for module in LINEAR_MODULES:
            key, width = f"base_model.model.{module.hf_path(layer)}", module.in_features(shape)
            a = rng.standard_normal((rank, width), np.float32) / np.sqrt(width)
            b = rng.standard_normal((module.out_features(shape), rank), np.float32) * 0.02
            tensors[f"{key}.lora_A.weight"], tensors[f"{key}.lora_B.weight"] = a.astype(np.float32), b
    folder.mkdir(parents=True, exist_ok=True)
    targets = [module.short for module in LINEAR_MODULES]
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": targets, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _adopt(library: Library, base: BaseRecord, file: Path, name: str) -> None:
    digest, fingerprint = file_digest(file), base.identity.fingerprint
    layout = AdapterLayout(library.store.root)
    made = library.store.root / "adopted"
    made.mkdir(parents=True)
    main = made / conversions.MAIN["mapped"]
    _rewrite(file, main, fingerprint.shape, digest)
    size = main.stat().st_size
    stored = StoredFile(main.name, file_digest(main), size)
    conversion = Conversion("mapped", digest, fingerprint.digest, str(CONVERTER_VERSION), (stored,), size, 0.0)
    write_atomic(made / conversions.DESCRIPTION, encode(conversion))
    conversions.publish(layout, made, conversion, conversions.ConversionTarget("mapped", fingerprint, base.path))
    shutil.rmtree(made, ignore_errors=True)
    version = Version(
        number=1,
        digest=digest,
        created=file.stat().st_mtime,
        files=(),
        base_model=None,
        base_name=base.name,
        base_fingerprint=fingerprint.digest,
        rank=1,
        alpha="",
        scales=(1.0, 1.0),
        targets=(),
        use_rslora=False,
        parameters=0,
    )
    layout.manifests.mkdir(parents=True, exist_ok=True)
    write_atomic(layout.manifest(name), encode(first_manifest(name, version)))


def _rewrite(file: Path, out: Path, shape: LlamaShape, digest: str) -> None:
    factors = gguf_adapter_reader.read(file, shape)
    pairs = {}
    for target, (a, b) in factors.items():
        pairs[target] = LoraPair(a, deinterleave(b, target.module.rotary_heads(shape)), 1.0)
    mapped_writer.write(LoraAdapter(pairs, source_digest=digest, base_model=None), shape, out, provenance={})


def _home(path: Path, base: BaseRecord, names: tuple[str, ...], given: tuple[Path, ...] = ()) -> Home:
    # Below are bytes and, in some vocabularies, control tokens; those at the end are control tokens in every Llama's.
    size = base.identity.fingerprint.shape.vocab
    return Home(path, base.path, names, range(min(300, size // 4), size - 300), given)
