"""One way of `benchmarks.latency.convert`, in a process of its own: `main` with WAY SOURCE OUT as the program's words.

Imports nothing before it is needed, so that each way pays for what it uses and no more. Prints the peak of the
process's memory in bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

RANK = 16


def main() -> None:
    way, source, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if way == "copy":
        _copy(source, out)
    elif way == "torch":
        _like_llama_cpp(source, out)
    else:
        _convert(way, source, out)
    lines = Path("/proc/self/status").read_text().splitlines()
    print(next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM")))


def _copy(source: Path, out: Path) -> None:
    import shutil

    with source.open("rb") as read, out.open("wb") as write:
        shutil.copyfileobj(read, write, 1 << 20)


def _convert(to: str, source: Path, out: Path) -> None:
    from edgelora_converters.convert.convert import convert
    from edgelora_models.fingerprint import BaseFingerprint
    from edgelora_models.shape import LlamaShape

    shape = LlamaShape(layers=32, hidden=4096, heads=32, kv_heads=8, head_dim=128, ffn=14336, vocab=128256, tied=False)
    base = BaseFingerprint("llama", shape, tokenizer="0" * 64, template="0" * 64)
    convert(source, out, to=to, base=base)  # type: ignore[arg-type]


def _like_llama_cpp(source: Path, out: Path) -> None:
    """The steps of llama.cpp's convert_lora_to_gguf.py for a plain adapter, with its default output type, float32."""
    import gguf
    import torch
    from safetensors.torch import load_file
    from transformers import AutoConfig  # noqa: F401  # the script reads the base's configuration with it

    tensors = load_file(source / "adapter_model.safetensors", device="cpu")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 32)
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 2.0 * RANK)
    with torch.no_grad():
        for key, tensor in tensors.items():
            path, _, side = key.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".lora_")
            heads = {"q_proj": 32, "k_proj": 8}.get(path.rpartition(".")[2])
            data = tensor.to(torch.float32)
            if heads and side == "B":
                data = data.reshape(heads, 2, -1, data.shape[1]).swapaxes(1, 2).reshape(data.shape)
            name = names.get_name(f"{path}.weight", try_suffixes=(".weight",))
            writer.add_tensor(f"{name}.lora_{side.lower()}", data.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
