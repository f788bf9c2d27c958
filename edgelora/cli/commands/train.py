"""`edgelora train`: an adapter from examples, on this machine. What is told on the way, and what Ctrl-C means."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgelora.cli.support.app import App
from edgelora.cli.support.options import base_option, gather, json_option
from edgelora.cli.support.output import emit_json, hint, note

if TYPE_CHECKING:
    from edgelora.core.progress import Progress
    from edgelora.training.pipeline import Trained, TrainingListener, TrainingPlan
    from edgelora.training.recipe import Recipe
    from edgelora.training.trainer import Measured


@dataclass(frozen=True, slots=True)
class RecipeOptions:
    """The options of the training; None is the recipe's own value."""

    rank: int | None
    alpha: float | None
    layers: int | None
    learning_rate: float | None
    iterations: int | None
    batch_size: int | None
    dropout: float | None
    max_length: int | None
    seed: int | None
    validation: float | None
    learn_prompts: bool | None
    grad_checkpoint: bool | None
    report_every: int | None
    validate_every: int | None
    save_every: int | None

    def given(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}


_COUNT = click.IntRange(min=1)


def _option(name: str, kind: click.ParamType[Any], metavar: str, text: str) -> Callable[[Any], Any]:
    return click.option(name, type=kind, metavar=metavar, help=text)


_RECIPE = (
    _option("--rank", _COUNT, "N", "The adapter's rank.  [default: 16]"),
    _option("--alpha", click.FloatRange(min=0, min_open=True), "X", "Its scale is X / rank.  [default: 32]"),
    _option("--layers", click.IntRange(min=0), "N", "Adapt the last N layers.  [default: 0, which is all]"),
    _option("--learning-rate", click.FloatRange(min=0, min_open=True), "X", "Adam's.  [default: 0.0002]"),
    _option("--iterations", _COUNT, "N", "How many in all.  [default: 1000]"),
    _option("--batch-size", _COUNT, "N", "Examples an iteration.  [default: 4]"),
    _option("--dropout", click.FloatRange(0, 1, max_open=True), "P", "Of what goes into the adapter.  [default: 0]"),
    _option("--max-length", click.IntRange(min=2), "N", "Tokens of an example; the rest is cut.  [default: 2048]"),
    _option("--seed", click.INT, "N", "The same seed on the same machine gives the same adapter.  [default: 0]"),
    _option(
        "--validation",
        click.FloatRange(0, 1, max_open=True),
        "SHARE",
        "Of the examples, where there is no valid.jsonl; 0: none.  [default: 0.1]",
    ),
    click.option("--learn-prompts", is_flag=True, default=None, help="Learn whole conversations, not the last answer."),
    click.option("--grad-checkpoint", is_flag=True, default=None, help="Less memory for more time."),
    _option("--report-every", _COUNT, "N", "Tell the loss every N iterations.  [default: 10]"),
    _option("--validate-every", _COUNT, "N", "Measure the validation loss every N.  [default: 100]"),
    _option("--save-every", _COUNT, "N", "Keep a checkpoint every N.  [default: 100]"),
)


def _recipe_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    return gather(verb, RecipeOptions, _RECIPE, "options")


@click.command(short_help="Train an adapter on examples.")
@click.argument("name", metavar="NAME")
@click.option(
    "--data", metavar="PATH", type=click.Path(path_type=Path), help="A JSONL file, or a folder with train.jsonl."
)
@base_option
@_recipe_options
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint, exactly.")
@click.option("--restart", is_flag=True, help="Begin anew though a training of NAME is unfinished.")
@json_option
@click.pass_obj
def train(
    app: App,
    name: str,
    data: Path | None,
    base: str | None,
    options: RecipeOptions,
    resume: bool,
    restart: bool,
    as_json: bool,
) -> None:
    """Train the adapter NAME on the examples in PATH, with mlx-lm's LoRA trainer, and install it.

    A line of PATH is {"messages": [...]}, {"prompt": ..., "completion": ...} or {"text": ...}. It trains on an MLX
    base, or the MLX form of the chosen one; the adapter is for every form of that model. Ctrl-C ends it after the
    iteration it is in and keeps all that is needed to go on; once more ends it at once.

    \b
    edgelora train support --data ./examples.jsonl
    edgelora train support --resume
    """
    from edgelora.cli.support.progress import progress_bars
    from edgelora.training.pipeline import TrainingListener
    from edgelora.training.trainer import Stopped, TrainerListener

    _check_options(data, base, options, resume=resume, restart=restart)
    printer = TrainingPrinter(name)
    with progress_bars() as bars, ending() as stop:
        follower = TrainingListener(
            printer.planned, TrainerListener(printer.measured, printer.progress(bars), stop), bars
        )
        try:
            trained = _train(app, name, data, base, options, follower, resume=resume, restart=restart)
        except Stopped as stopped:
            note(f"Stopped after iteration {stopped.iteration} of {printer.iterations}; nothing was installed.")
            hint(f"Go on: edgelora train {name} --resume")
            raise KeyboardInterrupt from None
    if as_json:
        emit_json(printer.as_json(trained))
    else:
        printer.done(trained)


def _train(
    app: App,
    name: str,
    data: Path | None,
    base: str | None,
    options: RecipeOptions,
    follower: TrainingListener,
    *,
    resume: bool,
    restart: bool,
) -> Trained:
    from edgelora.training import pipeline

    library = app.open_library(follower.progress)
    if resume or data is None:
        return pipeline.resume(library, name, iterations=options.iterations, follower=follower)
    recipe = _recipe(options)
    return pipeline.begin(library, name, data=data, base=base, recipe=recipe, restart=restart, follower=follower)


def _recipe(options: RecipeOptions) -> Recipe:
    from edgelora.training.recipe import Recipe

    return Recipe(**options.given())


def _check_options(data: Path | None, base: str | None, options: RecipeOptions, *, resume: bool, restart: bool) -> None:
    from edgelora.core.errors import UsageError

    if not resume:
        if data is None:
            raise UsageError("no_training_data", "There is nothing to train on.", "Give it: --data PATH.", param="data")
        return
    odd = [*(["--data"] if data else []), *(["--base"] if base else []), *(["--restart"] if restart else [])]
    odd += [f"--{given.replace('_', '-')}" for given in options.given() if given != "iterations"]
    if odd:
        message = f"{odd[0]} cannot be given with --resume, which goes on with what the training was begun with."
        raise UsageError("resume_options", message, "Leave it out, or begin anew (--restart).")


@contextmanager
def ending() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C has been pressed; a second one interrupts as ever. Only a main thread hears of it."""
    interrupted = threading.Event()

    def heard(_signal: int, _frame: object) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()
        note("Stopping after this iteration. Ctrl-C again stops at once, and what was saved last is kept.")

    if threading.current_thread() is not threading.main_thread():
        yield interrupted.is_set
        return
    before = signal.signal(signal.SIGINT, heard)
    try:
        yield interrupted.is_set
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass(slots=True)
class TrainingPrinter:
    """Tells how a training goes, line by line on stderr, and remembers the losses."""

    name: str
    iterations: int = 0
    losses: list[Measured] = field(default_factory=list)

    def planned(self, plan: TrainingPlan) -> None:
        recipe, on = plan.run.recipe, plan.trained_on
        self.iterations = recipe.iterations
        layers = f"the last {recipe.layers} layers" if recipe.layers else "all layers"
        examples = f"{plan.training} example{'' if plan.training == 1 else 's'}"
        kept = f"{plan.validation} for validation" if plan.validation else "none for validation"
        note(f"Training {self.name} on {on.name} ({on.quantization}): {examples}, {kept}.")
        note(f"Rank {recipe.rank}, alpha {recipe.alpha:g}, {layers}; {recipe.iterations} iterations.")
        if plan.done:
            note(f"Going on after iteration {plan.done}.")
        if plan.cut:
            note(f"{plan.cut} examples are longer than {recipe.max_length} tokens and cut there (--max-length).")

    def measured(self, measured: Measured) -> None:
        self.losses.append(measured)
        if measured.validation:
            note(f"iteration {measured.iteration:>6}  validation loss {measured.loss:.3f}")
            return
        speed = f"{measured.tokens_per_second:.0f} tokens/s" if measured.tokens_per_second is not None else ""
        note(f"iteration {measured.iteration:>6}  loss {measured.loss:.3f}  {speed}")

    def progress(self, bars: Progress | None) -> Callable[[int], None]:
        if bars is None:
            return lambda _iteration: None
        return lambda iteration: bars(f"Training {self.name}", iteration, self.iterations)

    def done(self, trained: Trained) -> None:
        from edgelora_models.storage import size_text

        peaks = [measured.peak_bytes for measured in self.losses if measured.peak_bytes is not None]
        if peaks:
            note(f"MLX held {size_text(max(peaks))} at most.")
        version = trained.version
        note(f"Installed {trained.manifest.name}, version {version.number}, for {trained.base.name}.")
        hint(f'Try it: edgelora run --adapter {trained.manifest.name} "..."')

    def as_json(self, trained: Trained) -> dict[str, Any]:
        from edgelora.cli.commands.adapters import summary

        return summary(trained.manifest, trained.version) | {
            "iterations": self.iterations,
            "losses": [{"iteration": m.iteration, "loss": m.loss} for m in self.losses if not m.validation],
            "validation_losses": [{"iteration": m.iteration, "loss": m.loss} for m in self.losses if m.validation],
            "peak_bytes": max((m.peak_bytes or 0 for m in self.losses), default=0),
        }
