"""`python docs/images/make_session.py`: run a real terminal session and draw it, as docs/images/session.svg.

The commands run in a pseudo-terminal with an empty EDGELORA_HOME, so the picture shows what a newcomer sees. Needs an
installed edgelora on PATH; POSIX only.
"""

from __future__ import annotations

import os
import pty
import subprocess
import tempfile
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

COMMANDS = (
    'edgelora run "What is hypertension?"',
    'edgelora run --adapter medical-faq "What is hypertension?"',
    'edgelora run --adapter pirate "What is a cat?"',
    "edgelora ls",
)
COLUMNS = 100
TARGET = Path(__file__).with_name("session.svg")
FORMAT = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" class="rich-terminal">
<style>
.{unique_id}-matrix {{
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width;
}}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
"""rich's own format without its web font: the picture loads nothing from elsewhere."""


def run(command: str, environment: dict[str, str]) -> str:
    """Return what a command prints to a terminal of COLUMNS columns, escape sequences included."""
    master, slave = pty.openpty()
    size = f"stty cols {COLUMNS} rows 40; {command}"
    with subprocess.Popen(["sh", "-c", size], stdin=slave, stdout=slave, stderr=slave, env=environment) as process:
        os.close(slave)
        parts = []
        while True:
            try:
                data = os.read(master, 65536)
            except OSError:  # Linux: the other end is closed
                break
            if not data:
                break
            parts.append(data)
    os.close(master)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    return b"".join(parts).decode().replace("\r\n", "\n")


def settled(output: str) -> str:
    """Return the lines as they stand at the end: what a carriage return or an erased line overwrote is gone."""
    lines = []
    for line in output.split("\n"):
        kept = line.rsplit("\r", 1)[-1].rsplit("\x1b[2K", 1)[-1]
        if kept or not line:
            lines.append(kept)
    return "\n".join(lines).strip("\n")


def main() -> None:
    """Run the session and write the picture."""
    console = Console(record=True, width=COLUMNS, file=Path(os.devnull).open("w"), force_terminal=True)  # noqa: SIM115
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | {"EDGELORA_HOME": home, "EDGELORA_OFFLINE": "1", "TERM": "xterm-256color"}
        run("edgelora ls", environment)  # the first use installs the built-in base
        for command in COMMANDS:
            console.print(Text.assemble(("$ ", "green"), (command, "bold")))
            console.print(Text.from_ansi(settled(run(command, environment))))
            if command != COMMANDS[-1]:
                console.print()
    svg = console.export_svg(title="edgelora", theme=MONOKAI, code_format=FORMAT, unique_id="session")
    TARGET.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n", encoding="utf-8")
    print(f"Wrote {TARGET}")  # noqa: T201


if __name__ == "__main__":
    main()
