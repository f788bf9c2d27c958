"""`edgelora merge`: merge adapters into a base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelora.cli.support.app import App
from edgelora.cli.support.options import adapter_names, base_path_option, json_option, out_option
from edgelora.cli.support.output import emit_json, emit_table, hint, note, tell_treatments
from edgelora.cli.support.source_options import ReadingOptions, opened, reading_options

if TYPE_CHECKING:
    from edgelora.store.adapters.manifest import Version
    from edgelora.store.library import KnownBase
    from edgelora_converters.merge.merge import MergeReport


@click.command(short_help="Merge adapters into a base.")
@click.argument("adapters", metavar="ADAPTER[:WEIGHT]...", nargs=-1, required=True, shell_complete=adapter_names)
@base_path_option("The base to merge into: an installed base, a GGUF file or a Hugging Face folder.", required=True)
@out_option("The file (GGUF base) or folder (Hugging Face base) to write.")
@reading_options
@click.option("--modules", is_flag=True, help="Print the quantization error of every module.")
@json_option
@click.pass_obj
def merge(
    app: App,
    adapters: tuple[str, ...],
    base: str,
    out: Path,
    reading: ReadingOptions,
    modules: bool,
    as_json: bool,
) -> None:
    """Merge adapters into a base and write the result as a standalone model.

    Each ADAPTER is the name of an installed adapter, or the path of a PEFT, MLX or GGUF adapter. The result has the
    base's tensor types, and the quantization error is printed. The base itself does not change.

    \b
    edgelora merge medical-faq --base llama-3.1-8b -o medical.gguf
    edgelora merge medical-faq:0.7 pirate:0.3 --base ./Llama-3.1-8B-Instruct -o ./merged
    edgelora base add medical.gguf
    """
    from edgelora.cli.support.progress import progress_bars
    from edgelora.store.adapters.combine_inputs import installed_version, read_parts, split_part
    from edgelora_converters.merge.merge import merge as merge_parts
    from edgelora_converters.peft.read_options import PLAIN

    weighted = [split_part(text) for text in adapters]
    with progress_bars() as bars:
        library = app.open_library(bars)
        target = library.find_base(base)
        installed = [version for name, _ in weighted if (version := installed_version(library.store, name)) is not None]
        _warn_of_other_bases(installed, target)
        with opened(reading, bars, usual=target.path) as given:
            parts = read_parts(library.store, weighted, target.fingerprint.shape, reading=given or PLAIN)
        tell_treatments(parts)
        progress = None if bars is None else lambda done, total: bars(f"Merging into {target.path.name}", done, total)
        report = merge_parts(parts, target.path, out, progress=progress)
    if as_json:
        emit_json({"out": str(out), **asdict(report)})
        return
    _report(report, out, modules=modules)


def _warn_of_other_bases(versions: Sequence[tuple[str, Version]], base: KnownBase) -> None:
    """Warn, and do not fail: a checkpoint of the same model may have another chat template."""
    for name, version in versions:
        if version.base_fingerprint != base.fingerprint.digest:
            note(f"warning: {name} was added for {version.base_name}, which differs from {base.path} in its vocabulary")
            note("  or chat template. Merge it only into the model it was trained on.")


def _report(report: MergeReport, out: Path, *, modules: bool) -> None:
    from edgelora_models.storage import size_text

    note(f"Wrote {out} ({size_text(report.nbytes)}): {len(report.modules)} modules merged.")
    note(f"Relative quantization error {report.error:.1e}; {report.kept:.1%} of the change is kept.")
    if modules:
        rows = [(m.path, f"{m.error:.1e}", f"{m.noise:.1e}", f"{m.kept:.1%}") for m in report.modules]
        emit_table(("MODULE", "ERROR", "ERROR/CHANGE", "KEPT"), rows, right=frozenset({1, 2, 3}))
    hint(f"Use it: edgelora base add {out}")
