"""`python -m tests.training`: trains the built-in base through the command line, and stops it in both ways on the way.

The same training three times: in one go; ended by Ctrl-C and gone on with; killed and gone on with. All three must be
the same adapter, digest for digest; its loss must have fallen; and what it learnt must be answered by llama.cpp and by
MLX alike. Exit code 1 where anything of it fails.
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

EXAMPLES = 8
RECIPE = ("--rank", "8", "--alpha", "16", "--learning-rate", "0.004", "--batch-size", "4", "--validation", "0")
EVERY = ("--report-every", "5", "--save-every", "10")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.training", description=__doc__.split("\n\n")[0])
    parser.add_argument("--iterations", type=int, default=60, help="of each training (default 60)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options.iterations)
        began = time.perf_counter()
        whole = bench.whole()
        print(f"in one go: loss {whole['losses'][0]['loss']:.2f} to {whole['losses'][-1]['loss']:.2f},"
              f" {time.perf_counter() - began:.0f} s")  # fmt: skip
        ends = [bench.ended("ctrl-c", signal.SIGINT, 130), bench.ended("killed", signal.SIGKILL, -signal.SIGKILL)]
        answers = {backend: bench.answers("whole", backend) for backend in ("llama.cpp", "mlx")}
        right = {backend: sum(map(str.__eq__, bench.wanted, said)) for backend, said in answers.items()}
        print(f"answered word for word, of {EXAMPLES}: {right}")
        checks = {
            "the loss falls": whole["losses"][-1]["loss"] < 0.2 * whole["losses"][0]["loss"],
            "going on is exact": all(end["digest"] == whole["digest"] for end in ends),
            "it is learnt": min(right.values()) >= EXAMPLES - 2,
            "both backends say the same": answers["mlx"] == answers["llama.cpp"],
        }
    for name, good in checks.items():
        print(f"{'ok  ' if good else 'FAIL'}  {name}")
    return 0 if all(checks.values()) else 1


class Bench:
    def __init__(self, folder: Path, iterations: int) -> None:
        self._home = folder / "home"
        self._data = folder / "data.jsonl"
        self._iterations = iterations
        questions = builtin.questions("lumen-support")[:EXAMPLES]
        self._asked = [question.question for question in questions]
        self.wanted = [question.answer for question in questions]
        lines = ({"prompt": question.question, "completion": question.answer} for question in questions)
        self._data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    def whole(self) -> Any:
        return self._json(*self._training("whole"))

    def ended(self, name: str, how: signal.Signals, code: int) -> Any:
        """Ended after its first checkpoint, then gone on with."""
        with self._started(*self._training(name)) as child:
            for line in child.stderr or ():
                if line.startswith("iteration") and int(line.split()[1]) >= 15:
                    child.send_signal(how)
                    break
            said = child.communicate()[1]
        if child.returncode != code:
            raise RuntimeError(f"{name}: exit code {child.returncode}: {said}")
        print(f"{name}: {said.strip().splitlines()[-1:]}, then on")
        return self._json("train", name, "--resume", "--json")

    def answers(self, name: str, backend: str) -> list[str]:
        return [self._run("run", "--backend", backend, "-a", name, question).strip() for question in self._asked]

    def _training(self, name: str) -> list[str]:
        iterations = ["--iterations", str(self._iterations)]
        return ["train", name, "--data", str(self._data), *RECIPE, *EVERY, *iterations, "--json"]

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


if __name__ == "__main__":
    raise SystemExit(main())
