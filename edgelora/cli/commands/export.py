"""`edgelora export`: write an installed adapter to files for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from edgelora.cli.support.app import App
from edgelora.cli.support.options import adapter_names, base_path_option, json_option, out_option
from edgelora.cli.support.output import emit_json, note
from edgelora.store.adapters.export import ExportFormat


@click.command(short_help="Write an installed adapter to files.")
@click.argument("name", metavar="ADAPTER", shell_complete=adapter_names)
@click.option("--to", type=click.Choice(["peft", "gguf", "mlx"]), required=True, help="The format to write.")
@out_option("The file (gguf) or folder (peft, mlx) to write.")
@base_path_option("The base to convert for.  [default: the base it was added for]")
@json_option
@click.pass_obj
def export(app: App, name: str, to: ExportFormat, out: Path, base: str | None, as_json: bool) -> None:
    """Write the installed ADAPTER to OUT: the PEFT files it was added from, or a GGUF or MLX adapter.

    The GGUF file is for llama.cpp's own tools, the MLX folder for mlx-lm.

    \b
    edgelora export medical-faq --to gguf -o medical-faq.gguf
    llama-cli -m base.gguf --lora medical-faq.gguf
    """
    from edgelora.cli.support.progress import progress_bars
    from edgelora.store.adapters.export import export as export_version
    from edgelora_models.storage import size_text

    with progress_bars() as bars:
        library = app.open_library(bars)
        manifest, version = library.store.resolve(name)
        target = library.find_base(base if base is not None else version.base_name)
        progress = None if bars is None else lambda done, total: bars(f"Converting {name}", done, total)
        done = export_version(
            library.store,
            manifest.name,
            version,
            out,
            to=to,
            base=target.fingerprint,
            base_path=target.path,
            progress=progress,
        )
    if as_json:
        fields = {"name": manifest.name, "version": version.number, "digest": version.digest}
        emit_json(fields | {"to": to, "out": str(out), "bytes": done.nbytes, "worst": done.worst})
    else:
        note(f"Wrote {manifest.name}, version {version.number}, to {out} ({size_text(done.nbytes)}).")
