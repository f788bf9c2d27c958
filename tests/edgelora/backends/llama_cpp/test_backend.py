"""What only llama.cpp has around the graph: opening, refusals in its own words, silence. `contract` has the rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf as gguf_py
import pytest

from edgelora.backends.base import Chunk
from edgelora.backends.llama_cpp.backend import LlamaCppBackend
from edgelora.backends.llama_cpp.options import Method
from edgelora.core.errors import AdapterIncompatible, BackendError, BaseError, Cancelled
from edgelora_converters.gguf import writer as gguf_writer
from edgelora_models.shape import LlamaShape
from tests.edgelora.backends.llama_cpp.conftest import EXACT, Installed, open_backend
from tests.support.bases import CONTEXT_LENGTH, MIN_VOCAB, write_tiny_gguf
from tests.support.lora import GQA, WIDE_HEADS, random_adapter
from tests.support.steps import Lane, advance, distance, generate, once
from tests.support.uses import applied

K_QUANT = LlamaShape(layers=2, hidden=256, heads=4, kv_heads=2, head_dim=64, ffn=512, vocab=MIN_VOCAB + 2, tied=False)
"""Wide enough for llama.cpp's K-quants."""


def chunk(sequence: int, position: int, tokens: tuple[int, ...], slot: int | None = None) -> Chunk:
    return Chunk(sequence=sequence, position=position, tokens=tokens, adapters=applied(slot), logits=True)


def test_capabilities_are_what_was_made(backend: LlamaCppBackend) -> None:
    """The scheduler's limits are those of the context that exists."""
    capabilities = backend.capabilities
    assert (capabilities.adapter_format, capabilities.mixed_adapters) == ("mapped", True)
    assert (capabilities.max_slots, capabilities.max_sequences, capabilities.max_step_tokens) == (4, 6, 64)
    assert (capabilities.context_length, capabilities.kv_cells) == (96, 512)


@pytest.mark.parametrize(("asked", "cells", "expected"), [(9999, 1024, CONTEXT_LENGTH), (300, 256, 256)])
def test_the_context_is_never_more_than_there_is(installed: Installed, asked: int, cells: int, expected: int) -> None:
    """Neither more than the base was made for, nor than the KV holds."""
    backend = open_backend(installed, replace(EXACT, context_length=asked, kv_cells=cells))
    assert backend.capabilities.context_length == expected
    backend.close()


def test_kv_defaults_to_two_contexts(installed: Installed) -> None:
    """Without a word on it, the KV holds two sequences of full length."""
    backend = open_backend(installed, replace(EXACT, context_length=256, kv_cells=None))
    assert backend.capabilities.kv_cells == 512
    backend.close()


@pytest.mark.parametrize("method", ["hook", "native"])
@pytest.mark.parametrize("quantization", ["F16", "Q8_0", "Q4_K_M"])
def test_quantized_bases(tmp_path: Path, quantization: str, method: Method) -> None:
    """On a quantized base with the default f16 KV, mixed lanes give each lane's own tokens, in both ways of LoRA."""
    base = write_tiny_gguf(tmp_path / "base.gguf", K_QUANT, seed=1, quantization=quantization)
    options = replace(EXACT, kv_type="f16", method=method)
    backend = LlamaCppBackend.open(base, shape=K_QUANT, settings=options)
    for slot in range(2):
        gguf_writer.write(random_adapter(K_QUANT, seed=slot), K_QUANT, tmp_path / f"{slot}.gguf", provenance={})
        backend.attach(slot, backend.load(tmp_path / f"{slot}.gguf"))
    slots = (1, 0, None) if method == "hook" else (1, 1)
    alone = [generate(backend, [Lane(5, slot, [7, 8, 9])], steps=5)[0] for slot in slots]
    together = generate(backend, [Lane(n, slot, [7, 8, 9]) for n, slot in enumerate(slots)], steps=5)
    assert together == alone
    assert distance(once(backend, [7, 8, 9], 0), once(backend, [7, 8, 9], None)) > 0.02
    backend.close()


def test_hook_and_native_agree_on_a_quantized_base(tmp_path: Path) -> None:
    """int8 activations amplify rounding, but the two ways stay far closer to each other than to the base."""
    base = write_tiny_gguf(tmp_path / "base.gguf", K_QUANT, seed=1, quantization="Q4_K_M")
    gguf_writer.write(random_adapter(K_QUANT), K_QUANT, tmp_path / "a.gguf", provenance={})
    logits = []
    for method in ("hook", "native"):
        backend = LlamaCppBackend.open(base, shape=K_QUANT, settings=replace(EXACT, method=method))
        backend.attach(0, backend.load(tmp_path / "a.gguf"))
        logits.append((once(backend, [7, 8, 9], 0), once(backend, [7, 8, 9], None)))
        backend.close()
    (hooked, base_logits), (native, _) = logits
    assert distance(hooked, native) < 0.1 * distance(hooked, base_logits)


def test_a_tied_head_and_odd_heads(tmp_path: Path) -> None:
    """A base whose head shares the embedding, and whose q is wider than the stream, works like any other."""
    base = write_tiny_gguf(tmp_path / "base.gguf", WIDE_HEADS, seed=2)
    gguf_writer.write(random_adapter(WIDE_HEADS), WIDE_HEADS, tmp_path / "a.gguf", provenance={})
    backend = LlamaCppBackend.open(base, shape=WIDE_HEADS, settings=EXACT)
    backend.attach(0, backend.load(tmp_path / "a.gguf"))
    assert distance(once(backend, [1, 2], 0), once(backend, [1, 2], None)) > 0.02
    backend.close()


def test_nothing_is_printed(installed: Installed, capfd: pytest.CaptureFixture[str]) -> None:
    """Opening, failing to open, tokenising twice the BOS, stepping and closing leave stdout and stderr empty."""
    with pytest.raises(BaseError):
        LlamaCppBackend.open(installed.paths[0], shape=GQA, settings=EXACT)
    backend = open_backend(installed)
    backend.attach(0, backend.load(installed.paths[0]))
    backend.tokenizer.tokenize("<|begin_of_text|>", special=True, bos=True)
    once(backend, [1, 2, 3], 0)
    backend.close()
    assert capfd.readouterr() == ("", "")


def test_progress_runs_to_one(installed: Installed) -> None:
    """The load reports fractions that only grow, up to 1."""
    seen: list[float] = []
    LlamaCppBackend.open(installed.base, shape=GQA, settings=EXACT, progress=seen.append).close()
    assert seen == sorted(seen) and seen[-1] == 1.0


def test_progress_can_end_the_load(installed: Installed) -> None:
    """What the progress callback raises comes out of open()."""

    def cancel(_fraction: float) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        LlamaCppBackend.open(installed.base, shape=GQA, settings=EXACT, progress=cancel)


def test_bases_that_cannot_be_opened(installed: Installed, tmp_path: Path) -> None:
    """A missing file, garbage, a truncated base, another architecture and another shape each say what is wrong."""
    garbage, cut = tmp_path / "garbage.gguf", tmp_path / "cut.gguf"
    garbage.write_bytes(b"GGUF" + bytes(100))
    cut.write_bytes(installed.base.read_bytes()[:-5000])
    codes = {tmp_path / "none.gguf": "base_missing", garbage: "base_unreadable", cut: "base_unreadable"}
    for path, code in codes.items():
        with pytest.raises(BaseError, match=path.name) as caught:
            LlamaCppBackend.open(path, shape=GQA, settings=EXACT)
        assert caught.value.code == code and caught.value.remedy
    with pytest.raises(BaseError, match="layers 2 instead of 3") as caught:
        LlamaCppBackend.open(installed.base, shape=replace(GQA, layers=3), settings=EXACT)
    assert caught.value.code == "base_changed"


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    """What llama.cpp can load but is no Llama is refused by name, or by llama.cpp's own words."""
    writer = gguf_py.GGUFWriter(str(tmp_path / "gpt2.gguf"), "gpt2")
    writer.add_block_count(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(BaseError):
        LlamaCppBackend.open(tmp_path / "gpt2.gguf", shape=GQA, settings=EXACT)


def test_an_adapter_for_another_base_is_refused(backend: LlamaCppBackend, tmp_path: Path) -> None:
    """It is refused when loaded, before anything changes."""
    gguf_writer.write(random_adapter(WIDE_HEADS), WIDE_HEADS, tmp_path / "a.gguf", provenance={})
    with pytest.raises(AdapterIncompatible):
        backend.load(tmp_path / "a.gguf")


def test_loaded_size_is_its_arrays(backend: LlamaCppBackend, installed: Installed) -> None:
    """The pool's budget counts float32 factors."""
    assert backend.load(installed.paths[0]).nbytes == 4 * installed.adapters[0].parameters


def test_slots_are_checked(backend: LlamaCppBackend, installed: Installed) -> None:
    """A taken slot, one beyond the last, and an object of another backend are refused."""
    loaded = backend.load(installed.paths[0])
    for slot in (0, 4, -1):
        with pytest.raises(BackendError, match="Slot"):
            backend.attach(slot, loaded)

    class Foreign:
        nbytes = 0

    backend.detach(3)
    backend.detach(3)
    with pytest.raises(BackendError, match="Foreign"):
        backend.attach(3, Foreign())
    backend.attach(3, loaded)


@pytest.mark.parametrize(
    ("chunks", "reason"),
    [
        ([], "0 tokens"),
        ([chunk(0, 0, (1,) * 65)], "65 tokens"),
        ([chunk(0, 0, (1,)), chunk(0, 1, (1,))], "two chunks"),
        ([chunk(6, 0, (1,))], "Sequence 6 is not one of 6"),
        ([chunk(-1, 0, (1,))], "Sequence -1"),
        ([chunk(0, 3, (1,))], "Sequence 0 holds 0 tokens"),
        ([chunk(0, 0, (1,)), chunk(1, 0, ())], "positions 0 to 0 do not follow"),
        ([chunk(0, 0, (GQA.vocab,))], "not in the vocabulary"),
        ([chunk(0, 0, (-1,))], "not in the vocabulary"),
        ([replace(chunk(0, 0, (1, 2)), logits=3)], "Logits after 3 of 2 tokens"),
        ([replace(chunk(n, 0, (1,) * 4), logits=4) for n in range(2)], "Logits after 8 tokens of one step; 7"),
    ],
)
def test_steps_that_cannot_be_are_refused(backend: LlamaCppBackend, chunks: list[Chunk], reason: str) -> None:
    """What llama.cpp would abort on, or compute wrongly, never reaches it; nothing is changed by the refusal."""
    with pytest.raises(BackendError, match=reason):
        backend.step(chunks)
    assert backend.step([chunk(0, 0, (1,))])[0] is not None


def test_a_full_kv_is_an_error_and_recovers(installed: Installed) -> None:
    """Where the cells run out, the step fails clearly; cleared sequences make room again."""
    backend = open_backend(installed, replace(EXACT, context_length=128, kv_cells=256))
    lanes = [Lane(n, None, [3] * 120) for n in range(3)]
    for lane in lanes[:2]:
        advance(backend, [(lane, lane.chunk(60))])
        advance(backend, [(lane, lane.chunk(60))])
    with pytest.raises(BackendError) as caught:
        advance(backend, [(lanes[2], lanes[2].chunk(60))])
    assert caught.value.code == "kv_full"
    with pytest.raises(BackendError, match="undefined"):
        backend.truncate(2, 1)
    for sequence in (0, 2):
        backend.clear(sequence)
    advance(backend, [(lanes[2], lanes[2].chunk(60))])
    assert lanes[2].logits is not None
    backend.close()


@pytest.mark.parametrize("method", ["hook", "native"])
def test_close_is_safe_twice_and_final(installed: Installed, method: Method) -> None:
    """With adapters attached, too; whoever comes later gets an error, not freed memory."""
    backend = open_backend(installed, replace(EXACT, method=method))
    loaded = backend.load(installed.paths[0])
    backend.attach(0, loaded)
    backend.close()
    backend.close()
    backend.detach(0)
    for late in (
        lambda: backend.attach(1, loaded),
        lambda: backend.step([chunk(0, 0, (1,))]),
        lambda: backend.clear(0),
    ):
        with pytest.raises(BackendError, match="closed"):
            late()


def test_the_smallest_backend(installed: Installed) -> None:
    """One sequence and one token a step still start, self-test included."""
    backend = open_backend(installed, replace(EXACT, max_sequences=1, max_step_tokens=1, max_slots=1))
    backend.attach(0, backend.load(installed.paths[0]))
    assert backend.capabilities.mixed_adapters and backend.step([chunk(0, 0, (1,), 0)])[0] is not None
    backend.close()


def test_more_sequences_than_tokens_in_a_step(installed: Installed) -> None:
    """The library wants room for one output of each sequence, however small a step is."""
    backend = open_backend(installed, replace(EXACT, max_sequences=16, max_step_tokens=8))
    assert backend.step([chunk(15, 0, (1,))])[0] is not None
    backend.close()


def test_a_context_that_cannot_be_made_is_an_error(installed: Installed) -> None:
    """More sequences than llama.cpp has room for: its reason, and what to do."""
    with pytest.raises(BaseError, match="n_seq_max") as caught:
        open_backend(installed, replace(EXACT, max_sequences=100_000))
    assert caught.value.code == "context_refused" and caught.value.remedy
