"""The MLX backend, as the registry knows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgelora.backends.mlx import limits
from edgelora.backends.mlx.open import installed, open_mlx
from edgelora.backends.setup import MAX_RESIDENT, STEP_TOKENS, Setup
from edgelora.backends.spec import BaseFiles, BaseFormat, WeightsNeed
from edgelora.core.config import KvType, Settings
from edgelora.core.errors import UsageError
from edgelora.core.request import AdapterFormat
from edgelora_models.modules import LINEAR_MODULES
from edgelora_models.storage import size_text

if TYPE_CHECKING:
    from edgelora.backends.mlx.backend import MlxBackend
    from edgelora.backends.mlx.tokenizer import FolderTokenizer


class MlxSpec:
    """Implements `edgelora.backends.spec.BackendSpec`."""

    name = "mlx"
    display_name = "MLX"
    base_format: BaseFormat = "mlx"
    adapter_format: AdapterFormat = "mlx"
    kv_types: tuple[KvType, ...] = ("f16", "f32")
    kv_native = True
    tunable = False

    @property
    def available(self) -> bool:
        return installed()

    def kv_type(self, base: BaseFiles, settings: Settings) -> KvType:
        """Return the width of the activations: 32 bits if the weights have 32, which shows in their size, else 16."""
        if settings.kv_type not in self.kv_types:
            message = f"KV in {settings.kv_type} is llama.cpp's; MLX keeps it in the base's own type."
            remedy = "Leave out --kv-type (EDGELORA_KV_TYPE), or take a GGUF base (--backend llama.cpp)."
            raise UsageError("kv_type", message, remedy, param="kv_type")
        shape = base.shape
        per_layer = sum(module.in_features(shape) * module.out_features(shape) for module in LINEAR_MODULES)
        weights = shape.layers * per_layer + shape.vocab * shape.hidden * (1 if shape.tied else 2)
        return "f32" if base.nbytes >= 4 * weights else "f16"

    def kv_token_bytes(self, base: BaseFiles, kv_type: KvType) -> int:
        shape = base.shape
        return 2 * shape.layers * shape.kv_width * (4 if kv_type == "f32" else 2)

    def weights_need(self, base: BaseFiles, setup: Setup) -> WeightsNeed:
        """MLX holds all of them."""
        return WeightsNeed(mapped=0, held=base.nbytes)

    def working_set(self) -> int | None:
        return limits.working_set()

    def device(self) -> str:
        metal = self.working_set()
        return "a CPU, for trying it out" if metal is None else f"Metal, which gives it {size_text(metal)}"

    def open(
        self,
        base: BaseFiles,
        setup: Setup,
        settings: Settings,
        *,
        max_outputs: int,
        progress: Callable[[float], None] | None,
    ) -> MlxBackend:
        from edgelora.backends.mlx.options import MlxOptions

        if (metal := self.working_set()) is not None:
            need = self.weights_need(base, setup).held + setup.kv_bytes
            limits.apply(limits.limits(need=need, adapters=settings.adapter_budget_bytes, working_set=metal))
        options = MlxOptions(
            context_length=setup.context_length,
            max_sequences=settings.max_sequences,
            max_step_tokens=STEP_TOKENS,
            max_slots=MAX_RESIDENT,
            kv_cells=setup.kv_tokens,
            max_outputs=max_outputs,
        )
        return open_mlx(base.path, shape=base.shape, options=options, progress=progress)

    def open_tokenizer(self, base: BaseFiles) -> FolderTokenizer:
        from edgelora.backends.mlx.tokenizer import FolderTokenizer

        return FolderTokenizer(base.path, base.shape.vocab)


SPEC = MlxSpec()
