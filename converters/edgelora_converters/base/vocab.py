"""The `tokenizer.` keys of a GGUF base. Owns their writing; what may be written is decided by `base_tokenizer`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgelora_converters.base.tokenizer import Vocabulary

if TYPE_CHECKING:
    from gguf import GGUFWriter


def add_vocabulary(writer: GGUFWriter, vocabulary: Vocabulary) -> None:
    """Add all keys of the tokenizer and the chat template. The order is part of the file's bytes."""
    special = vocabulary.special
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    writer.add_bos_token_id(special.bos)
    writer.add_eos_token_id(special.eos)
    if special.eot is not None:
        writer.add_eot_token_id(special.eot)
    if special.eom is not None:
        writer.add_eom_token_id(special.eom)
    if special.pad is not None:
        writer.add_pad_token_id(special.pad)
    writer.add_add_bos_token(vocabulary.add_bos)
    if vocabulary.add_eos:
        writer.add_add_eos_token(True)
    if vocabulary.template:
        writer.add_chat_template(vocabulary.template)
