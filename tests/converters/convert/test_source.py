"""An adapter's kind by what it is, and any of them converted into any other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from edgelora_converters.convert.convert import Format, convert
from edgelora_converters.convert.source import SourceKind, adapter_kind, read_source
from edgelora_converters.gguf import writer as gguf_writer
from edgelora_converters.mapped import writer as mapped_writer
from edgelora_converters.mlx import writer as mlx_writer
from edgelora_converters.peft import writer as peft_writer
from edgelora_models.errors import AdapterCorrupt, AdapterUnsupported
from edgelora_models.fingerprint import BaseFingerprint
from tests.support.lora import GQA, random_adapter

WRITERS = {"peft": peft_writer.write, "mlx": mlx_writer.write, "gguf": gguf_writer.write, "mapped": mapped_writer.write}
BASE = BaseFingerprint("llama", GQA, vocabulary="", template="")
ADAPTER = random_adapter(GQA, ranks=(2, 3), scales=(2.0,))


@pytest.mark.parametrize("kind", get_args(SourceKind))
def test_kinds(tmp_path: Path, kind: str) -> None:
    """Names do not matter: each kind is known by its content."""
    path = tmp_path / "something"
    WRITERS[kind](ADAPTER, GQA, path, provenance={})
    assert adapter_kind(path) == kind
    assert read_source(path, GQA).pairs.keys() == ADAPTER.pairs.keys()


@pytest.mark.parametrize("kind", get_args(SourceKind))
@pytest.mark.parametrize("to", get_args(Format))
def test_any_into_any(tmp_path: Path, kind: str, to: Format) -> None:
    """Every kind converts into every form, and the gate says how exactly."""
    WRITERS[kind](ADAPTER, GQA, tmp_path / "source", provenance={})
    report = convert(tmp_path / "source", tmp_path / "out", to=to, base=BASE)
    assert (report.modules, report.rank, report.worst < 1e-7) == (len(ADAPTER.pairs), 3, True)
    assert adapter_kind(tmp_path / "out") == to
    found = read_source(tmp_path / "out", GQA)
    for target, pair in ADAPTER.pairs.items():
        np.testing.assert_array_equal(found.pairs[target].a, pair.a)
        # A scale of 2 changes no bit of a mantissa: folded or not, the product is the same.
        np.testing.assert_array_equal(found.pairs[target].folded_b(), pair.folded_b())


@pytest.mark.parametrize("way", ["gguf", "mlx", "mapped"])
def test_the_bases_name_goes_along(tmp_path: Path, way: Format) -> None:
    """What the adapter's makers called their base comes back with it; it is a hint and no more."""
    peft_writer.write(replace(ADAPTER, base_model="meta/tiny"), GQA, tmp_path / "source", provenance={})
    convert(tmp_path / "source", tmp_path / "way", to=way, base=BASE)
    assert read_source(tmp_path / "way", GQA).base_model == "meta/tiny"


def test_what_is_nothing(tmp_path: Path) -> None:
    """A path that is not there, an empty folder, and a file that is no adapter each say so."""
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(AdapterCorrupt):
            read_source(path, GQA)
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(AdapterCorrupt):
        read_source(tmp_path / "a.txt", GQA)
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\3\0\0\0")
    with pytest.raises(AdapterCorrupt):
        read_source(tmp_path / "cut.gguf", GQA)


def test_a_folder_of_both_is_pefts(tmp_path: Path) -> None:
    """Where PEFT's tensors are, the folder is PEFT's, whatever lies beside them."""
    peft_writer.write(ADAPTER, GQA, tmp_path / "a", provenance={})
    (tmp_path / "a" / "adapters.safetensors").write_bytes(b"")
    assert adapter_kind(tmp_path / "a") == "peft"


def test_an_invocation_goes_along_or_is_refused(tmp_path: Path) -> None:
    """An aLoRA stays one from PEFT to GGUF or our own layout and back; a form that cannot say it refuses."""
    late = replace(ADAPTER, invocation=(5, 6))
    peft_writer.write(late, GQA, tmp_path / "peft", provenance={})
    convert(tmp_path / "peft", tmp_path / "a.gguf", to="gguf", base=BASE)
    convert(tmp_path / "peft", tmp_path / "a.lora", to="mapped", base=BASE)
    for number, way in enumerate(("a.gguf", "a.lora")):
        convert(tmp_path / way, tmp_path / f"{number}", to="peft", base=BASE)
        assert read_source(tmp_path / f"{number}", GQA).invocation == (5, 6)
    with pytest.raises(AdapterUnsupported):
        convert(tmp_path / "peft", tmp_path / "mlx", to="mlx", base=BASE)
