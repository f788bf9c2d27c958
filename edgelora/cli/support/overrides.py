"""Options that override the base's sampling defaults and the machine settings."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgelora.core.config import BackendChoice, KvType, Settings, WeightsChoice
    from edgelora.core.sampling_params import Constraint, SamplingParams


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """The sampling options given on the command line; None leaves the base's default."""

    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repeat_penalty: float | None
    seed: int | None
    max_tokens: int | None
    stop: tuple[str, ...]
    constraint: Constraint | None = None

    def over(self, defaults: SamplingParams) -> SamplingParams:
        """Return `defaults` with the given options replaced."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(defaults, **{name: value for name, value in given.items() if value not in (None, ())})


@dataclass(frozen=True, slots=True)
class MachineOptions:
    """The machine options given on the command line; None leaves the setting."""

    threads: int | None = None
    weights: WeightsChoice | None = None
    kv_type: KvType | None = None
    backend: BackendChoice | None = None

    def over(self, settings: Settings) -> Settings:
        """Return `settings` with the given options replaced."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(settings, **{name: value for name, value in given.items() if value is not None})
