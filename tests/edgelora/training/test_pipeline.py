"""Training for real, on a tiny base: mlx-lm computes, and what stops goes on exactly."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from edgelora.core.config import read_settings
from edgelora.core.errors import BackendError, EdgeloraError, NotFound, UsageError
from edgelora.store.adapters.store import Store
from edgelora.store.bases.registry import Bases
from edgelora.store.library import Library
from edgelora.training.pipeline import Trained, TrainingListener, TrainingPlan, begin, resume
from edgelora.training.recipe import Recipe
from edgelora.training.trainer import Measured, Stopped, TrainerListener
from tests.support.bases import write_tiny_gguf
from tests.support.lora import GQA
from tests.support.mlx import write_tiny_mlx

pytest.importorskip("mlx_lm")
pytestmark = pytest.mark.mlx

RECIPE = Recipe(
    rank=4,
    alpha=8,
    layers=1,
    iterations=6,
    batch_size=2,
    dropout=0.1,
    learning_rate=1e-2,
    validation=0.2,
    report_every=1,
    validate_every=3,
    save_every=2,
)


@dataclass
class Followed:
    """What was told; `until` ends the training after that iteration."""

    until: int | None = None
    plans: list[TrainingPlan] = field(default_factory=list)
    losses: list[Measured] = field(default_factory=list)
    iterations: list[int] = field(default_factory=list)

    @property
    def follower(self) -> TrainingListener:
        stop = lambda: self.until is not None and self.iterations[-1] >= self.until  # noqa: E731
        return TrainingListener(self.plans.append, TrainerListener(self.losses.append, self.iterations.append, stop))


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """A chosen GGUF base with its MLX form beside it."""
    settings = read_settings({"EDGELORA_HOME": str(tmp_path / "home")})
    bases = Bases(settings.directories)
    bases.add(write_tiny_gguf(tmp_path / "tiny.gguf", GQA, seed=0), "tiny")
    bases.add(write_tiny_mlx(tmp_path / "tiny-mlx", GQA, seed=0), "tiny-mlx")
    bases.use("tiny")
    return Library(settings, bases, Store(settings.directories.data))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    lines = [{"prompt": f"What is {n}?", "completion": f"{n} is {'even' if n % 2 == 0 else 'odd'}."} for n in range(10)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def trained(
    library: Library, data: Path, recipe: Recipe = RECIPE, *, name: str = "odd", until: int | None = None
) -> Trained:
    return begin(library, name, data=data, base=None, recipe=recipe, restart=False, follower=Followed(until).follower)


def test_an_adapter_is_trained_and_installed(library: Library, data: Path) -> None:
    """The loss falls, and what is installed for the chosen base is what the recipe asked for, for both backends."""
    followed = Followed()
    recipe = Recipe(rank=4, alpha=8, iterations=12, batch_size=4, learning_rate=1e-2, report_every=1, validate_every=6)
    done = begin(library, "odd", data=data, base=None, recipe=recipe, restart=False, follower=followed.follower)
    (plan,) = followed.plans
    assert (plan.trained_on.name, plan.training, plan.validation, plan.done, plan.cut) == ("tiny-mlx", 9, 1, 0, 0)
    learnt = [measured.loss for measured in followed.losses if not measured.validation]
    assert len(learnt) == 12 and max(learnt[-3:]) < min(learnt[:2])
    assert [m.iteration for m in followed.losses if m.validation] == [0, 5, 11]
    assert followed.iterations == list(range(1, 13))
    assert (done.base.name, done.version.rank, done.version.alpha, done.version.scales) == ("tiny", 4, "8", (2.0, 2.0))
    assert len(done.version.targets) == 7
    for base, to in (("tiny", "mapped"), ("tiny-mlx", "mlx")):
        assert library.store.ref("odd", library.bases.get(base)).path.name == {"mapped": "adapter.lora"}.get(
            to, "adapter"
        )


def test_less_memory_is_the_same_training(library: Library, data: Path) -> None:
    """Gradient checkpointing computes activations anew, to the same factors; dropout would be another then."""
    steady = msgspec.structs.replace(RECIPE, dropout=0.0, iterations=3)
    plain = trained(library, data, steady, name="plain")
    saving = trained(library, data, msgspec.structs.replace(steady, grad_checkpoint=True), name="saving")
    assert plain.version.digest == saving.version.digest
    with pytest.raises(UsageError) as caught:
        trained(library, data, msgspec.structs.replace(RECIPE, grad_checkpoint=True))
    assert caught.value.code == "train_options"


@pytest.mark.parametrize("stopped", [3, 4])
def test_going_on_is_exact(stopped: int, library: Library, data: Path) -> None:
    """Stopped anywhere and gone on with, it is the same adapter bit for bit: factors, moments, order and dropout."""
    whole = trained(library, data, name="whole")
    with pytest.raises(Stopped) as caught:
        trained(library, data, until=stopped)
    assert caught.value.iteration == stopped
    assert "odd" not in library.store.names()
    followed = Followed()
    done = resume(library, "odd", iterations=None, follower=followed.follower)
    assert followed.plans[0].done == stopped and followed.iterations == list(range(stopped + 1, 7))
    assert done.version.digest == whole.version.digest


def test_more_iterations(library: Library, data: Path) -> None:
    """A finished training goes on where more are asked for, as the next version; else it says that it is done."""
    whole = trained(library, data, name="whole")
    trained(library, data, msgspec.structs.replace(RECIPE, iterations=4))
    with pytest.raises(UsageError) as caught:
        resume(library, "odd", iterations=None, follower=Followed().follower)
    assert caught.value.code == "training_done"
    done = resume(library, "odd", iterations=6, follower=Followed().follower)
    assert (done.version.number, done.version.digest) == (2, whole.version.digest)


def test_an_unfinished_one_is_not_forgotten(library: Library, data: Path) -> None:
    """Beginning again is refused until it is meant; the checkpoint stays."""
    with pytest.raises(Stopped):
        trained(library, data, until=1)
    with pytest.raises(UsageError) as caught:
        trained(library, data)
    assert caught.value.code == "training_unfinished" and "iteration 1 of 6" in caught.value.what
    follower = Followed().follower
    done = begin(library, "odd", data=data, base=None, recipe=RECIPE, restart=True, follower=follower)
    assert done.version.number == 1


def other_data(_library: Library, data: Path) -> None:
    data.write_text(data.read_text().replace("odd", "strange"))


def other_base(library: Library, data: Path) -> None:
    library.bases.add(write_tiny_mlx(data.parent / "again", GQA, seed=1), "again")


def damage(library: Library, _data: Path) -> None:
    path = library.settings.directories.data / "training" / "odd" / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


@pytest.mark.parametrize(
    ("change", "code"),
    [(other_data, "training_data_changed"), (other_base, "training_base_changed"), (damage, "training_damaged")],
)
def test_what_changed_is_not_gone_on_with(
    change: Callable[[Library, Path], None], code: str, library: Library, data: Path
) -> None:
    """Other data, another file of the base, and a damaged checkpoint are refused."""
    with pytest.raises(Stopped):
        trained(library, data, until=1)
    change(library, data)
    with pytest.raises(EdgeloraError) as caught:
        resume(library, "odd", iterations=None, follower=Followed().follower)
    assert caught.value.code == code


def test_nothing_to_go_on_with(library: Library) -> None:
    """No training of that name."""
    with pytest.raises(NotFound):
        resume(library, "odd", iterations=None, follower=Followed().follower)


def test_a_training_that_diverges(library: Library, data: Path) -> None:
    """Ends with a word on the learning rate, installs nothing, and leaves no checkpoint of it."""
    wild = Recipe(rank=4, alpha=1e30, iterations=8, batch_size=4, learning_rate=1e30, report_every=1, save_every=1)
    with pytest.raises(BackendError) as caught:
        trained(library, data, wild)
    assert caught.value.code == "training_diverged" and "--learning-rate" in caught.value.remedy
    assert library.store.names() == ()


def test_more_layers_than_there_are(library: Library, data: Path) -> None:
    """Refused before anything is loaded."""
    with pytest.raises(UsageError) as caught:
        trained(library, data, Recipe(layers=3))
    assert caught.value.code == "train_layers"
