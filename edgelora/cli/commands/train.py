"""`edgelora train`: train an adapter on examples, print its progress, and handle Ctrl-C."""

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
    """The training options given on the command line; None leaves the recipe's default."""

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
    _option("--alpha", click.FloatRange(min=0, min_open=True), "X", "The adapter's scale is X / rank.  [default: 32]"),
    _option("--layers", click.IntRange(min=0), "N", "Adapt the last N layers; 0 adapts all.  [default: 0]"),
    _option("--learning-rate", click.FloatRange(min=0, min_open=True), "X", "Adam's learning rate.  [default: 0.0002]"),
    _option("--iterations", _COUNT, "N", "The total number of iterations.  [default: 1000]"),
    _option("--batch-size", _COUNT, "N", "The number of examples in an iteration.  [default: 4]"),
    _option("--dropout", click.FloatRange(0, 1, max_open=True), "P", "The dropout before the adapter.  [default: 0]"),
    _option("--max-length", click.IntRange(min=2), "N", "Cut examples after N tokens.  [default: 2048]"),
    _option("--seed", click.INT, "N", "The same seed on the same machine gives the same adapter.  [default: 0]"),
    _option(
        "--validation",
        click.FloatRange(0, 1, max_open=True),
        "SHARE",
        "The share of examples for validation if there is no valid.jsonl; 0 for none.  [default: 0.1]",
    ),
    click.option(
        "--learn-prompts", is_flag=True, default=None, help="Learn whole conversations, not only the last answer."
    ),
    click.option("--grad-checkpoint", is_flag=True, default=None, help="Use less memory and more time."),
    _option("--report-every", _COUNT, "N", "Print the loss every N iterations.  [default: 10]"),
    _option("--validate-every", _COUNT, "N", "Measure the validation loss every N iterations.  [default: 100]"),
    _option("--save-every", _COUNT, "N", "Save a checkpoint every N iterations.  [default: 100]"),
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
@click.option("--resume", is_flag=True, help="Continue from the last checkpoint, exactly as if it had not stopped.")
@click.option("--restart", is_flag=True, help="Start over, even if a training of NAME is unfinished.")
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
    """Train the adapter NAME on the examples in PATH with mlx-lm's LoRA trainer, and install it.

    Each line of PATH is {"messages": [...]}, {"prompt": ..., "completion": ...} or {"text": ...}. Training uses an MLX
    base, or the MLX form of the chosen base; the adapter runs on every form of that model. Ctrl-C stops after the
    current iteration and saves a checkpoint for --resume; a second Ctrl-C stops at once.

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
            hint(f"Continue: edgelora train {name} --resume")
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
            raise UsageError(
                "no_training_data", "There is no training data.", "Give it with --data PATH.", param="data"
            )
        return
    odd = [*(["--data"] if data else []), *(["--base"] if base else []), *(["--restart"] if restart else [])]
    odd += [f"--{given.replace('_', '-')}" for given in options.given() if given != "iterations"]
    if odd:
        message = f"{odd[0]} cannot be given with --resume, which continues with the original options."
        raise UsageError("resume_options", message, "Leave it out, or start over with --restart.")


@contextmanager
def ending() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether Ctrl-C was pressed. A second Ctrl-C raises KeyboardInterrupt.

    Signals arrive in the main thread only; in other threads the function always returns False.
    """
    requested = threading.Event()

    def on_interrupt(_signal: int, _frame: object) -> None:
        if requested.is_set():
            raise KeyboardInterrupt
        requested.set()
        note("Stopping after this iteration. Press Ctrl-C again to stop at once and keep the last checkpoint.")

    if threading.current_thread() is not threading.main_thread():
        yield requested.is_set
        return
    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield requested.is_set
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass(slots=True)
class TrainingPrinter:
    """Prints the progress of a training to stderr, line by line, and records the losses."""

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
            note(f"Continuing after iteration {plan.done}.")
        if plan.cut:
            note(f"{plan.cut} examples are longer than {recipe.max_length} tokens and were cut (--max-length).")

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
            note(f"MLX used at most {size_text(max(peaks))} of memory.")
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
