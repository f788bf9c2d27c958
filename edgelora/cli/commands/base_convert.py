"""`edgelora base convert`: a GGUF or MLX base from a Hugging Face Llama checkpoint."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from edgelora.cli.support.app import App
from edgelora.cli.support.options import json_option, out_option
from edgelora.cli.support.output import emit_json, hint, note

if TYPE_CHECKING:
    from edgelora_converters.base.convert import BaseReport


def _types(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the types of the format given by --to, or of both formats."""
    del parameter
    from edgelora_converters.base.convert import TYPES

    given = context.params.get("to")
    return [kind for to, kinds in TYPES.items() if given in (None, to) for kind in kinds if kind.startswith(incomplete)]


@click.command(short_help="Convert a Hugging Face checkpoint.")
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option("--to", type=click.Choice(["gguf", "mlx"]), required=True, help="The format to write.")
@click.option(
    "--type",
    "kind",
    metavar="TYPE",
    shell_complete=_types,
    help="The type of the weights. GGUF: f32, f16, bf16, q8_0, q4_0, q6_k, q5_k_m, q4_k_m, q3_k_m, q2_k; "
    "MLX: f32, f16, bf16, 8bit, 6bit, 4bit, 3bit.  [default: q4_k_m, 4bit]",
)
@out_option("The file (gguf) or folder (mlx) to write.")
@json_option
@click.pass_obj
def convert(app: App, folder: Path, to: Literal["gguf", "mlx"], kind: str | None, out: Path, as_json: bool) -> None:
    """Convert the Llama checkpoint in FOLDER (config.json, safetensors, tokenizer.json) to a base, and check every
    weight of the result against the checkpoint.

    A checkpoint that the format cannot represent is refused before anything is written.

    \b
    edgelora base convert ./my-llama --to gguf --type q4_k_m -o my-llama.gguf
    edgelora base add my-llama.gguf
    """
    from edgelora.cli.support.progress import progress_bars
    from edgelora_converters.base.convert import convert_base

    threads = app.settings().threads
    try:
        with progress_bars() as bars:
            report = convert_base(folder, out, to=to, kind=kind, threads=threads or 0, progress=bars)
    except KeyboardInterrupt:
        note("Stopped. Nothing was written.")
        raise
    if as_json:
        emit_json({"out": str(out), **asdict(report)})
        return
    note(f"Wrote {out}: {_summary(report)}.")
    hint(f"Use it: edgelora base add {out}")


def _summary(report: BaseReport) -> str:
    from edgelora_models.storage import size_text

    proof = report.proof
    size = f"{report.type}, {report.parameters:,} weights in {size_text(report.nbytes)}"
    if proof.exact == proof.tensors:
        return f"{size}, all exact"
    return f"{size}, relative error {proof.overall:.2%} (worst {proof.worst:.2%}, {proof.worst_tensor})"
