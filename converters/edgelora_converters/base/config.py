"""config.json of a checkpoint to be converted, against a closed schema: what changes results is honoured or refused.

Owns which keys there may be. The shape is `edgelora_models.hf_config`'s, the rope `base_rope`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgelora_converters.base.rope import Rope, read_rope
from edgelora_models.errors import BaseError
from edgelora_models.files import quoted, read_json
from edgelora_models.hf_config import CONFIG_NAME, MAX_CONFIG_BYTES, parse_hf_config
from edgelora_models.shape import LlamaShape

_DEFAULT_EPSILON = 1e-6
"""LlamaConfig's, for a file that leaves it out."""

_READ = frozenset(
    (
        *("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "head_dim", "vocab_size", "tie_word_embeddings", "max_position_embeddings"),
        *("rms_norm_eps", "rope_theta", "rope_scaling", "rope_parameters"),
        *("bos_token_id", "eos_token_id", "pad_token_id"),
    )
)
_NO_EFFECT = frozenset(
    (
        # Training, bookkeeping, and how transformers runs or returns things.
        *("attention_dropout", "initializer_range", "use_cache", "pretraining_tp", "dtype", "torch_dtype"),
        *("transformers_version", "_name_or_path", "name_or_path", "_commit_hash", "_attn_implementation"),
        *("_attn_implementation_autoset", "attn_implementation", "return_dict", "output_attentions"),
        *("output_hidden_states", "torchscript", "chunk_size_feed_forward", "problem_type", "id2label", "label2id"),
        *("task_specific_params", "finetuning_task", "tokenizer_class", "prefix", "keys_to_ignore_at_inference"),
        *("model_max_length", "max_sequence_length", "unsloth_fixed", "unsloth_version", "is_llama_config"),
        *("transformers.js_config", "edgelora"),
        # Generation's defaults; they stand in generation_config.json and are the runtime's business.
        *("do_sample", "max_length", "min_length", "num_beams", "num_beam_groups", "num_return_sequences"),
        *("temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "diversity_penalty"),
        *("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "early_stopping", "sep_token_id"),
        *("decoder_start_token_id", "bad_words_ids", "exponential_decay_length_penalty", "suppress_tokens"),
        *("begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values"),
        *("output_scores", "return_dict_in_generate", "pruned_heads", "tf_legacy_loss", "use_bfloat16"),
    )
)


def _empty(value: Any) -> bool:
    return value is None or value == 0 or (isinstance(value, str | list | dict) and not value)


_PLAIN: Mapping[str, Callable[[Any], bool]] = {
    "architectures": lambda value: _empty(value) or value == ["LlamaForCausalLM"],
    "hidden_act": lambda value: value in (None, "silu"),
    "layer_types": lambda value: _empty(value) or (type(value) is list and all(v == "full_attention" for v in value)),
    "partial_rotary_factor": lambda value: value in (None, 1),
}
"""Keys with one value (or a few) that asks for nothing but a plain Llama. Every other key must be empty."""


@dataclass(frozen=True, slots=True)
class BaseConfig:
    """The values of config.json that a conversion uses."""

    shape: LlamaShape
    context_length: int
    """Tokens the model was made for."""
    norm_epsilon: float
    rope: Rope
    fields: Mapping[str, Any]
    """The whole file."""


def read_base_config(folder: Path) -> BaseConfig:
    """Read and check `folder`/config.json.

    Raises BaseError: `base_not_llama`; `base_unsupported` naming every key at once that asks for something else than a
    plain Llama, or that is not known and not empty; `base_rope`; `base_corrupt` for numbers that cannot be.
    """
    return parse_base_config(read_json(folder / CONFIG_NAME, limit=MAX_CONFIG_BYTES, error=BaseError))


def parse_base_config(fields: Mapping[str, Any], *, besides: Collection[str] = ()) -> BaseConfig:
    """Parse a config.json that was read; it may have the keys `besides`, which are the caller's to honour."""
    if fields.get("model_type") == "llama":
        _refuse_odd({key: value for key, value in fields.items() if key not in besides})
    parsed = parse_hf_config(fields)
    return BaseConfig(parsed.shape, parsed.context_length, _epsilon(fields), read_rope(fields), fields)


def _refuse_odd(fields: Mapping[str, Any]) -> None:
    odd = [f"{quoted(key, 60)}: {str(value)[:60]}" for key, value in sorted(fields.items()) if not _plain(key, value)]
    if odd:
        message = f"{CONFIG_NAME} asks for what a plain Llama has not, or edgelora does not know: {'; '.join(odd)}."
        raise BaseError("base_unsupported", message, "Use a Llama base in its original Hugging Face form.")


def _plain(key: str, value: Any) -> bool:
    if key in _READ or key in _NO_EFFECT:
        return True
    return _PLAIN.get(key, _empty)(value)


def _epsilon(fields: Mapping[str, Any]) -> float:
    value = fields.get("rms_norm_eps", _DEFAULT_EPSILON)
    if not isinstance(value, float) or not 0 < value < 1:
        message = f"{CONFIG_NAME} says rms_norm_eps: {str(value)[:40]}."
        raise BaseError("base_corrupt", message, "Fetch the base again.", param="rms_norm_eps")
    return value
