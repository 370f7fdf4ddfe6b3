"""The tokenizer of a policy, and where to find a pretrained model."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, GenerationConfig

from lightning_sdft import zoo
from lightning_sdft.errors import PolicyError

__all__ = ["Tokenizer", "generation_config", "load_tokenizer", "pretrained_source", "refusing_code"]


class Tokenizer:
    """Turns conversations into token ids with the model's chat template, and token ids into text.

    Args:
        tokenizer: A Hugging Face tokenizer with a chat template and an end-of-sequence token.
        stop_ids: Token ids that end a response, in addition to the tokenizer's end-of-sequence token.

    Raises:
        PolicyError: If the tokenizer has no chat template or no end-of-sequence token.
    """

    def __init__(self, tokenizer: Any, stop_ids: Sequence[int] = ()) -> None:
        name = tokenizer.name_or_path
        if not tokenizer.chat_template:
            raise PolicyError(
                f"the tokenizer of {name!r} has no chat template, so prompts cannot be formatted; use an instruction-"
                "tuned model, or set tokenizer.chat_template and save the tokenizer beside the model"
            )
        if tokenizer.eos_token_id is None:
            raise PolicyError(
                f"the tokenizer of {name!r} has no end-of-sequence token, so a response could never end; set "
                "tokenizer.eos_token and save the tokenizer beside the model"
            )
        self.hugging_face = tokenizer
        self.stop_ids = {tokenizer.eos_token_id, *stop_ids}
        self.pad_id: int = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self.end_id = self._end_of_turn()

    def encode(self, messages: Sequence[Any]) -> list[int]:
        """Token ids of a conversation as a prompt: everything up to where the assistant's response begins."""
        return self._render(list(messages), add_generation_prompt=True)

    def encode_all(self, conversations: Sequence[Sequence[Any]]) -> list[list[int]]:
        """Same as :meth:`encode` for several conversations, in half the time."""
        if not conversations:
            return []
        return self._render([list(each) for each in conversations], add_generation_prompt=True)

    def encode_completion(self, text: str) -> list[int]:
        """Token ids of a response, including the token that ends it."""
        return [*self.hugging_face(text, add_special_tokens=False)["input_ids"], self.end_id]

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of token ids, without special tokens."""
        text: str = self.hugging_face.decode(list(tokens), skip_special_tokens=True)
        return text

    def _render(self, conversation: list[Any], **options: Any) -> list[Any]:
        encoding = self.hugging_face.apply_chat_template(conversation, tokenize=True, return_dict=True, **options)
        return list(encoding["input_ids"])

    def _end_of_turn(self) -> int:
        """The token with which the chat template ends an assistant turn (in Gemma, not the end-of-sequence token)."""
        question = [{"role": "user", "content": "a"}]
        rendered: list[int] = self._render([*question, {"role": "assistant", "content": "a"}])
        response = rendered[len(self.encode(question)) :]
        return next((token for token in reversed(response) if token in self.stop_ids), self.hugging_face.eos_token_id)


def load_tokenizer(name: str, trust_remote_code: bool = False) -> Tokenizer:
    """Load the tokenizer of a model.

    Args:
        name: See :meth:`Policy.load`.
        trust_remote_code: See :meth:`Policy.load`.

    Raises:
        PolicyError: If the tokenizer has no chat template or no end-of-sequence token.
    """
    source = pretrained_source(name)
    options = {**source, "trust_remote_code": trust_remote_code}
    with refusing_code(name):
        tokenizer = AutoTokenizer.from_pretrained(**options)
    return Tokenizer(tokenizer, _stop_ids(source))


@contextmanager
def refusing_code(name: str) -> Iterator[None]:
    """Turn transformers' refusal to run a model's code into an error that says what to do.

    Args:
        name: The model that is loaded inside this context.

    Raises:
        PolicyError: If the model needs code that comes with it, or if its weights are pickles that hold more than data.
    """
    try:
        yield
    except pickle.UnpicklingError:
        raise PolicyError(
            f"the weights of {name!r} are a pickle that holds more than data, and reading it would run code of "
            "whoever made it; nothing was run. Use the model's safetensors files"
        ) from None
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise PolicyError(
            f"{name!r} needs code that comes with it to be loaded; none of it was run. Read that code, and if you "
            "trust it, add trust_remote_code=true to the command line"
        ) from None


def pretrained_source(name: str) -> dict[str, str]:
    """Arguments for ``from_pretrained`` that say where the model is."""
    path = zoo.folder(name) if name.startswith(zoo.PREFIX) else Path(name)
    if path.suffix != ".gguf":
        return {"pretrained_model_name_or_path": str(path) if path.exists() else name}
    if not path.is_file():
        raise PolicyError(f"there is no GGUF file {name!r}")
    return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}


def generation_config(source: dict[str, str]) -> GenerationConfig | None:
    """The generation config that comes with a model, or ``None``."""
    if "gguf_file" in source:
        return None
    try:
        return GenerationConfig.from_pretrained(source["pretrained_model_name_or_path"])
    except OSError:
        return None


def _stop_ids(source: dict[str, str]) -> list[int]:
    """Token ids that end a response according to the model's generation config; empty if it has none."""
    config = generation_config(source)
    stop = None if config is None else config.eos_token_id
    return [] if stop is None else [stop] if isinstance(stop, int) else list(stop)
