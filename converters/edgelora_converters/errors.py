"""The converters' own branch of the error tree drawn in `edgelora_models.errors`."""

from __future__ import annotations

from edgelora_models.errors import AdapterError


class ConversionFailed(AdapterError):
    """The written file differs from what was read. The adapter is not at fault, so no client is told to change it."""

    status = 500
