"""Options that several verbs share, and shell completion of names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click
from click.shell_completion import CompletionItem

from edgelora.cli.support.app import App
from edgelora.cli.support.overrides import MachineOptions, SamplingOptions
from edgelora.core.config import BackendChoice, KvType, WeightsChoice

if TYPE_CHECKING:
    from edgelora.core.config import Directories
    from edgelora.core.sampling_params import Constraint


Verb = TypeVar("Verb", bound=Callable[..., Any])


def _read_schema(_ctx: click.Context, _parameter: click.Parameter, path: Path | None) -> Constraint | None:
    """Return the constraint of a JSON schema file. Raises UsageError(schema_not_json, unsupported_schema)."""
    if path is None:
        return None
    import json

    from edgelora.core.errors import UsageError
    from edgelora.text.schema_grammar import of_schema

    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        message = f"{path} is not a readable JSON schema: {error}."
        raise UsageError("schema_not_json", message, "Write the schema as JSON, in UTF-8.") from error
    return of_schema(schema, param="--json-schema")


_SAMPLING = (
    click.option("--max-tokens", type=click.IntRange(min=1), metavar="N", help="Stop after N tokens."),
    click.option(
        "--temperature",
        type=click.FloatRange(min=0),
        metavar="T",
        help="0 always takes the likeliest token; higher values are more random.",
    ),
    click.option(
        "--top-p",
        type=click.FloatRange(min=0, max=1, min_open=True),
        metavar="P",
        help="Choose among the likeliest tokens whose probabilities add up to P.",
    ),
    click.option(
        "--top-k", type=click.IntRange(min=0), metavar="K", help="Choose among the K likeliest tokens; 0 keeps all."
    ),
    click.option(
        "--min-p",
        type=click.FloatRange(min=0, max=1),
        metavar="P",
        help="Drop tokens less likely than P times the likeliest one.",
    ),
    click.option(
        "--repeat-penalty",
        type=click.FloatRange(min=0, min_open=True),
        metavar="X",
        help="Values above 1 reduce repetition; 1 is no penalty.",
    ),
    click.option(
        "--seed",
        type=int,
        metavar="N",
        help="The same seed gives the same answer on the same machine, base and version.",
    ),
    click.option("--stop", multiple=True, metavar="TEXT", help="Stop before TEXT. May be given several times."),
    click.option(
        "--json-schema",
        "constraint",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        callback=_read_schema,
        help="Answer with JSON that matches the schema in FILE.",
    ),
)


def sampling_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Add the sampling options; the verb receives them as one `sampling` argument."""
    return gather(verb, SamplingOptions, _SAMPLING, "sampling")


def gather(
    verb: Callable[..., Any], kind: type[Any], options: Sequence[Callable[[Any], Any]], name: str
) -> Callable[..., Any]:
    """Add `options` to `verb`, which receives their values as one `kind` in the argument `name`."""

    @wraps(verb)
    def gathered(*args: Any, **kwargs: Any) -> Any:
        given = {field.name: kwargs.pop(field.name) for field in fields(kind)}
        return verb(*args, **{name: kind(**given)}, **kwargs)

    decorated: Callable[..., Any] = gathered
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


def _remember_json(ctx: click.Context, _parameter: click.Parameter, as_json: bool) -> bool:
    ctx.ensure_object(App).as_json = as_json
    return as_json


def json_option(verb: Verb) -> Verb:
    """Add `--json`, which makes errors JSON too. It is eager, so that this covers errors in the other options."""
    return click.option(
        "--json",
        "as_json",
        is_flag=True,
        is_eager=True,
        callback=_remember_json,
        help="Print JSON. Errors are JSON on stderr.",
    )(verb)


def out_option(where: str, *, required: bool = True) -> Callable[[Verb], Verb]:
    """Add `-o OUT`, a path that must not exist yet. `where` is its help text."""
    path = click.Path(path_type=Path)
    return click.option("-o", "--out", metavar="OUT", type=path, required=required, help=f"{where} Never replaced.")


def base_path_option(purpose: str, *, required: bool = False) -> Callable[[Verb], Verb]:
    """Add `--base`, the name of an installed base or a path."""
    return click.option("--base", metavar="NAME|PATH", required=required, shell_complete=base_names, help=purpose)


def context_option(verb: Verb) -> Verb:
    return click.option(
        "--context",
        type=click.IntRange(min=16),
        metavar="N",
        help="The most tokens of prompt and answer together.  [default: 4096, or the base's maximum]",
    )(verb)


_MACHINE = (
    click.option(
        "--threads",
        type=click.IntRange(min=1),
        metavar="N",
        help="The number of compute threads.  [default: the result of `edgelora tune`, or one per core]",
    ),
    click.option(
        "--weights",
        type=click.Choice(get_args(WeightsChoice)),
        help="Map the base's weights from its file, or repack them, which takes time and memory.  [default: auto]",
    ),
    click.option(
        "--kv-type",
        type=click.Choice(get_args(KvType)),
        help="The type of the KV cache; q8_0 takes half the memory of f16.  [default: f16]",
    ),
    click.option(
        "--backend",
        type=click.Choice(get_args(BackendChoice)),
        help="The backend; auto depends on the base and prefers MLX on Apple Silicon.  [default: auto]",
    ),
)


def machine_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options about the machine; the verb receives them as one `machine` argument."""
    return gather(verb, MachineOptions, _MACHINE, "machine")


def base_option(verb: Verb) -> Verb:
    return click.option(
        "--base", metavar="NAME", shell_complete=base_names, help="Use this base instead of the chosen one."
    )(verb)


def adapter_names(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the installed adapters for shell completion, without installing anything."""

    def names() -> Iterable[str]:
        from edgelora.store.adapters.store import Store

        return Store(_directories(ctx).data).names()

    return _completed(names, incomplete)


def base_names(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the installed bases for shell completion."""

    def names() -> Iterable[str]:
        from edgelora.store.bases.registry import Bases

        return Bases(_directories(ctx)).names()

    return _completed(names, incomplete)


def prefix_names(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the named prefixes for shell completion."""

    def names() -> Iterable[str]:
        from edgelora.store.prefixes.store import PrefixStore

        store = PrefixStore(_directories(ctx).cache / "prefixes", budget_bytes=0)
        return (name for entry in store.entries() if (name := entry.held.stored.name) is not None)

    return _completed(names, incomplete)


def catalogue_names(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the bases that can be pulled, for shell completion."""
    from edgelora_models.catalogue import ENTRIES

    return _completed(lambda: (entry.name for entry in ENTRIES), incomplete)


def _directories(ctx: click.Context) -> Directories:
    return ctx.ensure_object(App).settings().directories


def _completed(names: Callable[[], Iterable[str]], incomplete: str) -> list[CompletionItem]:
    """Return the names that begin with `incomplete`; none on an error, since completion must not fail."""
    from edgelora.core.errors import EdgeloraError

    try:
        return [CompletionItem(name) for name in sorted(names()) if name.startswith(incomplete)]
    except EdgeloraError:
        return []
