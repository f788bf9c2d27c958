"""resolve: what takes more than its own files is kept as plain factors, and needs nothing else from then on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgelora.core.errors import AdapterUnsupported
from edgelora.store.adapters.store import Store
from edgelora_converters.peft import reader as peft_reader
from edgelora_converters.peft.read_options import ReadOptions
from tests.support.adapters import TINY, peft_tensors, write_peft, write_safetensors
from tests.support.lora import delta
from tests.support.records import base_record
from tests.support.variants import plain, save
from tests.support.weights import tiny_base

BASE = base_record(TINY)


def test_what_needs_the_base_is_kept_as_plain_factors(store: Store, tmp_path: Path) -> None:
    """Added with the base's weights, the kept source alone is the same adapter, and says what was done."""
    folder = save(tmp_path / "pissa", plain(TINY, rank=4), init_lora_weights="pissa")
    with pytest.raises(AdapterUnsupported, match="base-weights"):
        store.add(folder, base=BASE)
    assert store.names() == ()
    reading = ReadOptions(weights=tiny_base(TINY, seed=1))
    _, version = store.add(folder, base=BASE, reading=reading)
    assert version.rank == 8 and "pissa" in version.treatment
    with store.source("pissa", version) as kept:
        found = peft_reader.read(kept, TINY)
    wanted = peft_reader.read(folder, TINY, reading=reading)
    assert peft_reader.BESIDE not in found.metadata and found.metadata["treatment"] == wanted.metadata["treatment"]
    for target, pair in wanted.pairs.items():
        np.testing.assert_allclose(delta(found.pairs[target]), delta(pair), rtol=0, atol=1e-7)
    assert store.ref("pissa", BASE, to="gguf").path.exists()


def test_the_adapter_before_training_serves_too(store: Store, tmp_path: Path) -> None:
    """CorDA with its initial adapter; adding both again is the version it was."""
    folder = save(tmp_path / "corda", plain(TINY, rank=4, seed=1), init_lora_weights="corda")
    reading = ReadOptions(initial=save(tmp_path / "first", plain(TINY, rank=4, seed=2)))
    _, first = store.add(folder, base=BASE, reading=reading)
    _, again = store.add(folder, base=BASE, reading=reading)
    assert first == again and first.rank == 8


def test_what_needs_nothing_is_kept_as_it_is(store: Store, tmp_path: Path) -> None:
    """A plain adapter's files stay its own, byte for byte, whatever was given beside it."""
    folder = save(tmp_path / "plain", plain(TINY, rank=4))
    _, version = store.add(folder, base=BASE, reading=ReadOptions(weights=tiny_base(TINY, seed=1)))
    with store.source("plain", version) as kept:
        for path in folder.iterdir():
            assert (kept / path.name).read_bytes() == path.read_bytes()
    assert version.treatment == ""


def test_notes_from_a_file_are_plain_text_or_nothing(tmp_path: Path) -> None:
    """What a file tells about itself is shown to people: no control characters, no flood."""
    write_peft(tmp_path, TINY)
    for said, shown in (("made plain", "made plain"), ("\x1b[2J", None), ("x" * 5000, None)):
        tensors = peft_tensors(TINY, rank=4)
        write_safetensors(tmp_path / "adapter_model.safetensors", tensors, metadata={"edgelora.treatment": said})
        assert peft_reader.read(tmp_path, TINY).metadata.get("treatment") == shown
