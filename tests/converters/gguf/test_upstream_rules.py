"""A plain adapter's GGUF is what llama.cpp's own converter makes of it, tensor by tensor, but that the scale is in B.

Its rules are written down here anew, for what it gets right: one rank and one alpha, some layers, some modules, ranks
by pattern. Reimplemented expectations; nothing of its code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf as gguf_package
import numpy as np
import pytest
from numpy.typing import NDArray

from edgelora_converters.convert.convert import convert
from edgelora_models.fingerprint import BaseFingerprint
from edgelora_models.shape import LlamaShape
from tests.support.adapters import peft_tensors, write_peft
from tests.support.lora import GQA, WIDE_HEADS

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "some-modules": {"targets": ["q_proj", "k_proj", "down_proj"]},
    "some-layers": {"layers": [1]},
    "ranks": {"rank_pattern": {"q_proj": 2, "up_proj": 9}},
    "alpha-is-no-rank": {"rank": 3, "alpha": 7},
}


def expected(shape: LlamaShape, tensors: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Names by gguf-py's own table; rows of q's and k's B as llama.cpp's rotary embedding wants them."""
    names = gguf_package.get_tensor_name_map(gguf_package.MODEL_ARCH.LLAMA, shape.layers)
    found = {}
    for key, values in tensors.items():
        module, side = key.removeprefix("base_model.model.").removesuffix(".weight").split(".lora_")
        heads = {"q_proj": shape.heads, "k_proj": shape.kv_heads}.get(module.rpartition(".")[2])
        if side == "B" and heads is not None:
            half = len(values) // heads // 2
            # Row i of a head's first half and row i of its second become neighbours.
            order = [h * 2 * half + i + part * half for h in range(heads) for i in range(half) for part in (0, 1)]
            values = values[order]
        found[f"{names.get_name(module + '.weight', try_suffixes=('.weight',))}.lora_{side.lower()}"] = values
    return found


@pytest.mark.parametrize("shape", [GQA, WIDE_HEADS], ids=["gqa", "wide-heads"])
@pytest.mark.parametrize("case", CASES)
def test_tensor_by_tensor(tmp_path: Path, shape: LlamaShape, case: str) -> None:
    """The same names and shapes in float32; A the same bits; B the same but for llama.cpp's own alpha / rank."""
    options = {"rank": 4, "alpha": 8} | CASES[case]
    source = write_peft(tmp_path / "peft", shape, **options)
    base = BaseFingerprint("llama", shape, vocabulary="a" * 64, template="b" * 64)
    convert(source, tmp_path / "a.gguf", to="gguf", base=base)
    reader = gguf_package.GGUFReader(tmp_path / "a.gguf")
    plain = {key: value for key, value in options.items() if key != "alpha"}
    wanted = expected(shape, peft_tensors(shape, **plain))
    found = {tensor.name: tensor for tensor in reader.tensors}
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        assert found[name].tensor_type == gguf_package.GGMLQuantizationType.F32
        scale = options["alpha"] / min(values.shape) if name.endswith("_b") else 1.0
        np.testing.assert_array_equal(found[name].data, (values.astype(np.float64) * scale).astype(np.float32))


def test_keys(tmp_path: Path) -> None:
    """What llama.cpp asks of an adapter's keys; alpha alone differs, being 0.0: the caller's scale and no other."""
    base = BaseFingerprint("llama", GQA, vocabulary="a" * 64, template="b" * 64)
    convert(write_peft(tmp_path / "peft", GQA), tmp_path / "a.gguf", to="gguf", base=base)
    fields = gguf_package.GGUFReader(tmp_path / "a.gguf").fields
    wanted = {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora"}
    assert {name: fields[name].contents() for name in wanted} == wanted
    alpha = fields["adapter.lora.alpha"]
    assert (alpha.contents(), alpha.types) == (0.0, [gguf_package.GGUFValueType.FLOAT32])
    ours = {name for name in fields if not name.startswith(("GGUF.", "edgelora."))}
    assert ours == wanted.keys() | {"adapter.lora.alpha"}
