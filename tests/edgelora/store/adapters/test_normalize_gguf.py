"""resolve: a GGUF adapter, llama.cpp's or edgelora's, is kept as PEFT with the factors that it has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgelora.core.errors import AdapterCorrupt, AdapterUnsupported
from edgelora.store.adapters.normalize import FROM_GGUF
from edgelora.store.adapters.store import Store
from edgelora_converters.gguf import writer as gguf_writer
from edgelora_converters.mapped import writer as mapped_writer
from edgelora_converters.peft import reader as peft_reader
from tests.support.bases import write_tiny_gguf
from tests.support.lora import GQA, delta, random_adapter
from tests.support.records import base_record

BASE = base_record(GQA)
WRITERS = {"gguf": gguf_writer.write, "mapped": mapped_writer.write}


@pytest.mark.parametrize("kind", WRITERS)
def test_it_is_kept_as_peft(kind: str, store: Store, tmp_path: Path) -> None:
    """Named after the file; the factors are the file's, and the file may go."""
    adapter = random_adapter(GQA, ranks=(2, 3), scales=(2.0,))
    path = tmp_path / "Medical-FAQ.gguf"
    WRITERS[kind](adapter, GQA, path, provenance={})
    manifest, version = store.add(path, base=BASE)
    assert (manifest.name, version.treatment, version.rank) == ("medical-faq", FROM_GGUF, 3)
    assert store.add(path, base=BASE)[1] == version
    path.unlink()
    with store.source("medical-faq", version) as kept:
        found = peft_reader.read(kept, GQA)
    assert found.pairs.keys() == adapter.pairs.keys()
    for target, pair in adapter.pairs.items():
        np.testing.assert_array_equal(delta(found.pairs[target]), delta(pair))
    assert all(store.ref("medical-faq", BASE, to=to).path.exists() for to in ("mapped", "gguf"))


def test_a_model_is_no_adapter(store: Store, tmp_path: Path) -> None:
    """A base's GGUF given to `add`: the message names the command for bases."""
    with pytest.raises(AdapterUnsupported) as caught:
        store.add(write_tiny_gguf(tmp_path / "base.gguf", GQA, seed=0), base=BASE)
    assert caught.value.code == "not_a_lora" and "edgelora base add" in caught.value.remedy


def test_a_folder_with_a_gguf_file_alone(store: Store, tmp_path: Path) -> None:
    """The file is what to give."""
    (tmp_path / "out").mkdir()
    gguf_writer.write(random_adapter(GQA), GQA, tmp_path / "out" / "a.gguf", provenance={})
    with pytest.raises(AdapterCorrupt, match=r"give the file: 'a\.gguf'"):
        store.add(tmp_path / "out", base=BASE)
