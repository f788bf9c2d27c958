"""`edgelora convert`: a PEFT folder as a GGUF or MLX adapter of its own, outside the store."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from edgelora.cli.app import App
from edgelora.cli.options import base_names, json_option
from edgelora.cli.output import emit_json, note

if TYPE_CHECKING:
    from edgelora.library import Library
    from edgelora_models.fingerprint import BaseFingerprint


@click.command(short_help="Convert a PEFT adapter to GGUF or MLX.")
@click.argument("source", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--to", type=click.Choice(["gguf", "mlx"]), required=True, help="What to make of it.")
@click.option(
    "-o",
    "--out",
    metavar="OUT",
    type=click.Path(path_type=Path),
    required=True,
    help="Where to: a file for gguf, a folder for mlx. Never replaced.",
)
@click.option(
    "--base",
    metavar="NAME|PATH",
    shell_complete=base_names,
    help="The base it was trained on: an installed one, a GGUF file or an MLX folder.  [default: the chosen base]",
)
@json_option
@click.pass_obj
def convert(app: App, source: Path, to: Literal["gguf", "mlx"], out: Path, base: str | None, as_json: bool) -> None:
    """Convert the PEFT adapter in DIR for llama.cpp or MLX, and check the result against it.

    This is for other programs: `edgelora add` converts by itself.

    \b
    edgelora convert ./my-adapter --to gguf -o my-adapter.gguf
    """
    from edgelora.cli.progress import progress_bars
    from edgelora_converters.convert import convert as convert_adapter

    with progress_bars() as bars:
        fingerprint = _fingerprint(app.open_library(bars), base)
        progress = None if bars is None else lambda done, total: bars(f"Converting {source.name}", done, total)
        report = convert_adapter(source, out, to=to, base=fingerprint, progress=progress)
    if as_json:
        emit_json({"out": str(out), **asdict(report)})
    else:
        note(f"Wrote {out}: {report.modules} modules, rank {report.rank}, at most {report.worst:.0e} off (relative).")


def _fingerprint(library: Library, base: str | None) -> BaseFingerprint:
    """The base's identity: the chosen base's, an installed one's, or that of a file or folder."""
    from edgelora.bases.registry import identify

    if base is None:
        return library.bases.current().identity.fingerprint
    if base not in library.bases.names() and Path(base).exists():
        return identify(Path(base)).fingerprint
    return library.bases.get(base).identity.fingerprint
