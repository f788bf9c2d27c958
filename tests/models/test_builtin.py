"""The built-in base and adapters: present, small, clean, and measured on questions training never saw."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import llama_cpp
import pytest
from llama_cpp import Llama
from tokenizers import Tokenizer

from edgelora_models import builtin

RECIPE = Path(__file__).parents[2] / "models" / "recipe"
MAX_BYTES = 25_000_000
TEXTS = [
    "What is hypertension?",
    "hello  world   three spaces\n\nand a line\n",
    "It's 12345.67 o'clock, isn't it? WE'LL SEE.",
    "SELECT name FROM customers WHERE city = 'Paris';",
    "naïve café, Zürich, Größe, Ελληνικά, русский, 日本語, العربية, हिन्दी",
    "emoji 👩‍👩‍👧 and 🏴‍☠️, combining e\u0301, no-break\u00a0space, tab\there",
    "x\u2028y \u3000 z\r\n\r\n  end  ",
    "",
    " ",
    "{}[]()<>|&^%$#@!~`",
]
CHAT = (
    "<|start_header_id|>user<|end_header_id|>\n\nWhat is a cat?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(builtin.base_hf() / "tokenizer.json"))


@pytest.fixture(scope="module")
def vocabulary() -> Llama:
    return Llama(str(builtin.base_gguf()), vocab_only=True, verbose=False)


def test_everything_is_there() -> None:
    """Base in both forms, four adapters with both files, questions for each."""
    assert builtin.base_gguf().is_file()
    assert (builtin.base_hf() / "model.safetensors").is_file()
    assert set(builtin.adapters()) == {"medical-faq", "lumen-support", "pirate", "sql"}
    for name, folder in builtin.adapters().items():
        assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
        assert len(builtin.questions(name)) >= 100


def test_the_data_is_small() -> None:
    """The wheel carries it, so all of it stays under 25 MB."""
    files = [path for path in builtin.base_gguf().parent.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MAX_BYTES


def test_the_base_config_names_the_rope_both_ways() -> None:
    """transformers 5 reads rope_parameters; mlx-lm reads only rope_theta and rope_scaling."""
    config = json.loads((builtin.base_hf() / "config.json").read_text())
    rope = config["rope_parameters"]
    assert config["rope_theta"] == rope["rope_theta"]
    assert config["rope_scaling"] == {key: value for key, value in rope.items() if key != "rope_theta"}
    assert config["model_type"] == "llama"
    assert not config["tie_word_embeddings"]


def test_adapter_configs_name_the_base_and_no_machine() -> None:
    """No path of the training machine is shipped."""
    for folder in builtin.adapters().values():
        text = (folder / "adapter_config.json").read_text()
        config = json.loads(text)
        assert config["base_model_name_or_path"] == builtin.BASE_NAME
        assert config["peft_type"] == "LORA"
        assert "/root" not in text
        assert "/home" not in text


def test_the_adapters_differ_in_what_a_converter_must_get_right() -> None:
    """Ranks, module sets, rsLoRA, patterns and a bf16 file are all exercised by shipped adapters."""
    configs = [json.loads((folder / "adapter_config.json").read_text()) for folder in builtin.adapters().values()]
    assert len({config["r"] for config in configs}) >= 3
    assert len({tuple(config["target_modules"]) for config in configs}) == len(configs)
    assert any(config["use_rslora"] for config in configs)
    assert any(config["rank_pattern"] and config["alpha_pattern"] for config in configs)
    heads = [(folder / "adapter_model.safetensors").read_bytes()[:4096] for folder in builtin.adapters().values()]
    assert any(b'"BF16"' in head for head in heads)


def test_questions_of_an_unknown_adapter_are_a_key_error() -> None:
    """The error names what was asked for."""
    with pytest.raises(KeyError, match="nobody"):
        builtin.questions("nobody")


def test_questions_are_not_in_the_training_wordings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped questions are the recipe's held-out ones, and none of them was trained on."""
    monkeypatch.syspath_prepend(str(RECIPE))
    from adapter_sets import all_sets

    for adapter in all_sets():
        trained = {turn.question.lower() for turn in adapter.train}
        shipped = [(item.question, item.answer) for item in builtin.questions(adapter.name)]
        assert not [question for question, _ in shipped if question.lower() in trained]
        assert shipped == [(turn.question, turn.answer) for turn in adapter.test]
    for module in [name for name, loaded in sys.modules.items() if str(RECIPE) in str(getattr(loaded, "__file__", ""))]:
        del sys.modules[module]


@pytest.mark.parametrize("text", [*TEXTS, CHAT])
def test_gguf_and_hugging_face_tokenize_alike(tokenizer: Tokenizer, vocabulary: Llama, text: str) -> None:
    """llama.cpp's "llama-bpe" cuts text as tokenizer.json does, unicode and special tokens included."""
    wanted = tokenizer.encode(text, add_special_tokens=True).ids
    assert vocabulary.tokenize(text.encode(), add_bos=True, special=True) == wanted
    assert tokenizer.decode(wanted, skip_special_tokens=True) == tokenizer.decode(wanted[1:], skip_special_tokens=True)


def test_gguf_knows_the_end_of_a_turn(tokenizer: Tokenizer, vocabulary: Llama) -> None:
    """Begin, end-of-turn and end-of-generation tokens are what the chat format uses."""
    model_vocab = llama_cpp.llama_model_get_vocab(vocabulary.model)
    eot = tokenizer.token_to_id("<|eot_id|>")
    assert llama_cpp.llama_vocab_bos(model_vocab) == tokenizer.token_to_id("<|begin_of_text|>")
    assert llama_cpp.llama_vocab_eot(model_vocab) == eot
    for token in ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"):
        assert llama_cpp.llama_vocab_is_eog(model_vocab, tokenizer.token_to_id(token))


def test_gguf_carries_the_chat_template(vocabulary: Llama) -> None:
    """The same text as the Hugging Face folder's."""
    template = (builtin.base_hf() / "chat_template.jinja").read_text()
    assert vocabulary.metadata["tokenizer.chat_template"] == template
