"""The fields of OpenAI's and of other servers' bodies beyond the common ones, and what happens to each: one table.

Every generating body is checked against it, so no field that would change an answer is dropped in silence. A field that
is neither in the type of a body nor here is ignored. docs/http.md has the same table, which a test compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgelora.server.http.endpoint import Inert


@dataclass(frozen=True, slots=True)
class Honoured:
    """The body's type has the field, with the meaning that it has elsewhere."""

    same_as: str = ""
    """The field of which this is another name."""


@dataclass(frozen=True, slots=True)
class Refused:
    """It would change the answer in a way that is not supported."""

    accepted: tuple[object, ...] = ()
    """The values that change nothing, which are accepted."""
    remedy: str = ""
    """What to do instead, where leaving the field out is not what the client wants."""


@dataclass(frozen=True, slots=True)
class Ignored:
    """Any value is accepted, because none changes the answer here."""


Treatment = Honoured | Refused | Ignored
Fields = Mapping[str, Treatment]

ADAPTER_FIELDS = ("adapter_id", "adapter")
"""The fields in which other servers name the adapter, where a text means exactly what it means in `model`."""
NAME_IN_MODEL = "Put the adapter's name in 'model'."
_IN_MODEL = Refused(remedy=NAME_IN_MODEL)
_OFF, _ONE = Refused((0,)), Refused((1,))
_FALSE, _NO_LIST, _NO_TEXT = Refused((False,)), Refused(([],)), Refused(("",))

ADAPTERS: Fields = {
    **dict.fromkeys(ADAPTER_FIELDS, Honoured()),
    "adapter_source": Refused(("local",), "Install the adapter, and put its name in 'model'."),
    **dict.fromkeys(("adapter_name", "adapter_parameters"), _IN_MODEL),
    **dict.fromkeys(("lora", "lora_adapter", "lora_adapters", "lora_id", "lora_name"), _IN_MODEL),
    **dict.fromkeys(("lora_path", "lora_request"), _IN_MODEL),
}
"""The fields in which other servers (LoRAX, TGI, mistral.rs, llama-server, vLLM, SGLang) name an adapter."""

LENGTH: Fields = {
    "min_tokens": Honoured(),
    "min_new_tokens": Honoured("min_tokens"),
    "ignore_eos": Honoured(),
    "stop_token_ids": Honoured(),
    "include_stop_str_in_output": Honoured(),
    "ban_eos_token": _FALSE,
    "stop_regex": Refused(),
    "t_max_predict_ms": Refused((0, -1)),
    "n_indent": _OFF,
    "truncate_prompt_tokens": Refused(),
    **dict.fromkeys(("n_keep", "n_discard"), Ignored()),
}
"""Where an answer ends."""

SAMPLING: Fields = {
    "repetition_penalty": Honoured("repeat_penalty"),
    "repeat_last_n": Honoured(),
    "repetition_context_size": Honoured("repeat_last_n"),
    **dict.fromkeys(("typical_p", "tfs_z", "tfs", "encoder_repetition_penalty", "guidance_scale", "cfg_scale"), _ONE),
    **dict.fromkeys(("mirostat", "mirostat_mode", "dry_multiplier", "xtc_probability", "dynatemp_range"), _OFF),
    **dict.fromkeys(("top_a", "epsilon_cutoff", "eta_cutoff", "smoothing_factor", "penalty_alpha"), _OFF),
    "no_repeat_ngram_size": _OFF,
    "top_n_sigma": Refused((-1, 0)),
    "min_keep": Refused((0, 1)),
    "dynamic_temperature": _FALSE,
    "temperature_last": _FALSE,
    "penalize_nl": _FALSE,
    "do_sample": Refused((True,), "Send 'temperature': 0 for the likeliest tokens."),
    "negative_prompt": _NO_TEXT,
    **dict.fromkeys(("samplers", "sampler_order", "sampler_priority"), Refused()),
    **dict.fromkeys(("bad_words", "banned_strings", "banned_tokens", "logits_processors"), _NO_LIST),
    "custom_token_bans": _NO_TEXT,
    **dict.fromkeys(("allowed_token_ids", "custom_logit_processor"), Refused()),
    "best_of": _ONE,
    "use_beam_search": _FALSE,
    "num_beams": _ONE,
    "length_penalty": _ONE,
    **dict.fromkeys(("early_stopping", "watermark", "watermarking"), _FALSE),
    **dict.fromkeys(("mirostat_tau", "mirostat_eta", "dry_base", "dry_allowed_length"), Ignored()),
    **dict.fromkeys(("dry_penalty_last_n", "dry_sequence_breakers", "xtc_threshold"), Ignored()),
    **dict.fromkeys(("dynatemp_exponent", "dynatemp_low", "dynatemp_high", "smoothing_curve"), Ignored()),
}
"""How a token is chosen. The ignored ones only act beside a field that is refused."""

CONSTRAINTS: Fields = {
    **dict.fromkeys(("grammar", "grammar_string", "regex", "ebnf"), _NO_TEXT),
    **dict.fromkeys(("guided_choice", "guided_grammar", "guided_json", "guided_regex"), Refused()),
    "json_schema": Refused(({},)),
    "structured_outputs": Refused(),
}
"""With these, other servers constrain an answer; if they were ignored, the answers would violate the constraint."""

PROMPT: Fields = {
    "chat_template": Refused(),
    "chat_template_kwargs": Refused(({},)),
    "documents": _NO_LIST,
    **dict.fromkeys(("search_settings", "compound_custom"), Refused()),
    **dict.fromkeys(("include_domains", "exclude_domains"), _NO_LIST),
    **dict.fromkeys(("id_slot", "slot_id"), Ignored()),
    "cache_prompt": Refused((True,)),
}
"""What the model reads."""

REPLY: Fields = {
    "prompt_logprobs": Refused(),
    "logprob_token_ids": _NO_LIST,
    "n_probs": _OFF,
    **dict.fromkeys(("post_sampling_probs", "return_tokens", "return_token_ids"), _FALSE),
    "return_tokens_as_token_ids": _FALSE,
    "skip_special_tokens": Refused((True,)),
    **dict.fromkeys(("include_reasoning", "reasoning_format", "safety_identifier"), Ignored()),
    **dict.fromkeys(("prompt_cache_key", "prompt_cache_retention"), Ignored()),
}
"""What the reply holds beside the answer, and what only a hosted service does."""

EVERY_BODY: Fields = {**ADAPTERS, **LENGTH, **SAMPLING, **CONSTRAINTS, **PROMPT, **REPLY}

CHAT: Fields = {
    "max_completion_tokens": Honoured("max_tokens"),
    "n_predict": Honoured("max_tokens"),
    "max_new_tokens": Honoured("max_tokens"),
    "continue_final_message": Honoured(),
    "add_generation_prompt": Honoured(),
    "service_tier": Honoured(),
    "metadata": Ignored(),
    "add_special_tokens": _FALSE,
    "echo": _FALSE,
    "audio": Refused(),
    "function_call": Refused(("none", "auto")),
    "functions": _NO_LIST,
    "modalities": Refused((["text"],)),
    "moderation": Refused(),
    "prediction": Refused(),
    "reasoning_effort": Refused(("none", "minimal", "low", "medium", "high", "xhigh", "default")),
    "store": Refused((False, True)),
    "verbosity": Refused(("low", "medium", "high")),
    "web_search_options": Refused(),
}

COMPLETION: Fields = {
    "n_predict": Honoured("max_tokens"),
    "max_new_tokens": Honoured("max_tokens"),
    "add_special_tokens": Refused((True,)),
    "continue_final_message": _FALSE,
    "add_generation_prompt": Refused((True,)),
    "suffix": _NO_TEXT,
}

_OUTPUT_LIMIT = Refused(remedy="Send 'max_output_tokens'.")

RESPONSES: Fields = {
    **dict.fromkeys(("max_tokens", "max_completion_tokens", "max_new_tokens", "n_predict"), _OUTPUT_LIMIT),
    "service_tier": Honoured(),
    "reasoning": Ignored(),
    "background_options": Refused(({},)),
    "context_management": _NO_LIST,
    "continue_final_message": _FALSE,
    "add_generation_prompt": Refused((True,)),
    "conversation": Refused(),
    "image": Refused(({},)),
    "logprobs": _FALSE,
    "max_tool_calls": Refused(),
    "messages": Refused(),
    "moderation": Refused(),
    "n": _ONE,
    "prompt": Refused(),
    "response_format": Refused(remedy="Send 'text.format'."),
    "truncation": Refused(("disabled",)),
}
"""Some are a chat's names of fields that this API has under other names."""


def _inert(*tables: Fields) -> Inert:
    return {
        name: treatment.accepted
        for fields in tables
        for name, treatment in fields.items()
        if isinstance(treatment, Refused)
    }


CHAT_INERT = _inert(EVERY_BODY, CHAT)
COMPLETION_INERT = _inert(EVERY_BODY, COMPLETION)
RESPONSES_INERT = _inert(EVERY_BODY, RESPONSES)
"""The refused fields of each body, with their accepted values."""

REMEDIES: Mapping[str, str] = {
    name: treatment.remedy
    for fields in (EVERY_BODY, CHAT, COMPLETION, RESPONSES)
    for name, treatment in fields.items()
    if isinstance(treatment, Refused) and treatment.remedy
}
NAMES: Mapping[str, tuple[str, ...]] = {
    field: (field, *(name for name, same in {**EVERY_BODY, **CHAT}.items() if same == Honoured(field)))
    for field in ("max_tokens", "min_tokens", "repeat_penalty", "repeat_last_n")
}
"""The names of each field that has several, its own first."""
