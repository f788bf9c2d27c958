"""The names that other architectures give their modules, so that an adapter of one is called by its name. A table."""

from __future__ import annotations

import re
from collections.abc import Mapping

_FAMILIES: Mapping[str, re.Pattern[str]] = {
    name: re.compile(rf"(?:^|\.)(?:{pattern})(?:\.|$)")
    for name, pattern in {
        "GPT-2, or the first Qwen": r"h\.\d+\.(?:attn\.c_(?:attn|proj)|mlp\.(?:c_fc|c_proj))",
        "the first Qwen": r"h\.\d+\.mlp\.w[12]",
        "GPT-J": r"h\.\d+\.(?:attn\.(?:[qkv]_proj|out_proj)|mlp\.fc_(?:in|out))",
        "Falcon or BLOOM": r"h\.\d+\.(?:self_attention|mlp)\.(?:query_key_value|dense|dense_h_to_4h|dense_4h_to_h)",
        "GPT-NeoX": r"layers\.\d+\.(?:attention\.(?:query_key_value|dense)|mlp\.dense_(?:h_to_4h|4h_to_h))",
        "MPT": r"blocks\.\d+\.(?:attn|ffn)\.\w+",
        "Phi-3 (fused modules)": r"layers\.\d+\.(?:self_attn\.qkv_proj|mlp\.gate_up_proj)",
        "Phi": r"layers\.\d+\.(?:self_attn\.dense|mlp\.fc[12])",
        "Mixtral": r"block_sparse_moe\.(?:gate|experts\.\d+\.w[123])",
        "a mixture of experts, such as Qwen's": r"mlp\.(?:gate|shared_expert\w*|experts(?:\.\d+)?)(?:\.\w+_proj)?",
        "Qwen (with linear attention)": r"linear_attn\.\w+",
        "OPT or BART": r"decoder\.layers\.\d+\.(?:self_attn\.\w+|fc[12])",
        "T5": r"(?:encoder|decoder)\.block\.\d+\.layer\.\d+\.\w+\.\w+",
        "BERT": r"encoder\.layer\.\d+\.(?:attention|intermediate|output)(?:\.\w+)+",
        "ChatGLM": r"encoder\.layers\.\d+\.self_attention\.\w+",
        "InternLM2": r"layers\.\d+\.(?:attention\.(?:wqkv|wo)|feed_forward\.w[123])",
        "Mamba": r"layers\.\d+\.mixer\.\w+",
    }.items()
}
"""By family, what the path of a module in it looks like; the first that matches is taken."""


def family_of(name: str) -> str | None:
    """Return the architecture that a tensor's name is of, if it is a known one and not Llama's."""
    return next((family for family, pattern in _FAMILIES.items() if pattern.search(name)), None)
