"""Builds the built-in base and its adapters and writes them into the package: one command, fixed seeds.

python models/recipe/build.py [--work FOLDER] [--adapters NAME ...] [--keep-base]
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "converters"), str(ROOT / "models")]

import torch  # noqa: E402
from adapter_sets import AdapterSet, all_sets  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402
from train_adapters import train_adapter  # noqa: E402
from train_base import save_base, train_base  # noqa: E402
from train_tokenizer import save_tokenizer, train_tokenizer  # noqa: E402
from transformers import LlamaForCausalLM  # noqa: E402

from edgelora_converters.base.gguf import write_base_gguf  # noqa: E402

PACKAGE = ROOT / "models" / "edgelora_models" / "builtin"


def build_base(folder: Path) -> None:
    """Tokenizer and base, into an HF folder."""
    tokenizer = train_tokenizer()
    save_tokenizer(tokenizer, folder)
    save_base(train_base(tokenizer), folder)


def build_adapter(adapter: AdapterSet, base: Path, folder: Path) -> None:
    """One adapter, trained on the weights in `base` as they are shipped."""
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.requires_grad_(False)
    train_adapter(model, Tokenizer.from_file(str(base / "tokenizer.json")), adapter, folder)


def write_questions(adapter: AdapterSet, folder: Path) -> None:
    """The held-out questions that go with the adapter."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [{"question": turn.question, "answer": turn.answer} for turn in adapter.test]
    text = json.dumps(pairs, indent=1, ensure_ascii=False) + "\n"
    (folder / f"{adapter.name}.json").write_text(text, encoding="utf-8")


def publish(work: Path) -> None:
    """Copies the finished parts into the package and writes the default GGUF base."""
    for part in ("base", "adapters", "questions"):
        shutil.rmtree(PACKAGE / part, ignore_errors=True)
        shutil.copytree(work / part, PACKAGE / part)
    write_base_gguf(PACKAGE / "base", PACKAGE / "edgelora-tiny-Q8_0.gguf", quantization="Q8_0")
    for path in PACKAGE.rglob("*"):
        if path.is_file():
            path.chmod(0o644)


def main() -> None:
    """Runs all steps, or only those asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/builtin"))
    parser.add_argument("--adapters", nargs="*", help="train only these again")
    parser.add_argument("--keep-base", action="store_true", help="use the base in the work folder")
    options = parser.parse_args()
    if not options.keep_base:
        build_base(options.work / "base")
    for adapter in all_sets():
        if options.adapters is None or adapter.name in options.adapters:
            build_adapter(adapter, options.work / "base", options.work / "adapters" / adapter.name)
        write_questions(adapter, options.work / "questions")
    publish(options.work)


if __name__ == "__main__":
    main()
