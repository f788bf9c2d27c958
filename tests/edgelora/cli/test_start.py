"""The start of the command line: what `--help` costs, what the verbs are, what `python -m edgelora` is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module

from click.testing import CliRunner

import edgelora
from edgelora.cli.root import VERBS, cli
from tests.support.cli import make_app, run

HEAVY = ("numpy", "llama_cpp", "rich", "starlette", "huggingface_hub", "jinja2", "prompt_toolkit", "msgspec", "mlx")

HELP_AND_LIST = """
import sys
from edgelora.cli import main
sys.argv = ["edgelora", *{arguments!r}]
try:
    main()
except SystemExit as end:
    code = end.code
print("loaded:", *sorted({heavy!r} & sys.modules.keys()), file=sys.stderr)
sys.exit(code)
"""


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    script = HELP_AND_LIST.format(arguments=list(arguments), heavy=set(HEAVY))
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


def test_help_is_light() -> None:
    """Nothing heavy is imported to show the help, of the whole or of a verb."""
    for arguments in (["--help"], ["--version"], ["run", "--help"], ["base", "--help"]):
        done = start(*arguments)
        assert (done.returncode, done.stderr) == (0, "loaded:\n"), arguments


def test_module_is_the_command_line() -> None:
    """`python -m edgelora` is `edgelora`."""
    done = subprocess.run([sys.executable, "-m", "edgelora", "--version"], capture_output=True, text=True, check=False)
    assert done.stdout == f"edgelora {edgelora.__version__}\n"
    assert done.returncode == 0


def test_reader_that_leaves() -> None:
    """A broken pipe is no error: no message, exit 0."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "edgelora", "--help"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_arguments() -> None:
    """The bare command is a question, answered with the help."""
    bare, help_text = CliRunner().invoke(cli, []), CliRunner().invoke(cli, ["--help"])
    assert (bare.exit_code, bare.stdout) == (0, help_text.stdout)


def test_the_help_groups_every_verb_and_imports_none() -> None:
    """Under headings, each with its command's own short help; what is only listed is not imported."""
    listed = run(make_app(), "--help").stdout
    assert [heading for heading in VERBS if f"\n{heading}:\n" in listed] == list(VERBS)
    for members in VERBS.values():
        for name, verb in members.items():
            module, _, attribute = verb.home.partition(":")
            assert getattr(import_module(module), attribute).short_help == verb.summary
            assert re.search(rf"^  {name} +{re.escape(verb.summary)}$", listed, re.MULTILINE)
    script = (
        "import sys; from edgelora.cli.root import cli; cli(['--help'], standalone_mode=False); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    imported = {name for name in done.stdout.split() if name.startswith("edgelora.cli.commands.")}
    assert imported == set()
