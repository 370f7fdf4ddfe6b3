"""The tokens that end a response: those the model's files name, and the one that the chat template writes."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig

from lightning_sdft.errors import DataError
from lightning_sdft.policy.chat_template import ChatTemplate

__all__ = ["end_of_turn", "generation_config", "listed_stop_ids"]

ANSWER = "answerqz"
"""A text that no template writes by itself."""

MARK = re.compile(r"[<\[]\W*\w.*[>\]]")
"""What a token looks like that is not meant to be read."""


def generation_config(source: dict[str, Any]) -> GenerationConfig | None:
    """The generation config that comes with a model, or ``None``."""
    if "gguf_file" in source:
        return None
    try:
        return GenerationConfig.from_pretrained(source["pretrained_model_name_or_path"], **_local(source))
    except OSError:
        return None


def _local(source: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in source.items() if name == "local_files_only"}


def listed_stop_ids(source: dict[str, Any]) -> list[int]:
    """Ids of the tokens that end a response for transformers: from the generation config, else the model's config.

    Args:
        source: Arguments for ``from_pretrained`` that say where the model is.
    """
    config = generation_config(source)
    if config is None:
        try:
            content, _ = PreTrainedConfig.get_config_dict(**source)
        except OSError:
            return []
        config = GenerationConfig.from_model_config(content)
    stop = config.eos_token_id
    return [] if stop is None else [stop] if isinstance(stop, int) else list(stop)


def end_of_turn(tokenizer: Any, template: ChatTemplate, stop_ids: Collection[int]) -> int:
    """The token that the chat template writes behind an assistant turn, or else the end-of-sequence token.

    Args:
        tokenizer: The Hugging Face tokenizer.
        template: Its chat template.
        stop_ids: The other tokens that end a response.
    """
    question, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": ANSWER}
    for conversation, following in (([question, answer], False), ([question, answer, question], True)):
        tail = _behind_answer(template, conversation)
        for token in tokenizer(tail, add_special_tokens=False)["input_ids"]:
            # Where the template writes nothing but the beginning of the next turn, only a known end is one.
            if token in stop_ids or (not following and _is_mark(tokenizer, token, tail)):
                return int(token)
    end: int = tokenizer.eos_token_id
    return end


def _behind_answer(template: ChatTemplate, conversation: list[Any]) -> str:
    try:
        _, found, tail = template.text(conversation, prompt=False).rpartition(ANSWER)
    except DataError:
        return ""
    return tail if found else ""


def _is_mark(tokenizer: Any, token: int, text: str) -> bool:
    """Whether a token is one that nobody reads, and not the one for unknown words."""
    word = str(tokenizer.convert_ids_to_tokens(token))
    known = token in tokenizer.all_special_ids or token in tokenizer.added_tokens_decoder
    return word in text and not word.isspace() and (known or MARK.fullmatch(word) is not None)
