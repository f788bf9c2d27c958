"""The specification of a backend: everything that is known of it before a base is opened.

A backend is a folder with a `spec.py` and one line in `registry`. Nothing outside the specs branches on which backend
it is: whoever needs a decision asks the spec.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from edgelora.backends.base import Backend
from edgelora.backends.setup import Setup
from edgelora.core.config import KvType, Settings
from edgelora.core.request import AdapterFormat
from edgelora.core.tokenizer import Tokenizer
from edgelora_models.shape import LlamaShape

BaseFormat = Literal["gguf", "mlx"]
"""A GGUF file, or an MLX folder."""


@dataclass(frozen=True, slots=True)
class BaseFiles:
    """An installed base as a backend sees it."""

    name: str
    path: Path
    shape: LlamaShape
    nbytes: int
    """Size on disk."""


@dataclass(frozen=True, slots=True)
class WeightsNeed:
    """Bytes that a base's weights take in memory."""

    mapped: int
    """Bytes mapped from the file, which the system may drop and read again."""
    held: int
    """Bytes that must stay in memory."""


class BackendSpec(Protocol):
    """The specification of a backend. Importing a spec imports no native library; opening a base does."""

    @property
    def name(self) -> str:
        """The value of `--backend`."""
        ...

    @property
    def display_name(self) -> str:
        """The name that people and API replies see."""
        ...

    @property
    def base_format(self) -> BaseFormat:
        """The form of a base that it opens."""
        ...

    @property
    def adapter_format(self) -> AdapterFormat:
        """The conversion of an adapter that it loads as it is opened by default."""
        ...

    @property
    def available(self) -> bool:
        """True if the packages it needs are installed. Imports none of them."""
        ...

    @property
    def kv_types(self) -> tuple[KvType, ...]:
        """The types its KV cache may have; the first is the default."""
        ...

    @property
    def kv_native(self) -> bool:
        """True if its KV cache always has the base's own type."""
        ...

    @property
    def tunable(self) -> bool:
        """True if `edgelora tune` measures threads and weights for it."""
        ...

    def kv_type(self, base: BaseFiles, settings: Settings) -> KvType:
        """Return the type of the KV cache for this base. Raises UsageError(kv_type) for an unsupported type."""
        ...

    def kv_token_bytes(self, base: BaseFiles, kv_type: KvType) -> int:
        """Return the bytes of one token's keys and values over all layers."""
        ...

    def weights_need(self, base: BaseFiles, setup: Setup) -> WeightsNeed:
        """Return the memory that the weights take once they are opened with `setup`."""
        ...

    def working_set(self) -> int | None:
        """Return the bytes that the device gives one process; None if only the machine's memory is the limit."""
        ...

    def device(self) -> str:
        """Return the name of the device, as `edgelora doctor` shows it; empty for the CPU."""
        ...

    def open(
        self,
        base: BaseFiles,
        setup: Setup,
        settings: Settings,
        *,
        max_outputs: int,
        progress: Callable[[float], None] | None,
    ) -> Backend:
        """Load a base. `progress` gets 0.0 to 1.0. Raises BaseError, BackendError."""
        ...

    def open_tokenizer(self, base: BaseFiles) -> Tokenizer:
        """Read a base's tokenizer and nothing else of it: no weights. Raises BaseError, BackendError."""
        ...
