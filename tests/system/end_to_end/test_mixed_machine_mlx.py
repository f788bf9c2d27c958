"""The whole engine over MLX: `test_mixed_machine`'s rules on the same base, in float32, as an MLX folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

pytest.importorskip("mlx")
pytest.importorskip("mlx_lm")

from benchmarks.harness.homes import builtin_home, settings_of
from edgelora.backends.mlx.open import open_mlx
from edgelora.backends.mlx.options import MlxOptions
from edgelora.store.library import open_library
from edgelora_converters.base.convert import convert_base
from edgelora_models.builtin import base_hf
from tests.support.alone import Alone, Bound
from tests.system.end_to_end.test_mixed_machine import LABS, OPTIONS, WORST, Lab, MixedMachine, crowd

pytestmark = pytest.mark.mlx

MLX = MlxOptions(
    context_length=OPTIONS.context_length,
    max_sequences=OPTIONS.max_sequences,
    max_step_tokens=OPTIONS.max_step_tokens,
    max_slots=OPTIONS.max_slots,
    kv_cells=OPTIONS.kv_cells,
    max_outputs=OPTIONS.max_outputs,
    stack_bytes=1 << 26,
)

NOISE = Bound(1e-5, 1e-5)
"""Of float32, as llama.cpp's is measured to be. The base's own is none here: MLX's CPU computes each row by itself."""


@pytest.fixture(scope="module", autouse=True)
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Adapters that meet are stacked, as on a GPU; what each says alone is computed run by run."""
    home = builtin_home(tmp_path_factory.mktemp("home"), 8, rank=4)
    library = open_library(settings_of(home.path))
    convert_base(base_hf(), home.path / "mlx", to="mlx", kind="f32")
    base = library.bases.add(home.path / "mlx", "mlx")
    refs = tuple(library.store.ref(name, base, widened=True) for name in library.store.names())
    mixed, single = (open_mlx(base.path, shape=base.identity.fingerprint.shape, options=MLX) for _ in range(2))
    LABS["MLX"] = Lab(mixed, Alone(single), refs, WORST["F32"])
    LABS["MLX"].keep()
    LABS["MLX"].noise = NOISE
    yield
    del LABS["MLX"]
    for backend in (mixed, single):
        backend.close()


def test_adapters_add_no_noise() -> None:
    """Eight adapters in one batch: no token is another than alone."""
    lab = LABS["MLX"]
    adapters = crowd(lab, lab.refs[:8], rounds=2, seed=2)
    assert not adapters.flips and len(adapters.squares) > 40


class MlxMachine(MixedMachine):
    quantization = "MLX"


TestMlxMachine = MlxMachine.TestCase
TestMlxMachine.settings = settings(
    deadline=None, max_examples=4, stateful_step_count=20, suppress_health_check=[HealthCheck.too_slow]
)
