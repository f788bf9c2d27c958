"""What a converted file says about where it comes from: all of it, in every format, and the gate reads it back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgelora_converters.convert.convert import CONVERTER_VERSION, Format, convert, prove
from edgelora_converters.convert.provenance import KEYS, check_provenance, read_provenance
from edgelora_converters.errors import ConversionFailed
from edgelora_converters.gguf import writer as gguf_writer
from edgelora_converters.mapped import writer as mapped_writer
from edgelora_converters.mlx import writer as mlx_writer
from edgelora_converters.peft import reader as peft_reader
from edgelora_converters.peft import writer as peft_writer
from edgelora_models.errors import AdapterCorrupt
from edgelora_models.fingerprint import BaseFingerprint
from tests.support.adapters import write_peft
from tests.support.lora import GQA, random_adapter

BASE = BaseFingerprint("llama", GQA, vocabulary="a" * 64, template="b" * 64)
OTHER = replace(BASE, vocabulary="c" * 64)
WRITERS: dict[Format, Callable[..., None]] = {
    "mapped": mapped_writer.write,
    "gguf": gguf_writer.write,
    "mlx": mlx_writer.write,
    "peft": peft_writer.write,
}
FORMATS = pytest.mark.parametrize("to", ["mapped", "gguf", "mlx", "peft"])


@FORMATS
def test_every_format_says_all_of_it(tmp_path: Path, to: Format) -> None:
    """Source, base, converter, where the scale went, and what the adapter's makers called their base."""
    source = write_peft(tmp_path / "peft", GQA, base_model_name_or_path="org/Llamá-\U0001f999")
    convert(source, tmp_path / "out", to=to, base=BASE)
    assert read_provenance(tmp_path / "out") == {
        "base_fingerprint": BASE.digest,
        "converter_version": CONVERTER_VERSION,
        "fold": "none" if to in ("mapped", "peft") else "scale into lora_b",
        "source_digest": peft_reader.source_digest(source),
        "trained_on": "org/Llamá-\U0001f999",
    }


@FORMATS
def test_a_base_without_a_name(tmp_path: Path, to: Format) -> None:
    """What is not known is not said."""
    source = write_peft(tmp_path / "peft", GQA, base_model_name_or_path=None)
    convert(source, tmp_path / "out", to=to, base=BASE)
    assert read_provenance(tmp_path / "out").keys() == set(KEYS)


@FORMATS
def test_the_proof_can_be_repeated(tmp_path: Path, to: Format) -> None:
    """Later, from the files alone: the same figures as when it was made, with progress up to the end."""
    source = write_peft(tmp_path / "peft", GQA, rank_pattern={"q_proj": 7})
    report = convert(source, tmp_path / "out", to=to, base=BASE)
    seen: list[tuple[int, int]] = []
    found = prove(source, tmp_path / "out", to=to, base=BASE, progress=lambda *step: seen.append(step))
    assert (found.modules, found.worst, found.worst_target) == (report.modules, report.worst, report.worst_target)
    assert seen[-1] == (3 * 14, 3 * 14)


@FORMATS
def test_another_source_or_base_is_found(tmp_path: Path, to: Format) -> None:
    """The file of one adapter is no proof of another with the same values, nor is one for another base."""
    source, again = (write_peft(tmp_path / name, GQA, lora_dropout=d) for name, d in (("one", 0.1), ("two", 0.2)))
    convert(source, tmp_path / "out", to=to, base=BASE)
    for odd, base, key in ((again, BASE, "source_digest"), (source, OTHER, "base_fingerprint")):
        with pytest.raises(ConversionFailed) as caught:
            prove(odd, tmp_path / "out", to=to, base=base)
        assert (caught.value.code, caught.value.param) == ("provenance_mismatch", key)


@FORMATS
@pytest.mark.parametrize("missing", sorted(set(KEYS) - {"source_digest", "fold"}))
def test_a_writer_that_says_less_fails_the_gate(
    tmp_path: Path, to: Format, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No conversion is published that does not say where it comes from."""
    from edgelora_converters.convert import convert as module

    def silent(*args: Any, provenance: dict[str, str]) -> None:
        WRITERS[to](*args, provenance={key: value for key, value in provenance.items() if key != missing})

    monkeypatch.setitem(module._WRITERS, to, silent)
    with pytest.raises(ConversionFailed) as caught:
        convert(write_peft(tmp_path / "peft", GQA), tmp_path / "out", to=to, base=BASE)
    assert caught.value.param == missing
    assert not (tmp_path / "out").exists()


@FORMATS
def test_files_of_others_say_nothing(tmp_path: Path, to: Format) -> None:
    """A file that a writer made without facts has no base; that is a mismatch, and no crash."""
    adapter = random_adapter(GQA)
    WRITERS[to](adapter, GQA, tmp_path / "out", provenance={})
    assert read_provenance(tmp_path / "out").keys() == {"source_digest", "fold"}
    with pytest.raises(ConversionFailed):
        check_provenance(tmp_path / "out", adapter, BASE)


def test_what_is_no_adapter(tmp_path: Path) -> None:
    """An empty file and an empty folder are errors of the tree."""
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for name in ("empty", "folder", "none"):
        with pytest.raises(AdapterCorrupt):
            read_provenance(tmp_path / name)
