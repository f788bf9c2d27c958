"""`edgelora convert`: an adapter in another form, outside the store."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Literal

import click

from edgelora.cli.support.app import App
from edgelora.cli.support.options import base_path_option, json_option, out_option
from edgelora.cli.support.output import emit_json, note
from edgelora.cli.support.source_options import ReadingOptions, opened, reading_options


@click.command(short_help="Convert an adapter to GGUF, MLX or PEFT.")
@click.argument("source", metavar="ADAPTER", type=click.Path(path_type=Path))
@click.option("--to", type=click.Choice(["gguf", "mlx", "peft"]), required=True, help="What to make of it.")
@out_option("Where to: a file for gguf, a folder for mlx and peft.")
@base_path_option(
    "The base it was trained on: an installed one, a GGUF file or an MLX folder.  [default: the chosen base]"
)
@reading_options
@json_option
@click.pass_obj
def convert(
    app: App,
    source: Path,
    to: Literal["gguf", "mlx", "peft"],
    out: Path,
    base: str | None,
    reading: ReadingOptions,
    as_json: bool,
) -> None:
    """Convert ADAPTER for llama.cpp, MLX or PEFT, and check the result against it.

    ADAPTER is a PEFT folder, an MLX folder (also one that mlx-lm trained) or a GGUF adapter (also one of llama.cpp's
    converter). This is for other programs: `edgelora add` converts PEFT by itself. A base given by its PATH
    serves as the base's trained weights too.

    \b
    edgelora convert ./my-adapter --to gguf -o my-adapter.gguf
    edgelora convert trained-with-mlx --to peft -o ./my-adapter
    """
    from edgelora.cli.support.progress import progress_bars
    from edgelora_converters.convert.convert import convert as convert_adapter
    from edgelora_converters.peft.read_options import PLAIN

    with progress_bars() as bars:
        target_base = app.open_library(bars).find_base(base)
        progress = None if bars is None else lambda done, total: bars(f"Converting {source.name}", done, total)
        with opened(reading, bars, usual=target_base.path if target_base.record is None else None) as given:
            report = convert_adapter(
                source,
                out,
                to=to,
                base=target_base.fingerprint,
                base_path=target_base.path,
                reading=given or PLAIN,
                progress=progress,
            )
    if as_json:
        emit_json({"out": str(out), **asdict(report)})
    else:
        if report.treatment:
            note(f"Its factors: {report.treatment}.")
        note(f"Wrote {out}: {report.modules} modules, rank {report.rank}, at most {report.worst:.0e} off (relative).")
