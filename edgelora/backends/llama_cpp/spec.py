"""The llama.cpp backend, as the registry knows it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from edgelora.backends.setup import MAX_RESIDENT, STEP_TOKENS, Setup
from edgelora.backends.spec import BaseFiles, BaseFormat, WeightsNeed
from edgelora.core.config import KV_TYPES, KvType, Settings
from edgelora.core.request import AdapterFormat

if TYPE_CHECKING:
    from edgelora.backends.llama_cpp.backend import LlamaCppBackend
    from edgelora.backends.llama_cpp.tokenizer import LlamaTokenizer


class LlamaCppSpec:
    """Implements `edgelora.backends.spec.BackendSpec`."""

    name = "llama.cpp"
    display_name = "llama.cpp"
    base_format: BaseFormat = "gguf"
    adapter_format: AdapterFormat = "mapped"
    kv_types: tuple[KvType, ...] = KV_TYPES
    kv_native = False
    tunable = True

    @property
    def available(self) -> bool:
        return find_spec("llama_cpp") is not None

    def kv_type(self, base: BaseFiles, settings: Settings) -> KvType:
        return settings.kv_type

    def kv_token_bytes(self, base: BaseFiles, kv_type: KvType) -> int:
        from edgelora.backends.llama_cpp.kv_types import token_bytes

        return token_bytes(kv_type, base.shape)

    def weights_need(self, base: BaseFiles, setup: Setup) -> WeightsNeed:
        """Return the need; a repacked base is held beside the file it came from."""
        return WeightsNeed(base.nbytes, base.nbytes if setup.weights == "repacked" else 0)

    def working_set(self) -> int | None:
        return None

    def device(self) -> str:
        return ""

    def open(
        self,
        base: BaseFiles,
        setup: Setup,
        settings: Settings,
        *,
        max_outputs: int,
        progress: Callable[[float], None] | None,
    ) -> LlamaCppBackend:
        from edgelora.backends.llama_cpp.backend import LlamaCppBackend
        from edgelora.backends.llama_cpp.options import BackendOptions

        options = BackendOptions(
            context_length=setup.context_length,
            max_sequences=settings.max_sequences,
            max_step_tokens=STEP_TOKENS,
            max_slots=MAX_RESIDENT,
            threads=setup.threads,
            batch_threads=setup.batch_threads,
            weights=setup.weights,
            kv_type=setup.kv_type,
            kv_cells=setup.kv_tokens,
            max_outputs=max_outputs,
            kernel=settings.kernel,
        )
        return LlamaCppBackend.open(base.path, shape=base.shape, settings=options, progress=progress)

    def open_tokenizer(self, base: BaseFiles) -> LlamaTokenizer:
        from edgelora.backends.llama_cpp.model import Model
        from edgelora.backends.llama_cpp.tokenizer import LlamaTokenizer

        return LlamaTokenizer(Model.load_vocabulary(base.path, shape=base.shape))


SPEC = LlamaCppSpec()
