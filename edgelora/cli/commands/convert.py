"""`edgelora convert`: convert an adapter file to another format, outside the store."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Literal

import click

from edgelora.cli.support.app import App
from edgelora.cli.support.options import base_path_option, json_option, out_option
from edgelora.cli.support.output import emit_json, note
from edgelora.cli.support.source_options import ReadingOptions, force_option, opened, reading_options


@click.command(short_help="Convert an adapter to GGUF, MLX or PEFT.")
@click.argument("source", metavar="ADAPTER", type=click.Path(path_type=Path))
@click.option("--to", type=click.Choice(["gguf", "mlx", "peft"]), required=True, help="The format to write.")
@out_option("The file (gguf) or folder (mlx, peft) to write.")
@base_path_option(
    "The base it was trained on: an installed base, a GGUF file, a folder with a model or only its config.json, or a "
    "base of the catalogue.  [default: the one it names, or the chosen base]"
)
@reading_options
@force_option
@json_option
@click.pass_obj
def convert(
    app: App,
    source: Path,
    to: Literal["gguf", "mlx", "peft"],
    out: Path,
    base: str | None,
    reading: ReadingOptions,
    force: bool,
    as_json: bool,
) -> None:
    """Convert ADAPTER for llama.cpp, mlx-lm or PEFT, and check the result against the source.

    ADAPTER is a PEFT folder, an MLX folder or a GGUF adapter, from edgelora, mlx-lm's trainer or llama.cpp's
    converter. Use this for other programs: `edgelora add` converts by itself. The base need not be on this machine: its
    shape is enough for most adapters. A base given as a PATH also serves as --base-weights.

    \b
    edgelora convert ./my-adapter --to gguf -o my-adapter.gguf
    edgelora convert trained-with-mlx --to peft -o ./my-adapter
    """
    from edgelora.cli.support.progress import progress_bars
    from edgelora.store import conversion_base
    from edgelora_converters.convert.convert import convert as convert_adapter
    from edgelora_converters.peft.read_options import PLAIN

    with progress_bars() as bars:
        target = conversion_base.find(app.open_library(bars), base, source)
        progress = None if bars is None else lambda done, total: bars(f"Converting {source.name}", done, total)
        usual = None if target.installed else target.path
        with opened(reading, bars, usual=usual) as given, conversion_base.naming(target):
            report = convert_adapter(
                source,
                out,
                to=to,
                base=target.fingerprint,
                base_path=target.path,
                reading=given or PLAIN,
                any_architecture=force,
                progress=progress,
            )
    if as_json:
        emit_json({"out": str(out), **asdict(report)})
    else:
        if target.path is None:
            note(f"Converted for a base with the shape of {target.name}; the model itself was not needed.")
        if report.treatment:
            note(f"How its factors were read: {report.treatment}.")
        note(f"Wrote {out}: {report.modules} modules, rank {report.rank}, relative error at most {report.worst:.0e}.")
