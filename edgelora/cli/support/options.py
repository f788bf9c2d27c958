"""Options that several verbs share, and the completion of names. Owns no verb."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from edgelora.cli.support.app import App
from edgelora.cli.support.overrides import MachineOptions, SamplingOptions

if TYPE_CHECKING:
    from edgelora.core.config import Directories
    from edgelora.core.sampling_params import Constraint


Verb = TypeVar("Verb", bound=Callable[..., Any])


def _read_schema(_ctx: click.Context, _parameter: click.Parameter, path: Path | None) -> Constraint | None:
    """Raises UsageError: code schema_not_json, unsupported_schema."""
    if path is None:
        return None
    import json

    from edgelora.core.errors import UsageError
    from edgelora.text.schema_grammar import of_schema

    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        message = f"{path} is no file with a JSON schema: {error}."
        raise UsageError("schema_not_json", message, "Write the schema as JSON, in UTF-8.") from error
    return of_schema(schema, param="--json-schema")


_SAMPLING = (
    click.option("--max-tokens", type=click.IntRange(min=1), metavar="N", help="Stop after N tokens."),
    click.option(
        "--temperature",
        type=click.FloatRange(min=0),
        metavar="T",
        help="0 always takes the likeliest token; 1 is lively.",
    ),
    click.option(
        "--top-p",
        type=click.FloatRange(min=0, max=1, min_open=True),
        metavar="P",
        help="Choose among the likeliest tokens that make up P.",
    ),
    click.option(
        "--top-k", type=click.IntRange(min=0), metavar="K", help="Choose among the K likeliest tokens; 0: all."
    ),
    click.option(
        "--min-p",
        type=click.FloatRange(min=0, max=1),
        metavar="P",
        help="Leave out tokens less likely than P times the likeliest.",
    ),
    click.option(
        "--repeat-penalty",
        type=click.FloatRange(min=0, min_open=True),
        metavar="X",
        help="Above 1: repeat less. 1: no penalty.",
    ),
    click.option("--seed", type=int, metavar="N", help="The same seed gives the same answer."),
    click.option("--stop", multiple=True, metavar="TEXT", help="Stop before TEXT. May be given several times."),
    click.option(
        "--json-schema",
        "constraint",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        callback=_read_schema,
        help="Answer with JSON that the schema in FILE describes.",
    ),
)


def sampling_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Add the sampling options; the verb receives them as one `sampling` argument."""
    return gather(verb, SamplingOptions, _SAMPLING, "sampling")


def gather(
    verb: Callable[..., Any], kind: type[Any], options: Sequence[Callable[[Any], Any]], name: str
) -> Callable[..., Any]:
    """`verb` with `options`, whose values it receives as one `kind` in the argument `name`."""

    @wraps(verb)
    def gathered(*args: Any, **kwargs: Any) -> Any:
        given = {field.name: kwargs.pop(field.name) for field in fields(kind)}
        return verb(*args, **{name: kind(**given)}, **kwargs)

    decorated: Callable[..., Any] = gathered
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


def _remember_json(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> bool:
    ctx.ensure_object(App).as_json = wanted
    return wanted


def json_option(verb: Verb) -> Verb:
    """Add `--json`; errors of that run are JSON too. Eager, so that errors in the other options already are."""
    return click.option(
        "--json",
        "as_json",
        is_flag=True,
        is_eager=True,
        callback=_remember_json,
        help="Print JSON, for programs. Errors are JSON on stderr.",
    )(verb)


def out_option(where: str, *, required: bool = True) -> Callable[[Verb], Verb]:
    """Add `-o OUT`, a path that nothing is at yet. `where`: what it becomes, for the help."""
    path = click.Path(path_type=Path)
    return click.option("-o", "--out", metavar="OUT", type=path, required=required, help=f"{where} Never replaced.")


def base_path_option(purpose: str, *, required: bool = False) -> Callable[[Verb], Verb]:
    """Add `--base`, an installed base's name or a path."""
    return click.option("--base", metavar="NAME|PATH", required=required, shell_complete=base_names, help=purpose)


def context_option(verb: Verb) -> Verb:
    return click.option(
        "--context",
        type=click.IntRange(min=16),
        metavar="N",
        help="Tokens of prompt and answer together at most.  [default: 4096, or what the base can]",
    )(verb)


_MACHINE = (
    click.option(
        "--threads",
        type=click.IntRange(min=1),
        metavar="N",
        help="Compute threads.  [default: what `edgelora tune` measured, or one per core]",
    ),
    click.option(
        "--weights",
        type=click.Choice(["auto", "mapped", "repacked"]),
        help="Compute with the base as it stands in its file, or in a layout that takes time and memory to make.",
    ),
    click.option(
        "--kv-type",
        type=click.Choice(["f16", "f32", "q8_0", "q4_0"]),
        help="What to keep the context in: q8_0 takes half the memory of f16.  [default: f16]",
    ),
    click.option(
        "--backend",
        type=click.Choice(["auto", "mlx", "llama.cpp"]),
        help="What computes: auto goes by the base, and prefers MLX on Apple Silicon.  [default: auto]",
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
    """Installed adapters for the shell's completion. Only looks: installs nothing."""

    def names() -> Iterable[str]:
        from edgelora.store.adapters.store import Store

        return Store(_directories(ctx).data).names()

    return _completed(names, incomplete)


def base_names(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Installed bases for the shell's completion."""

    def names() -> Iterable[str]:
        from edgelora.store.bases.registry import Bases

        return Bases(_directories(ctx)).names()

    return _completed(names, incomplete)


def prefix_names(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Named prefixes for the shell's completion."""

    def names() -> Iterable[str]:
        from edgelora.store.prefixes.store import PrefixStore

        store = PrefixStore(_directories(ctx).cache / "prefixes", budget_bytes=0)
        return (name for entry in store.entries() if (name := entry.held.stored.name) is not None)

    return _completed(names, incomplete)


def catalogue_names(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Bases that can be pulled, for the shell's completion."""
    from edgelora_models.catalogue import ENTRIES

    return _completed(lambda: (entry.name for entry in ENTRIES), incomplete)


def _directories(ctx: click.Context) -> Directories:
    return ctx.ensure_object(App).settings().directories


def _completed(names: Callable[[], Iterable[str]], incomplete: str) -> list[CompletionItem]:
    """Return the names that begin so; none where they cannot be read, because a shell is no place for an error."""
    from edgelora.core.errors import EdgeloraError

    try:
        return [CompletionItem(name) for name in sorted(names()) if name.startswith(incomplete)]
    except EdgeloraError:
        return []
