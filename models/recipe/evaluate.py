"""Measures the adapters: exact answers to held-out questions, side by side over five ways of running them.

    python models/recipe/evaluate.py [--json FILE] [--only RUNNER ...]

An answer counts when the greedy text equals the expected one, character for character.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "converters"), str(ROOT / "models")]

from adapter_sets import pirate_style  # noqa: E402
from runners import EngineRunner, MlxRunner, Runner, TorchRunner, open_service  # noqa: E402

from edgelora_converters.base.gguf import write_base_gguf  # noqa: E402
from edgelora_models import builtin  # noqa: E402

Factory = Callable[[Path | None], Runner]
# The style must carry over to facts it never saw; reported beside the held-out wordings, not among them.
UNSEEN = "pirate (unseen facts)"


def factories(scratch: Path, opened: ExitStack) -> dict[str, Factory]:
    """Each way of running: adapter folder (None: the base alone) to runner."""
    base = builtin.base_hf()
    f32 = scratch / "base-F32.gguf"
    write_base_gguf(base, f32, quantization="F32")
    exact, quantized = (opened.enter_context(open_service(f, scratch / "home")) for f in (f32, builtin.base_gguf()))
    return {
        "PEFT f32": lambda adapter: TorchRunner(base, adapter),
        "llama.cpp F32": lambda adapter: EngineRunner(exact, adapter),
        "llama.cpp Q8_0": lambda adapter: EngineRunner(quantized, adapter),
        "MLX f32": lambda adapter: MlxRunner(base, adapter, scratch / "mlx"),
        "MLX 8-bit": lambda adapter: MlxRunner(base, adapter, scratch / "mlx", bits=8),
    }


def questions() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """For each line of the table: the adapter, and its (question, expected answer) pairs."""
    lines = {
        name: (name, [(item.question, item.answer) for item in builtin.questions(name)]) for name in builtin.adapters()
    }
    return lines | {UNSEEN: ("pirate", [(turn.question, turn.answer) for turn in pirate_style().unseen])}


def measure(factory: Factory) -> tuple[dict[str, float], dict[str, float], list[str]]:
    """(rates with the adapter, rates of the base alone, the wrong answers with the adapter), rates in [0, 1]."""
    base = factory(None)
    adapted, alone, wrong = {}, {}, []
    for line, (name, pairs) in questions().items():
        asked = [question for question, _ in pairs]
        answers = factory(builtin.adapters()[name]).answer(asked)
        misses = [(q, want, got) for (q, want), got in zip(pairs, answers, strict=True) if want != got]
        adapted[line] = 1 - len(misses) / len(pairs)
        wrong += [f"{line}: {q}\n    want {want}\n    got  {got}" for q, want, got in misses]
        answers = base.answer(asked)
        alone[line] = sum(want == got for (_, want), got in zip(pairs, answers, strict=True)) / len(pairs)
    return adapted, alone, wrong


def main() -> None:
    """Measures, prints the table and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", nargs="*", help="names of runners, such as 'PEFT f32'")
    parser.add_argument("--wrong", action="store_true", help="print the wrong answers")
    options = parser.parse_args()
    results: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as opened:
        for label, factory in factories(Path(scratch), opened).items():
            if options.only and label not in options.only:
                continue
            adapted, alone, wrong = measure(factory)
            results[label] = {"adapter": adapted, "base": alone}
            cells = [f"{line} {adapted[line]:.1%} (base {alone[line]:.1%})" for line in adapted]
            print(f"{label:15} " + " | ".join(cells), flush=True)
            if options.wrong:
                print("\n".join(wrong))
    counts = {line: len(pairs) for line, (_, pairs) in questions().items()}
    if options.json:
        text = json.dumps({"questions": counts, "exact": results}, indent=2) + "\n"
        options.json.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
