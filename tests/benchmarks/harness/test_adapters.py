"""The benchmarks' helpers: mapped copies are the same adapters, and what is in memory is read where Linux tells."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.harness.adapters import mapped_copies
from benchmarks.harness.pages import cached, drop, usage
from edgelora_converters.gguf import writer as gguf_writer
from edgelora_converters.mapped import reader as mapped_reader
from edgelora_converters.tensors.row_order import interleave
from tests.support.lora import GQA, random_adapter


def test_copies_are_the_same_adapters(tmp_path: Path) -> None:
    """In the same order, in files that are gone afterwards."""
    adapters = [random_adapter(GQA, seed=seed, scales=(1.0,)) for seed in range(2)]
    paths = [tmp_path / f"{n}.gguf" for n in range(2)]
    for adapter, path in zip(adapters, paths, strict=True):
        gguf_writer.write(adapter, GQA, path, provenance={})
    with mapped_copies(paths, GQA) as copies:
        for adapter, copy in zip(adapters, copies, strict=True):
            for target, pair in mapped_reader.read(copy, GQA).pairs.items():
                rows = interleave(adapter.pairs[target].b, target.module.rotary_heads(GQA))
                assert np.array_equal(pair.b, rows.T) and np.array_equal(pair.a, adapter.pairs[target].a)
    assert sorted(tmp_path.iterdir()) == paths


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells")
def test_what_is_in_memory(tmp_path: Path) -> None:
    """A file that was just written is in the page cache; dropping says whether it worked; kinds add up to the whole."""
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    assert cached(path) > 0.99
    assert drop(path) == (cached(path) < 0.01)
    now = usage()
    assert now["anonymous"] + now["file"] == now["rss"] > 0 < now["pss"]
