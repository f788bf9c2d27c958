"""Which checkpoint a name on the Hugging Face hub means: mirrors and repackagings of a model are the same checkpoint.

Names are hints that people and trainers wrote, so a name that says nothing is no evidence of anything. Pure.
"""

from __future__ import annotations

import re

_REPACKED = re.compile(
    r"[-_.](?:unsloth|bnb|nf4|[248]-?bit|int[48]|w[48]a(?:8|16)|gguf|mlx|awq|gptq|fp8|fp16|bf16|f16|quantized|dynamic"
    r"|reference|turbo|hf|original|sharded|q\d(?:_\w+)*)$"
)
"""What mirrors add to a model's name when they store its weights in another form."""
_MAKER = re.compile(r"^(?:meta|facebook|google|mistralai|qwen|microsoft)[-_](?=llama|gemma|mistral|mixtral|qwen|phi)")
_LLAMA_NUMBER = re.compile(r"\bllama-?(?=\d)")
_CLASS = re.compile(r"([A-Z][A-Za-z0-9]*?)(?:For[A-Z]\w+|LMHead\w*|Model)$")
_WRAPPERS = frozenset({"Auto", "AutoModel", "Peft", "PeftModel", "Fast", "FastLanguage"})
_OTHER_LLAMAS = frozenset({"Mllama", "Llama4", "Llama4Text"})
"""Architectures of their own, whose modules are not those of a Llama 2 or 3."""
_TELLING = re.compile(r"llama.*-\d+(?:\.\d+)?[bm](?:-|$)")
_LOCAL = re.compile(r"^(?:[./~\\]|[A-Za-z]:[\\/])|\\|//|/.*/")

OTHER_FAMILIES = frozenset(
    {
        *("mistral", "mixtral", "ministral", "codestral", "qwen", "gemma", "phi", "gpt2", "gptj", "falcon", "bloom"),
        *("bloomz", "pythia", "stablelm", "starcoder", "codegen", "olmo", "chatglm", "baichuan", "rwkv", "mamba"),
        *("zephyr", "granite", "cohere", "internlm", "exaone", "glm", "dbrx", "jamba", "mpt", "t5", "bert", "roberta"),
    }
)
"""Words of model names that mean an architecture other than Llama's, without their version numbers."""
_LLAMAS = frozenset({"llama", "codellama", "tinyllama", "openllama", "vicuna", "alpaca", "smollm"})
"""Words that mean Llama's architecture; beside one of these, a word above names a teacher or a data set."""


def checkpoint(name: str | None) -> str | None:
    """Return the name of the checkpoint that a model name means, in small letters and without the organization.

    `unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit` and `meta-llama/Llama-3.1-8B-Instruct` are both
    `llama-3.1-8b-instruct`. None for no name and for a path on some machine, which tell nothing.
    """
    if not name or _LOCAL.search(name):
        return None
    short = name.strip().rpartition("/")[2].partition("@")[0].lower().replace("_", "-").replace(" ", "-")
    while (shorter := _REPACKED.sub("", short)) != short:
        short = shorter
    return _LLAMA_NUMBER.sub("llama-", _MAKER.sub("", short)) or None


def names_a_llama(name: str | None) -> bool:
    """Return whether a name that a model's file gives itself tells its checkpoint: a family and a size stand in it."""
    return _TELLING.search(checkpoint(name) or "") is not None


def foreign_family(name: str | None) -> str | None:
    """Return the architecture that a model name means if it is not Llama's, such as `mistral`; otherwise None."""
    words = (checkpoint(name) or "").split("-")
    families = [family for word in words for family in (word, re.sub(r"[\d.]+$", "", word))]
    if any(family in _LLAMAS for family in families):
        return None
    return next((family for family in families if family in OTHER_FAMILIES), None)


def foreign_class(name: str | None) -> str | None:
    """Return a class of transformers, such as `MistralForCausalLM`, if it is another architecture's than Llama's.

    A class with another kind of name tells nothing: wrappers (`PeftModelForCausalLM`, `OptimizedModule`) and classes of
    a trainer's own are noted as well.
    """
    match = _CLASS.match(name or "")
    if match is None or match[1] in _WRAPPERS:
        return None
    llama = "llama" in match[1].lower() and match[1] not in _OTHER_LLAMAS
    return None if llama else name
