"""The options for adapters that take more than their own files: base's weights, the adapter before training."""

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
    from edgelora_converters.peft.read_options import ReadOptions


@dataclass(frozen=True, slots=True)
class ReadingOptions:
    """The options for files beside an adapter."""

    base_weights: Path | None = None
    initial: Path | None = None
    allow_approximate: bool = False


_READING = (
    click.option(
        "--base-weights",
        metavar="PATH",
        type=click.Path(path_type=Path),
        help="The base as it was trained, a Hugging Face folder or a GGUF of 16 or 32 bits: "
        "PiSSA, OLoRA, KaSA and copies of the base need it.",
    ),
    click.option(
        "--initial",
        metavar="DIR",
        type=click.Path(path_type=Path),
        help="The adapter as it was saved before training: CorDA and LoRA-GA need it.",
    ),
    click.option(
        "--allow-approximate", is_flag=True, help="Take what cannot be exact as near as it can be, and say how near."
    ),
)


@contextmanager
def opened(given: ReadingOptions, bars: Progress | None, *, usual: Path | None = None) -> Iterator[ReadOptions | None]:
    """Yield the files that were given, open for the block; None where nothing was. `usual` is the base itself,
    whose weights serve where
    no others were given and they can be read. `bars` shows how far a decomposition of them is."""
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
            with suppress(BaseError):  # packed as MLX packs it: what needs the weights asks for them by name
                weights = stack.enter_context(open_base_weights(usual))
        yield ReadOptions(weights, given.initial, given.allow_approximate, progress=_told(bars))


def _told(bars: Progress | None) -> Callable[[int, int], None] | None:
    return None if bars is None else lambda done, total: bars("Decomposing the base's weights", done, total)


def reading_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Add these options; the verb receives them as one `reading` argument."""
    return gather(verb, ReadingOptions, _READING, "reading")
