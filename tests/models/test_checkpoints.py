"""Which checkpoint a model's name means: mirrors are the same, fine-tunes are not, and paths tell nothing."""

from __future__ import annotations

import pytest

from edgelora_models.checkpoints import checkpoint, foreign_class, foreign_family, names_a_llama

INSTRUCT = "llama-3.1-8b-instruct"


@pytest.mark.parametrize(("name", "means"), [
    ("meta-llama/Llama-3.1-8B-Instruct", INSTRUCT),
    ("meta-llama/Meta-Llama-3.1-8B-Instruct", INSTRUCT),
    ("meta-llama/Meta-Llama-3.1-8B-Instruct-Reference", INSTRUCT),
    ("meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo", INSTRUCT),
    ("unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit", INSTRUCT),
    ("unsloth/llama-3.1-8b-instruct-unsloth-bnb-4bit", INSTRUCT),
    ("NousResearch/Meta-Llama-3.1-8B-Instruct", INSTRUCT),
    ("mlx-community/Meta-Llama-3.1-8B-Instruct-4bit", INSTRUCT),
    ("bartowski/Meta-Llama-3.1-8B-Instruct-GGUF", INSTRUCT),
    ("hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4", INSTRUCT),
    ("neuralmagic/Meta-Llama-3.1-8B-Instruct-quantized.w8a8", INSTRUCT),
    ("Llama 3.1 8B Instruct", INSTRUCT),
    ("llama3.1-8b-instruct", INSTRUCT),
    ("meta-llama/Llama-3.1-8B", "llama-3.1-8b"),
    ("meta-llama/Llama-2-7b-chat-hf", "llama-2-7b-chat"),
    ("NousResearch/Hermes-3-Llama-3.1-8B", "hermes-3-llama-3.1-8b"),
    ("edgelora-tiny", "edgelora-tiny"),
    ("/home/ada/llama", None),
    ("./out", None),
    ("~/models/llama", None),
    ("C:\\models\\llama", None),
    ("models/llama/8b", None),
    ("", None),
    (None, None),
])  # fmt: skip
def test_a_name_means_a_checkpoint(name: str | None, means: str | None) -> None:
    """Organization, spelling and the form the weights are stored in do not count."""
    assert checkpoint(name) == means


@pytest.mark.parametrize(("name", "family"), [
    ("mistralai/Mistral-7B-Instruct-v0.3", "mistral"),
    ("NousResearch/Nous-Hermes-2-Mistral-7B-DPO", "mistral"),
    ("mistralai/Mixtral-8x7B-v0.1", "mixtral"),
    ("Qwen/Qwen2.5-7B-Instruct", "qwen"),
    ("unsloth/qwen3-8b-bnb-4bit", "qwen"),
    ("google/gemma-2-9b-it", "gemma"),
    ("microsoft/phi-2", "phi"),
    ("openai-community/gpt2", "gpt2"),
    ("meta-llama/Llama-3.1-8B-Instruct", None),
    ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", None),
    ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", None),
    ("someone/Llama-3.1-8B-distilled-from-Qwen", None),
    ("lmsys/vicuna-7b-v1.5", None),
    ("someone/medical-8b", None),
    ("/home/mistral/out", None),
    (None, None),
])  # fmt: skip
def test_names_of_other_families(name: str | None, family: str | None) -> None:
    """A family's own word, unless a Llama's stands beside it; an organization's name and a path say nothing."""
    assert foreign_family(name) == family


@pytest.mark.parametrize(("name", "foreign"), [
    ("MistralForCausalLM", True),
    ("Qwen2ForCausalLM", True),
    ("LlamaForCausalLM", False),
    ("LlamaForSequenceClassification", False),
    ("GPT2LMHeadModel", True),
    ("Phi3ForCausalLM", True),
    ("MllamaForConditionalGeneration", True),
    ("Llama4ForCausalLM", True),
    ("LigerLlamaForCausalLM", False),
    ("PeftModelForCausalLM", False),
    ("AutoModelForCausalLM", False),
    ("OptimizedModule", False),
    ("FullyShardedDataParallel", False),
    ("MyTrainersOwn", False),
    (None, False),
])  # fmt: skip
def test_classes_of_other_families(name: str | None, foreign: bool) -> None:
    """transformers' class, which PEFT notes for some tasks; a wrapper's or a trainer's own tells nothing."""
    assert (foreign_class(name) is not None) is foreign


@pytest.mark.parametrize(("name", "tells"), [
    ("Meta Llama 3.1 8B Instruct", True),
    ("Llama-3.2-1B", True),
    ("Llama 3.1", False),
    ("LLaMA v2", False),
    ("8b instruct hf", False),
    ("models", False),
    ("/data/llama-3-8b/x", False),
    (None, False),
])  # fmt: skip
def test_names_in_a_file_that_tell_something(name: str | None, tells: bool) -> None:
    """Only a family with a size: a wrong guess would be a false warning."""
    assert names_a_llama(name) is tells
