"""`python -m tests.system.training`: trains the built-in base through the command line, and stops it in both
ways on the way.

A short training three times: in one go; ended by Ctrl-C and gone on with; killed and gone on with. All three must be
the same adapter, digest for digest. Then a longer one: its loss must have fallen, and what it learnt must be answered
by llama.cpp and by MLX, alike. Exit code 1 where anything of it fails.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgelora_models import builtin

EXAMPLES = 4
SHORT = 16
RECIPE = ("--rank", "8", "--alpha", "16", "--learning-rate", "0.002", "--batch-size", "2", "--validation", "0")
EVERY = ("--report-every", "4", "--save-every", "8")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.system.training", description=__doc__.split("\n\n")[0])
    parser.add_argument("--iterations", type=int, default=40, help="of the longer training (default 40)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        short = bench.trained("short", SHORT)
        ends = [bench.ended("ctrl-c", signal.SIGINT, 130), bench.ended("killed", signal.SIGKILL, -signal.SIGKILL)]
        began = time.perf_counter()
        long = bench.trained("long", options.iterations)
        first, last = long["losses"][0]["loss"], long["losses"][-1]["loss"]
        print(f"{options.iterations} iterations: loss {first:.2f} to {last:.2f}, {time.perf_counter() - began:.0f} s")
        answers = {backend: bench.answers("long", backend) for backend in ("llama.cpp", "mlx")}
        right = {backend: sum(map(str.__eq__, bench.wanted, said)) for backend, said in answers.items()}
        print(f"answered word for word, of {EXAMPLES}: {right}")
        checks = {
            "going on is exact": all(end["digest"] == short["digest"] for end in ends),
            "the loss falls": last < 0.2 * first,
            "it is learnt": min(right.values()) >= EXAMPLES - 1,
            "both backends say the same": answers["mlx"] == answers["llama.cpp"],
        }
    for name, good in checks.items():
        print(f"{'ok  ' if good else 'FAIL'}  {name}")
    return 0 if all(checks.values()) else 1


class Bench:
    def __init__(self, folder: Path) -> None:
        self._home = folder / "home"
        self._data = folder / "data.jsonl"
        questions = builtin.questions("lumen-support")[:EXAMPLES]
        self._asked = [question.question for question in questions]
        self.wanted = [question.answer for question in questions]
        lines = ({"prompt": question.question, "completion": question.answer} for question in questions)
        self._data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    def trained(self, name: str, iterations: int) -> Any:
        return self._json(*_training(name, self._data, iterations))

    def ended(self, name: str, how: signal.Signals, code: int) -> Any:
        """Ended after its first checkpoint, then gone on with."""
        with self._started(*_training(name, self._data, SHORT)) as child:
            for line in child.stderr or ():
                if line.startswith("iteration") and int(line.split()[1]) >= SHORT - 8:
                    child.send_signal(how)
                    break
            said = child.communicate()[1]
        if child.returncode != code:
            raise RuntimeError(f"{name}: exit code {child.returncode}: {said}")
        print(f"{name}: {said.strip().splitlines()[-1:]}, then on")
        return self._json("train", name, "--resume", "--json")

    def answers(self, name: str, backend: str) -> list[str]:
        return [self._run("run", "--backend", backend, "-a", name, question).strip() for question in self._asked]

    def _json(self, *arguments: str) -> Any:
        return json.loads(self._run(*arguments))

    def _run(self, *arguments: str) -> str:
        with self._started(*arguments) as child:
            answer, said = child.communicate()
        if child.returncode != 0:
            raise RuntimeError(f"{' '.join(arguments)}: exit code {child.returncode}: {said}")
        return str(answer)

    @contextmanager
    def _started(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        environ = {**os.environ, "EDGELORA_HOME": str(self._home), "EDGELORA_OFFLINE": "1"}
        command: Sequence[str] = [sys.executable, "-m", "edgelora", *arguments]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, text=True, env=environ, **pipes) as child:  # type: ignore[call-overload]
            try:
                yield child
            finally:
                child.kill()


def _training(name: str, data: Path, iterations: int) -> list[str]:
    return ["train", name, "--data", str(data), *RECIPE, *EVERY, "--iterations", str(iterations), "--json"]


if __name__ == "__main__":
    raise SystemExit(main())
