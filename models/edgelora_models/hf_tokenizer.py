"""Tokens in id order and the chat template from a Hugging Face or MLX folder. Tokenises nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgelora_models.errors import BaseError
from edgelora_models.files import quoted, read_json, read_text

TOKENIZER_NAME = "tokenizer.json"
TOKENIZER_CONFIG_NAME = "tokenizer_config.json"
TEMPLATE_NAME = "chat_template.jinja"
MAX_TOKENIZER_BYTES = 128 << 20
"""Llama-3.1's has 17 MB."""
MAX_TEMPLATE_BYTES = 1 << 20

_REMEDY = "Fetch the base's tokenizer files again."


def read_tokens(folder: Path, vocab: int) -> list[str] | None:
    """Token strings in id order, `vocab` of them; None where the folder has no tokenizer.json.

    Ids without a token are `[PAD<id>]`, the name the GGUF converters give them. Raises BaseError.
    """
    path = folder / TOKENIZER_NAME
    if not path.exists():
        return None
    tokenizer = read_json(path, limit=MAX_TOKENIZER_BYTES, error=BaseError)
    by_id: dict[int, str] = {}
    for token, number in (*_model_tokens(tokenizer), *_added_tokens(tokenizer)):
        if not isinstance(token, str) or type(number) is not int or not 0 <= number < vocab:
            raise _bad(f"the token {quoted(str(token))} has the id {str(number)[:20]}, outside the base's {vocab} rows")
        by_id[number] = token
    return [by_id.get(number, f"[PAD{number}]") for number in range(vocab)]


def _model_tokens(tokenizer: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    model = tokenizer.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict):
        raise _bad("it has no model.vocab")
    return list(vocabulary.items())


def _added_tokens(tokenizer: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    added = tokenizer.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise _bad("its added_tokens are no list of objects")
    return [(token.get("content"), token.get("id")) for token in added]


def read_template(folder: Path) -> str | None:
    """Read the chat template as transformers picks it: chat_template.jinja, else the one in tokenizer_config.json.

    Where the latter lists several, the one named `default`. None where there is none. Raises BaseError.
    """
    path = folder / TEMPLATE_NAME
    if path.exists():
        text = read_text(path, limit=MAX_TEMPLATE_BYTES, error=BaseError)
        return text.replace("\r\n", "\n").replace("\r", "\n")
    path = folder / TOKENIZER_CONFIG_NAME
    if not path.exists():
        return None
    template = read_json(path, limit=MAX_TEMPLATE_BYTES * 8, error=BaseError).get("chat_template")
    if isinstance(template, list):
        named = [entry for entry in template if isinstance(entry, dict) and entry.get("name") == "default"]
        template = named[0].get("template") if named else None
    if template is not None and not isinstance(template, str):
        raise BaseError("base_corrupt", f"The chat_template in {TOKENIZER_CONFIG_NAME} is no text.", _REMEDY)
    return template


def _bad(what: str) -> BaseError:
    return BaseError("base_corrupt", f"{TOKENIZER_NAME} cannot be used: {what}.", _REMEDY)
