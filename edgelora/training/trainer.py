"""mlx-lm's LoRA trainer, driven: which layers, which batches, what is told and kept on the way. Owns no file format.

mlx-lm (0.32.2) computes and applies the gradients (`tuner.trainer.train`). Its seams for the loss and the batches are
used for three things it does not do: a loss that ends where the example ends (its own also learns the first zero of the
padding behind it), batches whose order is known from the seed, and work between two iterations: checkpoints with
all that the next iteration depends on, and an end that was asked for.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgelora.core.errors import BackendError
from edgelora.training import checkpoint
from edgelora.training.batching import groups, order, padded
from edgelora.training.recipe import Recipe
from edgelora.training.tokens import Encoded

ADAPTER_CONFIG, ADAPTER_TENSORS = "adapter_config.json", "adapters.safetensors"
_NEVER = 1 << 62


@dataclass(frozen=True, slots=True)
class Measured:
    """A loss, as reported on the way."""

    iteration: int
    """After which it was measured; 0 is before the first."""
    loss: float
    """Mean over tokens, in nats: of the last `report_every` iterations, or of all examples kept for validation."""
    validation: bool
    tokens_per_second: float | None = None
    peak_bytes: int | None = None
    """Most memory MLX has held so far."""


class Stopped(Exception):
    """Training was asked to end, and did, after `iteration`, whose checkpoint is saved."""

    def __init__(self, iteration: int) -> None:
        super().__init__(f"stopped after iteration {iteration}")
        self.iteration = iteration


@dataclass(frozen=True, slots=True)
class TrainerListener:
    """The receiver of a training's progress, on its own thread."""

    measured: Callable[[Measured], None]
    progressed: Callable[[int], None]
    """After each iteration, with its number."""
    stop: Callable[[], bool]
    """Asked after each iteration: whether to end here."""


def prepare(base: Path, recipe: Recipe) -> checkpoint.TrainingState:
    """The MLX base in the folder `base` with new LoRA layers, and their optimizer. The same seed, the same factors."""
    import mlx.core as mx
    import mlx.optimizers as optimizers
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load_model

    model, _ = load_model(base)
    mx.random.seed(recipe.seed)
    model.freeze()
    linear_to_lora_layers(model, _count(model, recipe), _parameters(recipe))
    # mlx-lm leaves the correction off, and then the first steps are three times as long as the learning rate says.
    return checkpoint.TrainingState(model, optimizers.Adam(learning_rate=recipe.learning_rate, bias_correction=True))


def fit(
    live: checkpoint.TrainingState,
    recipe: Recipe,
    *,
    training: Sequence[Encoded],
    validation: Sequence[Encoded],
    saved: Path,
    out: Path,
    done: int,
    watcher: TrainerListener,
) -> None:
    """Train from iteration `done` + 1 on, checkpoints in `saved`, and write the adapter to the folder `out`.

    Raises Stopped, BackendError (training_diverged: a loss or a factor is not finite; the last checkpoint is from
    before), StorageError.
    """
    import mlx.core as mx
    from mlx_lm.tuner.trainer import TrainingArgs, train

    out.mkdir(parents=True, exist_ok=True)
    watcher = _aloud(watcher)
    keeper = _Checkpointer(live, saved, recipe, watcher)
    feed = _BatchFeed(training, validation, recipe, done=done, after=keeper.after)
    callback: Any = _Callback(done, watcher.measured)
    settings = TrainingArgs(
        batch_size=1,  # what mlx-lm makes of it is the number of validation batches it announces
        iters=recipe.iterations - done,
        val_batches=-1,
        steps_per_report=recipe.report_every,
        steps_per_eval=recipe.validate_every,
        steps_per_save=_NEVER,
        max_seq_length=recipe.max_length,
        adapter_file=str(out / ADAPTER_TENSORS),
        grad_checkpoint=recipe.grad_checkpoint,
    )
    if not mx.metal.is_available():
        mx.disable_compile()  # on a CPU it takes a C++ compiler
    with _unchanged(type(live.model.layers[0])), contextlib.redirect_stdout(io.StringIO()):  # its own progress
        if done < recipe.iterations:
            train(
                model=live.model,
                optimizer=live.optimizer,
                train_dataset=training,
                val_dataset=validation,
                args=settings,
                loss=answer_loss,
                iterate_batches=feed,
                training_callback=callback,
            )
            keeper.finish()
    _write_adapter(live, recipe, out)


@contextlib.contextmanager
def _unchanged(layer: Any) -> Iterator[None]:
    """Gradient checkpointing replaces how every layer of that class is called, for good."""
    called = layer.__call__
    try:
        yield
    finally:
        layer.__call__ = called


def answer_loss(model: Any, batch: Any, bounds: Any) -> tuple[Any, Any]:
    """Mean cross-entropy, in float32, of the tokens from `bounds[:, 0]` up to `bounds[:, 1]`, and how many they are.

    `batch`: token ids [examples, width]. The first token of an example has nothing before it, so it is never learnt.
    """
    import mlx.core as mx
    import mlx.nn as nn

    inputs, targets = batch[:, :-1], batch[:, 1:]
    position = mx.arange(1, targets.shape[1] + 1)
    mask = mx.logical_and(position >= bounds[:, 0:1], position < bounds[:, 1:])
    losses = nn.losses.cross_entropy(model(inputs).astype(mx.float32), targets) * mask
    count = mask.sum()
    return losses.sum() / count, count


def _aloud(watcher: TrainerListener) -> TrainerListener:
    """Return the same, with stdout as it is now, whatever it is when mlx-lm's trainer calls."""
    stdout = sys.stdout

    def measured(what: Measured) -> None:
        with contextlib.redirect_stdout(stdout):
            watcher.measured(what)

    def progressed(iteration: int) -> None:
        with contextlib.redirect_stdout(stdout):
            watcher.progressed(iteration)

    return TrainerListener(measured, progressed, watcher.stop)


class _BatchFeed:
    """The batches, for mlx-lm's loops. Its trainer asks for the next one when an iteration is complete."""

    def __init__(
        self,
        training: Sequence[Encoded],
        validation: Sequence[Encoded],
        recipe: Recipe,
        *,
        done: int,
        after: Callable[[int], None],
    ) -> None:
        self._training, self._validation = training, validation
        self._recipe = recipe
        self._done = done
        self._after = after

    def __call__(self, *, loop: bool = False, **_mlx_lm: Any) -> Iterator[Any]:
        return self._train() if loop else self._validate()

    def _train(self) -> Iterator[Any]:
        batches = groups([len(example.tokens) for example in self._training], self._recipe.batch_size)
        for iteration, index in enumerate(order(len(batches), seed=self._recipe.seed, first=self._done), self._done):
            if iteration > self._done:
                self._after(iteration)
            yield self._arrays([self._training[n] for n in batches[index]])

    def _validate(self) -> Iterator[Any]:
        for batch in groups([len(example.tokens) for example in self._validation], self._recipe.batch_size):
            yield self._arrays([self._validation[n] for n in batch])

    def _arrays(self, examples: Sequence[Encoded]) -> tuple[Any, Any]:
        import mlx.core as mx

        tokens, bounds = padded(examples, self._recipe.max_length)
        return mx.array(tokens), mx.array(bounds)


class _Checkpointer:
    """The work after an iteration."""

    def __init__(self, live: checkpoint.TrainingState, saved: Path, recipe: Recipe, watcher: TrainerListener) -> None:
        self._live, self._saved, self._recipe, self._watcher = live, saved, recipe, watcher

    def after(self, iteration: int) -> None:
        self._watcher.progressed(iteration)
        stop = self._watcher.stop()
        if stop or iteration % self._recipe.save_every == 0:
            self._save(iteration)
        if stop:
            raise Stopped(iteration)

    def finish(self) -> None:
        self._watcher.progressed(self._recipe.iterations)
        self._save(self._recipe.iterations)

    def _save(self, iteration: int) -> None:
        import mlx.core as mx

        if not all(mx.isfinite(factor).all().item() for factor in self._live.factors().values()):
            raise _diverged(iteration)
        checkpoint.save(self._saved, self._live, iteration=iteration)


class _Callback:
    """mlx-lm's TrainingCallback; its iterations begin at 1 whenever a training goes on."""

    def __init__(self, done: int, measured: Callable[[Measured], None]) -> None:
        self._done = done
        self._measured = measured

    def on_train_loss_report(self, info: dict[str, Any]) -> None:
        iteration = self._done + info["iteration"]
        if not math.isfinite(info["train_loss"]):
            raise _diverged(iteration)
        peak = round(info["peak_memory"] * 1e9)
        self._measured(Measured(iteration, info["train_loss"], False, info["tokens_per_second"], peak))

    def on_val_loss_report(self, info: dict[str, Any]) -> None:
        self._measured(Measured(self._done + info["iteration"], info["val_loss"], True))


def _diverged(iteration: int) -> BackendError:
    message = f"The training has diverged by iteration {iteration}: its loss or its factors are no finite numbers."
    return BackendError("training_diverged", message, "Train with a lower --learning-rate (--restart).")


def _parameters(recipe: Recipe) -> dict[str, Any]:
    return {"rank": recipe.rank, "scale": recipe.scale, "dropout": recipe.dropout}


def _count(model: Any, recipe: Recipe) -> int:
    return recipe.layers or len(model.layers)


def _write_adapter(live: checkpoint.TrainingState, recipe: Recipe, out: Path) -> None:
    """Both files as `mlx_lm.lora` leaves them."""
    import mlx.core as mx

    mx.save_safetensors(str(out / ADAPTER_TENSORS), live.factors())
    config = {
        "fine_tune_type": "lora",
        "num_layers": _count(live.model, recipe),
        "lora_parameters": _parameters(recipe),
        "seed": recipe.seed,
        "iters": recipe.iterations,
        "learning_rate": recipe.learning_rate,
    }
    (out / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
