"""The way from examples to an installed adapter, begun or continued. Owns no file, no mathematics.

What can be wrong is found in the order of its cost: options and data before the tokenizer, every line before the base
is loaded, all before the first iteration.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgelora.backends.mlx.limits import working_set
from edgelora.core.errors import BackendError, UsageError
from edgelora.core.machine import memory
from edgelora.runtime.opening.memory_check import MemoryNeed, check_fits
from edgelora.store.bases.selection import choose_base
from edgelora.training.examples import Examples, read_examples
from edgelora.training.recipe import Recipe
from edgelora.training.runs import RunFolder, TrainingRun, check_startable, opened, resumable

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgelora.core.progress import Progress
    from edgelora.store.adapters.manifest import AdapterManifest, Version
    from edgelora.store.bases.record import BaseRecord
    from edgelora.store.library import Library
    from edgelora.training.trainer import TrainerListener


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """The plan of a training, reported before it starts."""

    run: TrainingRun
    trained_on: BaseRecord
    """The MLX base; its factors are for every form of the same model."""
    done: int
    """Iterations that are behind it."""
    training: int
    """Examples."""
    validation: int
    cut: int
    """Number of examples longer than the recipe allows, which are learnt up to there."""


@dataclass(frozen=True, slots=True)
class Trained:
    manifest: AdapterManifest
    version: Version
    base: BaseRecord


@dataclass(frozen=True, slots=True)
class TrainingListener:
    """The receiver of a training's progress."""

    planned: Callable[[TrainingPlan], None]
    watcher: TrainerListener
    progress: Progress | None = None


def begin(
    library: Library,
    name: str,
    *,
    data: Path,
    base: str | None,
    recipe: Recipe,
    restart: bool,
    follower: TrainingListener,
) -> Trained:
    """Train an adapter `name` on the examples in `data`, and install it as its next version.

    Raises UsageError (bad_training_data, training_unfinished unless `restart`, train_layers, train_options,
    backend_base), Busy, BaseError, BackendError (mlx_missing, training_diverged), StorageError; `Stopped` where it was
    asked to end.
    """
    check_mlx()
    _check_recipe(recipe)
    library.store.check_name(name)
    with opened(library.settings.directories.data, name) as folder:
        if not restart:
            check_startable(folder)
        examples = read_examples(data, share=recipe.validation, seed=recipe.seed)
        record = (library.bases.get(base) if base else library.bases.current()).check()
        on = choose_base(library.bases, record.name, "mlx", progress=follower.progress)
        run = TrainingRun(
            name=name,
            base=record.name,
            weights=on.weights_key,
            data=str(data.expanduser().absolute()),
            data_digest=examples.digest,
            recipe=recipe,
        )
        return _train(library, folder, run, on, examples, follower, fresh=True)


def resume(library: Library, name: str, *, iterations: int | None, follower: TrainingListener) -> Trained:
    """Go on with the training of `name` from its last checkpoint, exactly as if it had not stopped, up to as many
    `iterations` in all (None: as many as it was begun with).

    Raises NotFound (training_not_found), UsageError (training_data_changed, training_base_changed, training_done), and
    what `begin` does.
    """
    check_mlx()
    with opened(library.settings.directories.data, name) as folder:
        run = resumable(folder, name)
        if iterations is not None:
            run = msgspec.structs.replace(run, recipe=msgspec.structs.replace(run.recipe, iterations=iterations))
        if folder.reached() >= run.recipe.iterations:
            message = f"The training of {name} has {folder.reached()} iterations behind it."
            raise UsageError("training_done", message, "Give a larger number in all: --iterations.", param="iterations")
        examples = read_examples(Path(run.data), share=run.recipe.validation, seed=run.recipe.seed)
        if examples.digest != run.data_digest:
            message = f"{run.data} has changed since the training of {name} began."
            raise UsageError("training_data_changed", message, "Put it back, or begin anew (--restart).", param="data")
        on = choose_base(library.bases, run.base, "mlx", progress=follower.progress)
        if on.weights_key != run.weights:
            message = f"The base {on.name} is not the file that the training of {name} began on."
            raise UsageError("training_base_changed", message, "Begin anew: --restart.", param="base")
        return _train(library, folder, run, on, examples, follower, fresh=False)


def check_mlx() -> None:
    """Raise BackendError(mlx_missing) where MLX is not installed."""
    if find_spec("mlx") is None or find_spec("mlx_lm") is None:
        message = "Training needs mlx and mlx-lm, which are not installed."
        raise BackendError("mlx_missing", message, "Install them: pip install 'edgelora[mlx]'")


def _check_recipe(recipe: Recipe) -> None:
    if recipe.grad_checkpoint and recipe.dropout:
        message = (
            "Activations that are computed twice meet another dropout the second time: the gradients would be wrong."
        )
        raise UsageError("train_options", message, "Give --grad-checkpoint or --dropout, not both.", param="dropout")


def _train(
    library: Library,
    folder: RunFolder,
    run: TrainingRun,
    on: BaseRecord,
    examples: Examples,
    follower: TrainingListener,
    *,
    fresh: bool,
) -> Trained:
    from edgelora.training import checkpoint, trainer
    from edgelora.training.tokens import encode_all

    recipe = _limited(run.recipe, on)
    if library.settings.memory_check == "on":
        check_fits(on.name, MemoryNeed(mapped=0, held=on.nbytes, kv=0), memory(), working_set=working_set())
    tokenizer = _tokenizer(on)
    learn = recipe.learn_prompts
    training, cut = encode_all(examples.training, tokenizer, learn_prompts=learn, max_length=recipe.max_length)
    validation, more = encode_all(examples.validation, tokenizer, learn_prompts=learn, max_length=recipe.max_length)
    if fresh:
        folder.begin(run)
    else:
        folder.write(run)
    done = folder.reached()
    follower.planned(TrainingPlan(run, on, done, len(training), len(validation), cut + more))
    live = trainer.prepare(on.path, recipe)
    if done:
        checkpoint.restore(folder.checkpoint, live)
    trainer.fit(
        live,
        recipe,
        training=training,
        validation=validation,
        saved=folder.checkpoint,
        out=folder.adapter,
        done=done,
        watcher=follower.watcher,
    )
    record = library.bases.get(run.base)
    manifest, version = library.store.add(folder.adapter, name=run.name, base=record, progress=follower.progress)
    return Trained(manifest, version, record)


def _limited(recipe: Recipe, on: BaseRecord) -> Recipe:
    """With no more tokens an example than the base was made for. Raises UsageError for layers it does not have."""
    layers = on.identity.fingerprint.shape.layers
    if recipe.layers > layers:
        message = f"{recipe.layers} layers were asked for; {on.name} has {layers}."
        raise UsageError("train_layers", message, "Give fewer, or none for all of them: --layers.", param="layers")
    return msgspec.structs.replace(recipe, max_length=min(recipe.max_length, on.context_length))


def _tokenizer(on: BaseRecord) -> Any:
    import logging

    from mlx_lm import utils

    # It looks at config.json too, and remarks on what a tokenizer does not need.
    logging.getLogger("transformers").setLevel(logging.ERROR)
    load: Any = utils.load_tokenizer
    return load(on.path)
