"""A whole conversion: a PEFT folder in, a verified file or folder out, or an error and nothing at all."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgelora_converters.convert import convert as convert_module
from edgelora_converters.convert.convert import CONVERTER_VERSION, ConversionReport, convert
from edgelora_converters.errors import ConversionFailed
from edgelora_converters.gguf import adapter_reader as gguf_adapter_reader
from edgelora_converters.lora.adapter import Target
from edgelora_converters.mapped import reader as mapped_reader
from edgelora_converters.mlx import writer as mlx_writer
from edgelora_converters.peft.folder import source_digest
from edgelora_converters.tensors.dtypes import widened
from edgelora_converters.tensors.row_order import deinterleave
from edgelora_models.errors import AdapterCorrupt, AdapterIncompatible, StorageError, UsageError
from edgelora_models.fingerprint import BaseFingerprint
from edgelora_models.gguf_header import read_header
from edgelora_models.modules import LINEAR_MODULES
from edgelora_models.shape import LlamaShape
from tests.support.adapters import ALL_MODULES, peft_tensors, write_peft
from tests.support.lora import GQA, shapes

FORMATS = pytest.mark.parametrize("to", ["mapped", "gguf", "mlx"])
Format = Literal["mapped", "gguf", "mlx"]


def fingerprint(shape: LlamaShape) -> BaseFingerprint:
    return BaseFingerprint("llama", shape, vocabulary="a" * 64, template="b" * 64)


def file_deltas(out: Path, shape: LlamaShape, *, to: Format) -> dict[str, NDArray[np.float64]]:
    """The full delta of every module in a converted file, [out, in], by Hugging Face path."""
    pairs: dict[Target, tuple[NDArray[Any], NDArray[Any]]]
    if to == "mapped":
        mapped = mapped_reader.read(out, shape).pairs
        rows = {t: deinterleave(widened(p.b).T, t.module.rotary_heads(shape)) for t, p in mapped.items()}
        pairs = {t: (widened(p.a), rows[t].astype(np.float64) * p.scale) for t, p in mapped.items()}
    elif to == "mlx":
        pairs = {t: (a.T, b.T) for t, (a, b, _) in mlx_writer.read(out, shape).items()}
    else:
        stored = gguf_adapter_reader.read(out, shape)
        pairs = {t: (a, deinterleave(b, t.module.rotary_heads(shape))) for t, (a, b) in stored.items()}
    return {target.hf_path: b.astype(np.float64) @ a.astype(np.float64) for target, (a, b) in pairs.items()}


def patterns(keys: st.SearchStrategy[str], values: st.SearchStrategy[int]) -> st.SearchStrategy[dict[str, int]]:
    """In the order PEFT saves: the first key that fits a module counts, and saving sorts the keys."""
    return st.dictionaries(keys, values, max_size=3).map(lambda pattern: dict(sorted(pattern.items())))


@st.composite
def configurations(draw: st.DrawFn) -> tuple[LlamaShape, dict[str, Any]]:
    """A base's shape, and arguments of `write_peft` with rsLoRA and patterns in every mixture."""
    shape = draw(shapes())
    targets = draw(st.lists(st.sampled_from(ALL_MODULES), min_size=1, unique=True))
    full = [m.hf_path(layer) for m in LINEAR_MODULES if m.short in targets for layer in range(shape.layers)]
    keys = st.sampled_from([*targets, *full])
    return shape, {
        "targets": targets,
        "rank": draw(st.integers(1, 9)),
        "alpha": draw(st.integers(1, 64)),
        "use_rslora": draw(st.booleans()),
        "rank_pattern": draw(patterns(keys, st.integers(1, 9))),
        "alpha_pattern": draw(patterns(keys, st.integers(1, 64))),
        "dtype": draw(st.sampled_from(["F32", "BF16", "F16"])),
    }


def looked_up(pattern: dict[str, Any], path: str, default: Any) -> Any:
    """PEFT's rule for keys that are names and no expressions: the first that is the path or its end."""
    return next((value for key, value in pattern.items() if path == key or path.endswith("." + key)), default)


@FORMATS
@settings(max_examples=30, deadline=None)
@given(configurations())
def test_every_delta_of_any_configuration(
    tmp_path_factory: pytest.TempPathFactory, to: Format, case: tuple[LlamaShape, dict[str, Any]]
) -> None:
    """Each delta in the file is alpha / rank (or its root) * B @ A of the folder's tensors, by its patterns."""
    shape, config = case
    folder = tmp_path_factory.mktemp("convert")
    source = write_peft(folder / "peft", shape, **config)
    convert(source, folder / "out", to=to, base=fingerprint(shape))
    found = file_deltas(folder / "out", shape, to=to)
    tensors = peft_tensors(shape, rank=config["rank"], rank_pattern=config["rank_pattern"], targets=config["targets"])
    for name in (name for name in tensors if name.endswith(".lora_A.weight")):
        path = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        rank = looked_up(config["rank_pattern"], path, config["rank"])
        alpha = looked_up(config["alpha_pattern"], path, config["alpha"])
        a, b = (tensors[name.replace("lora_A", half)].astype(np.float64) for half in ("lora_A", "lora_B"))
        wanted = alpha / (math.sqrt(rank) if config["use_rslora"] else rank) * (b @ a)
        # the reader widens half precision exactly, but writing the folder rounded these tensors
        limit = {"F32": 1e-6, "F16": 2e-3, "BF16": 2e-2}[config["dtype"]]
        assert np.linalg.norm(found.pop(path) - wanted) <= limit * np.linalg.norm(wanted)
    assert found == {}


@FORMATS
def test_the_report(tmp_path: Path, to: Format) -> None:
    """It says what came out: modules, rank, parameters, exactness, sizes on disk and in memory, the source."""
    source = write_peft(
        tmp_path / "peft", GQA, rank=4, alpha=6, rank_pattern={"q_proj": 8}, targets=["q_proj", "v_proj"]
    )
    out = tmp_path / "out"
    report = convert(source, out, to=to, base=fingerprint(GQA))
    q, v = 8 * (64 + 64), 4 * (64 + 32)
    padded_v = 8 * (64 + 32)
    nbytes = out.stat().st_size if out.is_file() else sum(path.stat().st_size for path in out.iterdir())
    assert report == ConversionReport(
        format=to,
        modules=4,
        rank=8,
        parameters=2 * (q + v),
        worst=report.worst,
        worst_target=report.worst_target,
        nbytes=nbytes,
        memory_bytes=4 * 2 * (q + (v if to != "mlx" else padded_v)),
        source_digest=source_digest(source),
    )
    assert (0 < report.worst < 1e-7) or (to == "mapped" and report.worst == 0)
    assert report.worst_target in file_deltas(out, GQA, to=to)


def test_provenance(tmp_path: Path) -> None:
    """The file says what it was made from, for which base, by which converter."""
    source = write_peft(tmp_path / "peft", GQA)
    report = convert(source, tmp_path / "a.gguf", to="gguf", base=fingerprint(GQA))
    metadata = read_header(tmp_path / "a.gguf").metadata
    assert metadata["edgelora.source_digest"] == report.source_digest
    assert metadata["edgelora.base_fingerprint"] == fingerprint(GQA).digest
    assert metadata["edgelora.converter_version"] == CONVERTER_VERSION


@FORMATS
def test_same_source_same_bytes(tmp_path: Path, to: Format) -> None:
    """Converted twice, the bytes are the same, so that their digests are."""
    source = write_peft(tmp_path / "peft", GQA)
    for name in ("one", "two"):
        convert(source, tmp_path / name, to=to, base=fingerprint(GQA))
    one, two = (sorted(p for p in (tmp_path / n, *(tmp_path / n).rglob("*")) if p.is_file()) for n in ("one", "two"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


@FORMATS
def test_an_existing_result_is_never_replaced(tmp_path: Path, to: Format) -> None:
    """A file, a folder or a dangling link of that name is refused before any work and stays as it is."""
    source = write_peft(tmp_path / "peft", GQA)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    before = sorted(path.name for path in tmp_path.iterdir())
    for name in ("file", "folder", "link"):
        with pytest.raises(UsageError) as caught:
            convert(source, tmp_path / name, to=to, base=fingerprint(GQA))
        assert caught.value.code == "exists"
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@FORMATS
def test_an_adapter_of_another_base(tmp_path: Path, to: Format) -> None:
    """Other widths are refused, and nothing is left."""
    source = write_peft(tmp_path / "peft", GQA)
    other = LlamaShape(layers=2, hidden=32, heads=4, kv_heads=2, head_dim=8, ffn=96, vocab=262, tied=False)
    with pytest.raises(AdapterIncompatible):
        convert(source, tmp_path / "out", to=to, base=fingerprint(other))
    assert [path.name for path in tmp_path.iterdir()] == ["peft"]


@FORMATS
def test_a_failed_gate_publishes_nothing(tmp_path: Path, to: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that goes wrong is found out before the result has its name."""

    def drop_the_scale(adapter: Any, shape: LlamaShape, out: Path, *, provenance: Any) -> None:
        pairs = {t: type(p)(p.a, p.b, 1.0) for t, p in adapter.pairs.items()}
        writers[to](type(adapter)(pairs, adapter.source_digest, None), shape, out, provenance=provenance)

    writers = dict(convert_module._WRITERS)
    monkeypatch.setitem(convert_module._WRITERS, to, drop_the_scale)
    source = write_peft(tmp_path / "peft", GQA, rank=4, alpha=8)
    with pytest.raises(ConversionFailed) as caught:
        convert(source, tmp_path / "out", to=to, base=fingerprint(GQA))
    assert (caught.value.code, caught.value.exit_code, caught.value.status) == ("conversion_mismatch", 5, 500)
    assert [path.name for path in tmp_path.iterdir()] == ["peft"]


@FORMATS
def test_a_full_disk(tmp_path: Path, to: Format) -> None:
    """The operating system refusing to write is a StorageError, and nothing is left."""
    resource = pytest.importorskip("resource")
    source = write_peft(tmp_path / "peft", GQA)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(StorageError):
            convert(source, tmp_path / "out", to=to, base=fingerprint(GQA))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["peft"]


@FORMATS
def test_a_cancelled_conversion(tmp_path: Path, to: Format) -> None:
    """An exception from the progress callback (Ctrl-C lands there) leaves nothing."""

    def interrupt(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    source = write_peft(tmp_path / "peft", GQA)
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "out", to=to, base=fingerprint(GQA), progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["peft"]


def test_no_source(tmp_path: Path) -> None:
    """A folder that is no adapter is refused, and nothing is left."""
    with pytest.raises(AdapterCorrupt):
        convert(tmp_path / "none", tmp_path / "out", to="gguf", base=fingerprint(GQA))
    assert list(tmp_path.iterdir()) == []


@FORMATS
def test_progress(tmp_path: Path, to: Format) -> None:
    """It rises to the total, which never changes."""
    seen: list[tuple[int, int]] = []
    source = write_peft(tmp_path / "peft", GQA)
    convert(source, tmp_path / "out", to=to, base=fingerprint(GQA), progress=lambda *step: seen.append(step))
    done, totals = [d for d, _ in seen], {total for _, total in seen}
    assert totals == {3 * 14}
    assert done == sorted(done) and done[-1] == 3 * 14
