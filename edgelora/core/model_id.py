"""Model ids, taken apart: what a client may write in `model`, in this project's form and in the hosted systems'.

Pure: nothing is looked up here.

    medical-faq                      an adapter, its latest version
    medical-faq@3                    one version, by number, alias or digest
    <base>                           the base alone
    <base>:medical-faq[@version]     both named
    ft:<base>:<org>/<name>-<hash12>  the form Groq gives out; the hash is the start of the version's digest
    <project>/<name>                 the form Together gives out, where the whole is not the name of a base
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import isfinite

from edgelora.core.errors import UsageError
from edgelora.core.request import MAX_WEIGHT, AdapterUse


def split_weight(text: str) -> tuple[str, float]:
    """Split `NAME` or `NAME=WEIGHT`: no name has a `=`, while `:` and `@` belong to model ids. Raises UsageError."""
    name, sign, digits = text.rpartition("=")
    if not sign:
        return text, 1.0
    try:
        weight = float(digits)
    except ValueError:
        weight = float("nan")
    if not isfinite(weight) or abs(weight) > MAX_WEIGHT or not name:
        message = f"{digits!r} in {text!r} is no weight from {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}."
        raise UsageError("bad_weight", message, "Write NAME=0.7.", param="adapter")
    return name, weight


def show_weight(use: AdapterUse) -> str:
    """Format a weight so that `split_weight` reads it back."""
    return use.ref.name if use.weight == 1.0 else f"{use.ref.name}={use.weight:g}"


_HOSTED = re.compile(r"ft:(?P<base>[^:]+):[^:/]+/(?P<name>.+)-(?P<hash>[0-9a-f]{12})")


@dataclass(frozen=True, slots=True)
class ModelId:
    """`base` is None where the id does not name one; `adapter` is None where the id can only be a base."""

    base: str | None
    adapter: str | None


def split_model_id(text: str) -> ModelId:
    """Split a model id into its parts, unresolved: a lone word is given as `adapter`, and may yet be the name of a
    base."""
    if hosted := _HOSTED.fullmatch(text):
        return ModelId(hosted["base"], f"{hosted['name']}@{hosted['hash']}")
    base, colon, adapter = text.partition(":")
    if colon:
        return ModelId(base, adapter)
    return ModelId(None, text)


def without_project(adapter: str) -> str:
    """Return an adapter's name as the store knows it: names have no slash, so what stands before one can only be a
    project."""
    project, slash, name = adapter.partition("/")
    return name if project and slash and "/" not in name else adapter
