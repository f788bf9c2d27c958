"""The command line. `main` is its entry point; each verb has a module of its own, which is loaded on use."""

from __future__ import annotations

import sys


def main() -> None:
    """Run `edgelora` with the process's arguments and exit with the documented code."""
    from edgelora.cli.root import cli

    for stream in (sys.stdout, sys.stderr):
        # A console that cannot write a character shows a substitute; an answer must not end in a traceback.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    # On Windows click would expand `*` and `?` in arguments, and prompts hold both.
    cli.main(prog_name="edgelora", windows_expand_args=False)
