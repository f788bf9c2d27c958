"""resolve: an adapter that mlx-lm trained is kept as PEFT, exactly, and refused where PEFT has no form for it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelora.core.config import read_settings
from edgelora.core.errors import AdapterError
from edgelora.store.adapters.normalize import FROM_MLX
from edgelora.store.adapters.store import Store
from edgelora.store.bases.registry import Bases
from edgelora_converters.lora.adapter import LoraAdapter
from edgelora_converters.mlx import source as mlx_source
from edgelora_converters.peft import reader as peft_reader
from tests.support.bases import write_tiny_gguf
from tests.support.lora import GQA, delta
from tests.support.records import base_record
from tests.support.trained import last_layer, trained

BASE = base_record(GQA)


def magnified(adapter: LoraAdapter) -> LoraAdapter:
    pairs = {
        target: replace(pair, magnitude=np.linspace(0.5, 2.0, len(pair.b), dtype=np.float32))
        for target, pair in adapter.pairs.items()
    }
    return replace(adapter, pairs=pairs)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_it_is_kept_as_peft(kind: str, store: Store, tmp_path: Path) -> None:
    """The kept source is a PEFT folder with the same factors and scale, and says where they are from."""
    adapter = last_layer() if kind == "lora" else magnified(last_layer())
    folder = trained(tmp_path / "tuned", adapter, fine_tune_type=kind)
    bases = Bases(read_settings({"EDGELORA_HOME": str(tmp_path / "home")}).directories)
    base = bases.add(write_tiny_gguf(tmp_path / "tiny.gguf", GQA, seed=0))  # DoRA's norms are of a real one
    manifest, version = store.add(folder, base=base)
    assert (manifest.name, version.treatment, version.base_model) == ("tuned", FROM_MLX, "mlx-community/tiny")
    assert (version.rank, version.alpha, version.scales) == (4, "80", (20.0, 20.0))
    shutil.rmtree(folder)
    with store.source("tuned", version) as kept:
        found = peft_reader.read(kept, GQA)
    assert found.pairs.keys() == adapter.pairs.keys()
    for target, pair in adapter.pairs.items():
        assert delta(found.pairs[target]).tolist() == delta(replace(pair, scale=20.0)).tolist()
        if pair.magnitude is not None:
            magnitude = found.pairs[target].magnitude
            assert magnitude is not None and magnitude.tolist() == pair.magnitude.tolist()


def test_it_goes_to_every_backend(store: Store, tmp_path: Path) -> None:
    """Converted to what each runs, back to MLX included, from the kept source alone."""
    adapter = last_layer()
    store.add(trained(tmp_path / "tuned", adapter), base=BASE)
    assert all(store.ref("tuned", BASE, to=to).path.exists() for to in ("mapped", "gguf"))
    found = mlx_source.read(store.ref("tuned", BASE, to="mlx").path, GQA)
    for target, pair in adapter.pairs.items():
        np.testing.assert_allclose(delta(found.pairs[target]), delta(replace(pair, scale=20.0)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", ["zip", "gztar"])
def test_archives_and_names(form: str, store: Store, tmp_path: Path) -> None:
    """An archive of it is the same version as the folder, which is named after where it lies."""
    _, first = store.add(trained(tmp_path / "tuned", last_layer()), base=BASE)
    archive = shutil.make_archive(str(tmp_path / "packed"), form, tmp_path, "tuned")
    manifest, again = store.add(Path(archive), base=BASE)
    assert (manifest.name, again.digest) == ("packed", first.digest)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"fine_tune_type": "full"}, "fine_tune_type"),
        ({"lora_parameters": {"rank": 4, "dropout": 0.0}}, "bad_config"),
        ({"lora_parameters": {"rank": 8, "dropout": 0.0, "scale": 1.0}}, "shape_mismatch"),
        ({"lora_parameters": {"rank": 4, "scale": 1.0, "keys": ["mlp.up_proj"]}}, "adapter_modules"),
    ],
)
def test_what_it_is_not(change: Mapping[str, Any], code: str, store: Store, tmp_path: Path) -> None:
    """A full fine-tune, and a configuration that is not the tensors', are refused by code; nothing is installed."""
    with pytest.raises(AdapterError) as caught:
        store.add(trained(tmp_path / "tuned", last_layer(), **change), base=BASE)
    assert caught.value.code == code
    assert store.names() == ()
