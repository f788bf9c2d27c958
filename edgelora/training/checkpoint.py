"""A training's state between two iterations, in one file: factors, Adam's moments, MLX's random state. Owns that file.

mlx-lm's own checkpoints hold the factors alone; a training that goes on from them is another one. From these it goes on
as if it had never stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from edgelora.core.errors import AdapterError, StorageError
from edgelora_models.storage import discard, make_folder, move, storing, sync_path, temp_path

_FACTORS, _OPTIMIZER, _RANDOM = "factors.", "optimizer.", "random"
_ITERATION = "iteration"


@dataclass(frozen=True, slots=True)
class TrainingState:
    """The state that a checkpoint is taken from and put back into."""

    model: Any
    """The base with LoRA layers, all else frozen (mlx.nn.Module)."""
    optimizer: Any

    def factors(self) -> dict[str, Any]:
        """By name, `model.layers.0.self_attn.q_proj.lora_a` and so on (mlx.core.array)."""
        return _flat(self.model.trainable_parameters())


def save(path: Path, live: TrainingState, *, iteration: int) -> None:
    """Replace `path` by the state after `iteration`, in one rename. Raises StorageError."""
    import mlx.core as mx

    arrays = {f"{_FACTORS}{name}": array for name, array in live.factors().items()}
    arrays |= {f"{_OPTIMIZER}{name}": array for name, array in _flat(live.optimizer.state).items()}
    arrays[_RANDOM] = mx.array(_random_key())
    temp = temp_path(make_folder(path.parent)).with_suffix(path.suffix)
    try:
        with storing(path):
            mx.save_safetensors(str(temp), arrays, metadata={_ITERATION: str(iteration)})
            sync_path(temp)
            move(temp, path)
    except RuntimeError as error:  # MLX's word for a disk that does not take it
        raise StorageError("io_error", f"{path} could not be written: {error}.", "Free some space.") from error
    finally:
        discard(temp)


def restore(path: Path, live: TrainingState) -> int:
    """Put the state in `path` back and return its iteration. Raises StorageError where the file is damaged."""
    import mlx.core as mx
    from mlx.utils import tree_unflatten

    try:
        loaded: Any = mx.load(str(path), return_metadata=True)
        arrays, metadata = loaded
        iteration, (high, low) = int(metadata[_ITERATION]), arrays[_RANDOM].tolist()
    except (RuntimeError, ValueError, KeyError) as error:
        raise damaged(path) from error
    factors = _below(_FACTORS, arrays)
    shapes = {name: array.shape for name, array in live.factors().items()}
    if {name: array.shape for name, array in factors.items()} != shapes:
        raise damaged(path)
    live.model.load_weights(list(factors.items()), strict=False)
    live.optimizer.state = tree_unflatten(list(_below(_OPTIMIZER, arrays).items()))
    mx.random.seed(high << 32 | low)  # whose two halves are the key it begins with
    mx.eval(live.model.trainable_parameters(), live.optimizer.state)
    return iteration


def saved_iteration(path: Path) -> int:
    """After which iteration `path` was saved; 0 where there is none. Reads its header. Raises StorageError."""
    from edgelora_converters.tensors.safetensors_reader import open_safetensors

    if not path.exists():
        return 0
    try:
        with open_safetensors(path) as file:
            return int(file.metadata[_ITERATION])
    except (AdapterError, KeyError, ValueError) as error:
        raise damaged(path) from error


def damaged(path: Path) -> StorageError:
    return StorageError("training_damaged", f"The checkpoint {path} is damaged.", "Train anew: --restart.")


def _flat(tree: Any) -> dict[str, Any]:
    from mlx.utils import tree_flatten

    return dict(cast("list[tuple[str, Any]]", tree_flatten(tree)))


def _random_key() -> Any:
    """MLX's whole random state, [2] uint32."""
    import mlx.core as mx

    return cast("list[Any]", mx.random.state)[0]


def _below(prefix: str, arrays: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
