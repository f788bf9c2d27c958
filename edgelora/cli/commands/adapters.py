"""`edgelora ls`, `add`, `show` and `rm`: the adapters installed on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgelora.cli.support.app import App
from edgelora.cli.support.options import adapter_names, base_names, json_option
from edgelora.cli.support.output import emit_fields, emit_json, emit_table, hint, human_age, note
from edgelora.cli.support.source_options import CheckOptions, ReadingOptions, check_options, opened, reading_options

if TYPE_CHECKING:
    from edgelora.store.adapters.conversions import Converted
    from edgelora.store.adapters.manifest import AdapterManifest, Version


@click.command(short_help="List the installed adapters.")
@json_option
@click.pass_obj
def ls(app: App, as_json: bool) -> None:
    """List the installed adapters and the base each was added for."""
    library = app.open_library()
    manifests, quarantine = library.store.list(), library.quarantine()
    locked = {m.latest.digest: entry.why for m in manifests if (entry := quarantine.find(m.latest.digest))}
    if as_json:
        emit_json([summary(m, m.latest) | {"quarantined": locked.get(m.latest.digest)} for m in manifests])
    elif manifests:
        _table(manifests)
        for manifest in manifests:
            if (why := locked.get(manifest.latest.digest)) is not None:
                name = manifest.name
                note(f"{name} is in quarantine: it crashed the engine ({why}). `edgelora release {name}` releases it.")
    else:
        note("No adapter is installed. `edgelora add DIR` installs one.")


@click.command(short_help="Install an adapter you trained.")
@click.argument("source", metavar="DIR|ARCHIVE|GGUF", type=click.Path(path_type=Path))
@click.option("-n", "--name", metavar="NAME", help="The adapter's name.  [default: the folder's name]")
@click.option(
    "--base", metavar="NAME", shell_complete=base_names, help="The base it was trained on.  [default: the chosen base]"
)
@reading_options
@check_options
@json_option
@click.pass_obj
def add(
    app: App,
    source: Path,
    name: str | None,
    base: str | None,
    reading: ReadingOptions,
    refusing: CheckOptions,
    as_json: bool,
) -> None:
    """Install the adapter in DIR, ARCHIVE (zip or tar.gz) or GGUF: check it, convert it and store it.

    DIR is a folder written by PEFT's `save_pretrained` (adapter_config.json and adapter_model.safetensors) or by
    mlx-lm's trainer (adapter_config.json and adapters.safetensors, stored as PEFT). GGUF is an adapter for llama.cpp,
    stored as PEFT too. If the name is already in use, different content becomes its next version; the old version stays
    available as NAME@1.

    \b
    edgelora add ./my-adapter --name medical-faq
    """
    from edgelora.cli.support.progress import progress_bars

    with progress_bars() as bars:
        library = app.open_library(bars)
        record = library.bases.get(base) if base else library.bases.current()
        with opened(reading, bars) as given:
            manifest, version = library.store.add(
                source, name=name, base=record, reading=given, checks=refusing.checks(), progress=bars
            )
    if as_json:
        emit_json(summary(manifest, version))
        return
    note(f"Installed {manifest.name}, version {version.number}, for {record.name} (rank {version.rank}).")
    if version.treatment:
        note(f"How its factors were read: {version.treatment}.")
    tell_warnings(version)
    hint(f'Try it: edgelora run --adapter {manifest.name} "..."')


@click.command(short_help="Show the details of one adapter.")
@click.argument("name", metavar="NAME", shell_complete=adapter_names)
@json_option
@click.pass_obj
def show(app: App, name: str, as_json: bool) -> None:
    """Show the details of the adapter NAME, or of one version of it (NAME@2)."""
    store = app.open_library().store
    manifest, version = store.resolve(name)
    converted = store.conversions(version)
    if as_json:
        emit_json(details(manifest, version, converted))
    else:
        emit_fields(_fields(manifest, version, converted))


@click.command(short_help="Remove adapters.")
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=adapter_names)
@click.pass_obj
def rm(app: App, names: tuple[str, ...]) -> None:
    """Remove the adapter NAME with all its versions, or one version of it (NAME@2)."""
    library = app.open_library()
    store = library.store
    unique = list(dict.fromkeys(names))
    for name in unique:
        store.resolve(name)  # an unknown name raises before anything is removed
    for name in unique:
        removed = library.remove_adapter(name)
        note(f"Removed {name}" + (f" ({len(removed)} versions)." if len(removed) > 1 else "."))


def tell_warnings(version: Version) -> None:
    """Print the warnings about an adapter on stderr."""
    for warning in version.warnings:
        note(f"Warning: {warning.message}")


def warnings_json(version: Version) -> list[dict[str, str]]:
    """Return the warnings about an adapter as JSON values."""
    return [{"code": warning.code, "message": warning.message} for warning in version.warnings]


def summary(manifest: AdapterManifest, version: Version) -> dict[str, Any]:
    """Return an adapter version as JSON values, with sizes in bytes and times in ISO 8601."""
    return {
        "name": manifest.name,
        "version": version.number,
        "digest": version.digest,
        "base": version.base_name,
        "rank": version.rank,
        "bytes": version.nbytes,
        "created": _iso(version.created),
        "warnings": warnings_json(version),
    }


def details(manifest: AdapterManifest, version: Version, converted: Sequence[Converted]) -> dict[str, Any]:
    more = {
        "alpha": version.alpha,
        "rslora": version.use_rslora,
        "scales": list(version.scales),
        "targets": list(version.targets),
        "invocation": list(version.invocation),
        "treatment": version.treatment,
        "parameters": version.parameters,
        "trained_on": version.base_model,
        "origin": version.origin,
        "files": [{"name": file.name, "digest": file.digest, "bytes": file.nbytes} for file in version.files],
        "conversions": [_conversion(conversion) for conversion in converted],
        "versions": [version.number for version in manifest.versions],
        "aliases": dict(manifest.aliases),
    }
    return summary(manifest, version) | more


def _conversion(converted: Converted) -> dict[str, Any]:
    conversion = converted.conversion
    return {
        "format": conversion.format,
        "path": str(converted.path),
        "bytes": conversion.nbytes,
        "memory_bytes": conversion.memory_bytes,
        "worst_error": conversion.worst_error,
    }


def _table(manifests: Sequence[AdapterManifest]) -> None:
    from edgelora_models.storage import size_text

    now = time.time()
    rows = [
        (m.name, str(v.number), v.base_name, str(v.rank), size_text(v.nbytes), human_age(now - v.created))
        for m in manifests
        for v in [m.latest]
    ]
    emit_table(("NAME", "VERSION", "BASE", "RANK", "SIZE", "ADDED"), rows, right=frozenset({1, 3, 4}))


def _fields(manifest: AdapterManifest, version: Version, converted: Sequence[Converted]) -> list[tuple[str, str]]:
    from edgelora_models.storage import size_text

    low, high = version.scales
    others = [str(other.number) for other in manifest.versions if other.number != version.number]
    return [
        ("name", manifest.name),
        ("version", f"{version.number} ({version.digest[:12]})"),
        ("other versions", ", ".join(others) or "none"),
        ("base", version.base_name),
        ("trained on", version.base_model or "unknown"),
        *_origin(version.origin),
        ("rank", str(version.rank)),
        ("alpha", f"{version.alpha}{' (rsLoRA)' if version.use_rslora else ''}"),
        ("scale", f"{low:g}" if low == high else f"{low:g} to {high:g}"),
        ("targets", ", ".join(version.targets)),
        *([("invocation", f"the tokens {list(version.invocation)} (aLoRA)")] if version.invocation else []),
        *([("treatment", version.treatment)] if version.treatment else []),
        *(("warning", warning.message) for warning in version.warnings),
        ("parameters", f"{version.parameters:,}"),
        ("size", size_text(version.nbytes)),
        ("added", f"{_iso(version.created)} ({human_age(time.time() - version.created)})"),
        *((c.conversion.format, f"{size_text(c.conversion.nbytes)}, {c.path}") for c in converted),
    ]


def _origin(origin: str) -> list[tuple[str, str]]:
    kind, _, message = origin.partition(":")
    by_client = {"upload": "uploaded by a client of the server", "loaded": "loaded by a client of the server"}
    if kind == "hub":
        return [("pulled from", message)]
    return [("origin", by_client[kind])] if kind in by_client else []


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
