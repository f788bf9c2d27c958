"""PEFT's rules for the modules an adapter touches, and the scale of each. Pure; reads no file.

Rank and alpha patterns changed their meaning twice, and PEFT records its version only since 0.18. Where a file has
patterns and no version, all three meanings are tried: the ranks of the tensors usually leave one, and where several are
left that give different scales the adapter is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain

from edgelora_converters.lora.adapter import Target
from edgelora_converters.peft.config import CONFIG_NAME, PeftConfig
from edgelora_converters.peft.config_fields import PLAIN_KEY
from edgelora_converters.peft.pattern import compile_pattern
from edgelora_converters.peft.pattern_nodes import Budget, PatternError
from edgelora_converters.peft.variants import AdaLora
from edgelora_models.errors import AdapterCorrupt, AdapterUnsupported

MAX_STEPS = 3_000_000
"""Limit on steps of matching expressions for one adapter: about two seconds. Plain names, of which EVA writes hundreds,
cost none."""

_Rule = Callable[[PeftConfig, str, Budget], tuple[int, float]]
"""Rank and alpha of the module at a path."""


def selected(
    config: PeftConfig, targets: Iterable[Target], *, spelled: Callable[[str], str] = str
) -> frozenset[Target] | None:
    """Return those of `targets` that PEFT would adapt by this configuration; None if the configuration does not decide.

    `spelled` gives a module's path as the training had it, from its path in a plain Llama. Raises AdapterUnsupported
    where an expression is too costly to match.
    """
    if config.target_modules is None and not config.target_parameters:
        return None
    with _bounded() as budget:
        return frozenset(target for target in targets if _selects(config, target, spelled(target.hf_path), budget))


def scales(config: PeftConfig, ranks: Mapping[str, int]) -> dict[str, float]:
    """Return the scale of each module by its path as the training had it, given the ranks of its tensors by the same
    path.

    Raises AdapterCorrupt where a rank disagrees with the configuration, AdapterUnsupported where the meaning of the
    patterns is uncertain or an expression is too costly to match.
    """
    if config.adalora is not None:
        return {path: _adalora_scale(config, config.adalora, path, rank) for path, rank in ranks.items()}
    with _bounded() as budget:
        answers = [{path: rule(config, _matched(config, path), budget) for path in ranks} for rule in _rules(config)]
    fitting = [a for a in answers if all(a[path][0] == rank for path, rank in ranks.items())]
    if not fitting:
        raise _wrong_rank(ranks, answers[0])
    for path in ranks:
        if len({answer[path][1] for answer in fitting}) > 1:
            raise _uncertain(path, [answer[path][1] for answer in fitting])
    return {path: _scale(config, *fitting[0][path]) for path in ranks}


def _scale(config: PeftConfig, rank: int, alpha: float) -> float:
    return alpha / math.sqrt(rank) if config.use_rslora else alpha / rank


def _adalora_scale(config: PeftConfig, own: AdaLora, path: str, rank: int) -> float:
    """PEFT divides by the rank training began with. Where alpha is not above 0 it multiplies by the rank, in training
    by that one, and after loading by the one that was left."""
    expected = own.ranks.get(path, own.init_rank)
    if rank != expected:
        raise _wrong_rank({path: rank}, {path: (expected, 0.0)})
    if config.alpha <= 0 and rank not in (0, own.init_rank):
        raise _uncertain(path, [float(own.init_rank), float(rank)])
    return (config.alpha if config.alpha > 0 else float(rank)) / (own.init_rank + 1e-5)


def _matched(config: PeftConfig, path: str) -> str:
    """Return the path that PEFT matches patterns against: the parameter's where a parameter was targeted."""
    return f"{path}.weight" if _is_parameter(config, path) else path


def _is_parameter(config: PeftConfig, path: str) -> bool:
    weight = f"{path}.weight"
    return any(weight == name or weight.endswith(f".{name}") for name in config.target_parameters)


@contextmanager
def _bounded() -> Iterator[Budget]:
    try:
        yield Budget(MAX_STEPS)
    except PatternError as e:
        raise AdapterUnsupported(
            "adapter_config",
            f"An expression for module names in {CONFIG_NAME} cannot be used: {e}.",
            "Write the modules' plain names in target_modules, rank_pattern and alpha_pattern.",
        ) from None


def _selects(config: PeftConfig, target: Target, path: str, budget: Budget) -> bool:
    """PEFT's check_target_module_exists, and its choice of target_parameters."""
    modules = config.target_modules
    if _is_parameter(config, path):
        return True
    if modules is None or _listed(config.exclude_modules, path, budget):
        return False
    if modules == "all-linear":
        return target.layer is not None  # neither embedding nor head
    if not _listed(modules, path, budget):
        return False
    # The layer numbers limit only names matched by their end, as in PEFT.
    by_end = not isinstance(modules, str) and path not in modules
    return not by_end or config.layers_to_transform is None or target.layer in config.layers_to_transform


def _listed(modules: str | tuple[str, ...], path: str, budget: Budget) -> bool:
    if isinstance(modules, str):
        return bool(modules) and compile_pattern(modules).fullmatch(path, budget)
    return any(path == name or path.endswith(f".{name}") for name in modules)


def _rules(config: PeftConfig) -> list[_Rule]:
    """Return the meanings the patterns may have, newest first."""
    version = re.match(r"(\d{1,4})\.(\d{1,4})", config.peft_version or "")
    recent = version is not None and (int(version[1]), int(version[2])) >= (0, 15)
    has_patterns = bool(config.rank_pattern or config.alpha_pattern)
    return [_since_0_15, _in_0_14, _before_0_14] if has_patterns and not recent else [_since_0_15]


def _since_0_15(config: PeftConfig, path: str, budget: Budget) -> tuple[int, float]:
    def first(keys: Iterable[str]) -> str:
        return next((key for key in keys if _hits(key, path, budget, whole=True)), path)

    rank = config.rank_pattern.get(first(config.rank_pattern), config.rank)
    return rank, config.alpha_pattern.get(first(config.alpha_pattern), config.alpha)


def _in_0_14(config: PeftConfig, path: str, budget: Budget) -> tuple[int, float]:
    def first(keys: Iterable[str]) -> str:
        return next((key for key in keys if _hits(key, path, budget, whole=False)), path)

    rank = config.rank_pattern.get(first(config.rank_pattern), config.rank)
    return rank, config.alpha_pattern.get(first(config.alpha_pattern), config.alpha)


def _before_0_14(config: PeftConfig, path: str, budget: Budget) -> tuple[int, float]:
    """Rule before 0.14: a single key was looked up in both patterns, so that a key of rank_pattern could hide one of
    alpha_pattern."""
    keys = chain(config.rank_pattern, config.alpha_pattern)
    key = next((key for key in keys if _hits(key, path, budget, whole=False)), path)
    return config.rank_pattern.get(key, config.rank), config.alpha_pattern.get(key, config.alpha)


def _hits(key: str, path: str, budget: Budget, *, whole: bool) -> bool:
    """Return whether a pattern's key matches a path: its end after a dot, or since 0.15 also the `whole` of it."""
    if PLAIN_KEY.fullmatch(key) is None:
        return compile_pattern(rf"(.*\.)?({key})$" if whole else rf".*\.{key}$").match(path, budget)
    start = len(path) - len(key)
    if start < 0 or (path[start - 1] != "." if start else not whole):
        return False
    return all(c in (".", other) for c, other in zip(key, path[start:], strict=True))


def _wrong_rank(ranks: Mapping[str, int], answer: Mapping[str, tuple[int, float]]) -> AdapterCorrupt:
    path = next(path for path, rank in ranks.items() if answer[path][0] != rank)
    return AdapterCorrupt(
        "adapter_rank",
        f"The tensors of {path} have rank {ranks[path]}, but {CONFIG_NAME} gives it rank {answer[path][0]}.",
        "The two files do not belong together, or one was changed: save the adapter again.",
        param=path,
    )


def _uncertain(path: str, alphas: Iterable[float]) -> AdapterUnsupported:
    return AdapterUnsupported(
        "adapter_pattern_meaning",
        f"{CONFIG_NAME} has patterns but no peft_version, and PEFT's releases read them differently: "
        f"the alpha of {path} may be {' or '.join(f'{alpha:g}' for alpha in sorted(set(alphas)))}.",
        "Save the adapter again with PEFT 0.18 or later, or write the version it was trained with as peft_version.",
        param="alpha_pattern",
    )
