"""The error tree, re-exported for users of the runtime; it is drawn and defined in `edgelora_models.errors`."""

from edgelora_models.errors import (
    AdapterCorrupt,
    AdapterError,
    AdapterIncompatible,
    AdapterUnsupported,
    BackendError,
    BaseError,
    Busy,
    Cancelled,
    ContextTooLong,
    EdgeloraError,
    NotFound,
    Offline,
    StorageError,
    Unavailable,
    UsageError,
)

__all__ = [
    "AdapterCorrupt",
    "AdapterError",
    "AdapterIncompatible",
    "AdapterUnsupported",
    "BackendError",
    "BaseError",
    "Busy",
    "Cancelled",
    "ContextTooLong",
    "EdgeloraError",
    "NotFound",
    "Offline",
    "StorageError",
    "Unavailable",
    "UsageError",
]
