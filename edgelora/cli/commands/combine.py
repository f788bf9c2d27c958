"""`edgelora combine`: make one adapter of several, by weight."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgelora.cli.support.app import App
from edgelora.cli.support.options import adapter_names, base_path_option, json_option, out_option
from edgelora.cli.support.output import emit_json, emit_table, hint, note, tell_treatments
from edgelora.cli.support.source_options import ReadingOptions, opened, reading_options
from edgelora.core.errors import UsageError

if TYPE_CHECKING:
    from edgelora.core.progress import Progress
    from edgelora.store.library import KnownBase, Library
    from edgelora_converters.lora.combine import Combination


@click.command(short_help="Combine adapters into one.")
@click.argument("adapters", metavar="ADAPTER[:WEIGHT]...", nargs=-1, required=True, shell_complete=adapter_names)
@click.option("-n", "--name", metavar="NAME", help="Install the result under this name.")
@out_option("Write the result to this folder, in PEFT's format.", required=False)
@click.option(
    "--rank",
    type=click.IntRange(min=1),
    metavar="R",
    help="Approximate the result with rank R and print the error.  [default: exact, the sum of the ranks]",
)
@base_path_option("The base of the adapters.  [default: the base the first one was added for]")
@reading_options
@click.option("--modules", is_flag=True, help="Print the error of every module.")
@json_option
@click.pass_obj
def combine(
    app: App,
    adapters: tuple[str, ...],
    name: str | None,
    out: Path | None,
    rank: int | None,
    base: str | None,
    reading: ReadingOptions,
    modules: bool,
    as_json: bool,
) -> None:
    """Combine several adapters into one: the sum of their deltas, each multiplied by its WEIGHT (default 1).

    Each ADAPTER is the name of an installed adapter, or the path of a PEFT, MLX or GGUF adapter. The result acts as
    all of them do at once, and can be used like any single adapter: in PEFT, mlx-lm and llama.cpp.

    \b
    edgelora combine medical-faq:0.7 pirate:0.3 --name doctor-pirate
    edgelora combine medical-faq:0.7 pirate:0.3 --rank 16 -o ./doctor-pirate
    """
    from edgelora.cli.support.progress import progress_bars
    from edgelora.store.adapters.combine_inputs import read_parts, split_part
    from edgelora_converters.lora.combine import combine as combine_parts
    from edgelora_converters.peft.read_options import PLAIN

    if (name is None) == (out is None):
        raise UsageError("combine_where", "Give one of --name and -o.", "--name installs the result, -o writes it.")
    weighted = [split_part(text) for text in adapters]
    with progress_bars() as bars:
        library = app.open_library(bars)
        if name is not None:
            library.store.check_name(name)
        target = _base(library, [spec for spec, _ in weighted], base)
        with opened(reading, bars, usual=target.path) as given:
            parts = read_parts(library.store, weighted, target.fingerprint.shape, reading=given or PLAIN)
        tell_treatments(parts)
        combination = combine_parts(parts, rank=rank)
        kept = _keep(library, combination, target, name=name, out=out, progress=bars)
    if as_json:
        adapter = combination.adapter
        figures = {"rank": adapter.max_rank, "modules": len(adapter.pairs), "error": combination.error}
        emit_json(kept | figures | {"losses": [asdict(loss) for loss in combination.losses]})
        return
    _report(combination, kept, modules=modules)


def _base(library: Library, specs: list[str], base: str | None) -> KnownBase:
    """Return the base of the adapters. Raises AdapterIncompatible if they are for different bases."""
    from edgelora.store.adapters.combine_inputs import check_one_base, installed_version

    installed = [version for spec in specs if (version := installed_version(library.store, spec)) is not None]
    check_one_base(installed)
    return library.find_base(installed[0][1].base_name if base is None and installed else base)


def _keep(
    library: Library,
    combination: Combination,
    base: KnownBase,
    *,
    name: str | None,
    out: Path | None,
    progress: Progress | None,
) -> dict[str, Any]:
    """Write or install the result. Returns where it is, as JSON values."""
    from edgelora_converters.convert.convert import write_verified

    if out is not None:
        write_verified(combination.adapter, out, to="peft", base=base.fingerprint)
        return {"out": str(out)}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "combined"
        write_verified(combination.adapter, source, to="peft", base=base.fingerprint)
        manifest, version = library.store.add(source, name=name, base=base.installed(), progress=progress)
    return {"name": manifest.name, "version": version.number, "digest": version.digest}


def _report(combination: Combination, kept: dict[str, Any], *, modules: bool) -> None:
    adapter = combination.adapter
    message = f"Installed {kept['name']}, version {kept['version']}" if "name" in kept else f"Wrote {kept['out']}"
    exact = "exact" if not combination.losses else f"relative error {combination.error:.1e}"
    note(f"{message}: {len(adapter.pairs)} modules, rank {adapter.max_rank}, {exact}.")
    if modules and combination.losses:
        rows = [(loss.path, str(loss.rank), f"{loss.error:.1e}") for loss in combination.losses]
        emit_table(("MODULE", "RANK", "ERROR"), rows, right=frozenset({1, 2}))
    if "name" in kept:
        hint(f'Try it: edgelora run --adapter {kept["name"]} "..."')
    else:
        hint(f"Install it: edgelora add {kept['out']}")
