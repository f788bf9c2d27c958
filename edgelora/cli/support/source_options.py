"""The options for adapters that need more than their own files: the base's weights, the adapter before training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgelora.cli.support.options import gather
from edgelora.core.errors import BaseError

if TYPE_CHECKING:
    from edgelora.core.progress import Progress
    from edgelora.store.adapters.warning import Checks
    from edgelora_converters.peft.read_options import ReadOptions


@dataclass(frozen=True, slots=True)
class ReadingOptions:
    """The files and permissions given for reading an adapter."""

    base_weights: Path | None = None
    initial: Path | None = None
    allow_approximate: bool = False


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """What is refused of an adapter."""

    force: bool = False
    strict: bool = False

    def checks(self) -> Checks:
        """Return them as the store takes them."""
        from edgelora.store.adapters.warning import Checks

        return Checks(architecture=not self.force, strict=self.strict)


_FORCE = click.option(
    "--force", is_flag=True, help="Accept an adapter that says it was trained on another architecture than Llama's."
)
_CHECKS = (
    _FORCE,
    click.option(
        "--strict",
        is_flag=True,
        help="Refuse an adapter that would get a warning: it changes nothing, or was trained on another model.",
    ),
)
_READING = (
    click.option(
        "--base-weights",
        metavar="PATH",
        type=click.Path(path_type=Path),
        help="The base's original weights: a Hugging Face folder, or a GGUF file with 16 or 32 bits. "
        "PiSSA, OLoRA, KaSA and adapters with copies of base weights need it.",
    ),
    click.option(
        "--initial",
        metavar="DIR",
        type=click.Path(path_type=Path),
        help="The adapter as it was saved before training. CorDA and LoRA-GA need it.",
    ),
    click.option(
        "--allow-approximate", is_flag=True, help="Approximate what cannot be converted exactly, and report the error."
    ),
)


@contextmanager
def opened(given: ReadingOptions, bars: Progress | None, *, usual: Path | None = None) -> Iterator[ReadOptions | None]:
    """Open the given files for the block and yield the options for reading; None if nothing was given.

    `usual` is the base itself, whose weights are used if no others were given and they can be read. `bars` shows the
    progress of a decomposition.
    """
    from edgelora_converters.peft.read_options import ReadOptions
    from edgelora_converters.weights.open import open_base_weights

    if given == ReadingOptions() and usual is None:
        yield None
        return
    with ExitStack() as stack:
        weights = None
        if given.base_weights is not None:
            weights = stack.enter_context(open_base_weights(given.base_weights))
        elif usual is not None:
            with suppress(BaseError):  # an MLX packing: an adapter that needs the weights asks for --base-weights
                weights = stack.enter_context(open_base_weights(usual))
        yield ReadOptions(weights, given.initial, given.allow_approximate, progress=_decomposition_progress(bars))


def _decomposition_progress(bars: Progress | None) -> Callable[[int, int], None] | None:
    return None if bars is None else lambda done, total: bars("Decomposing the base's weights", done, total)


def check_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--force` and `--strict`; the verb receives them as one `refusing` argument."""
    return gather(verb, CheckOptions, _CHECKS, "refusing")


def force_option(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--force` alone."""
    decorated: Callable[..., Any] = _FORCE(verb)
    return decorated


def reading_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Add these options; the verb receives them as one `reading` argument."""
    return gather(verb, ReadingOptions, _READING, "reading")
