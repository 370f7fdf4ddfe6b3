"""The tokenizer of a policy, and where to find a pretrained model."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from lightning_sdft import zoo
from lightning_sdft.errors import DataError, PolicyError
from lightning_sdft.policy.chat_template import ChatTemplate
from lightning_sdft.policy.control_tokens import ControlTokens
from lightning_sdft.policy.end_of_turn import end_of_turn, generation_config, listed_stop_ids
from lightning_sdft.policy.images import ImageReader, load_image_reader
from lightning_sdft.policy.model_files import explaining, hub_problem
from lightning_sdft.policy.thinking import Thoughts
from lightning_sdft.records import images_in, text_problem
from lightning_sdft.storage.neighbours import neighbour_hint

__all__ = ["Tokenizer", "generation_config", "load_tokenizer", "pretrained_source", "refusing_code"]

HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
"""The name of a model of the hub, alone or behind its owner's."""


class Tokenizer:
    """Turns conversations into token ids with the model's chat template, and token ids into text.

    Text stays text: in a prompt, a demonstration, a teacher's prompt or an article, the name of a control token (such
    as ``<|im_end|>``) is encoded as the characters it consists of, and only the chat template writes control tokens.
    Where a tokenizer cannot do that, as those that know whole words only, the text is refused.

    A message's further fields are given to the chat template; those that say something, such as ``tool_calls``, are
    refused if it does not read them. If the template writes the date, it is that of :attr:`date`.

    Args:
        tokenizer: A Hugging Face tokenizer with a chat template and an end-of-sequence token.
        stop_ids: Token ids that end a response, in addition to the tokenizer's end-of-sequence token and to the token
            that the chat template writes behind an assistant turn.
        template_arguments: Values of variables that the chat template reads, such as ``{"enable_thinking": False}``.
            They become the template's defaults, also in a saved tokenizer.
        images: Reads the images of prompts, if the model sees any.

    Attributes:
        thoughts: Tells the thinking in responses from the answers, if the model thinks.

    Raises:
        PolicyError: If the tokenizer has no chat template or no end-of-sequence token, or if the template does not read
            an argument.
    """

    def __init__(
        self,
        tokenizer: Any,
        stop_ids: Sequence[int] = (),
        template_arguments: Mapping[str, Any] | None = None,
        images: ImageReader | None = None,
    ) -> None:
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
        self.images = images
        self.template = ChatTemplate(tokenizer, template_arguments)
        self.stop_ids = {tokenizer.eos_token_id, *stop_ids}
        self.pad_id: int = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self.end_id = end_of_turn(tokenizer, self.template, self.stop_ids)
        self.stop_ids.add(self.end_id)
        self.thoughts: Thoughts | None = None
        self._control = ControlTokens(tokenizer, self.template, {tokenizer.eos_token_id, self.end_id})

    @cached_property
    def known_ids(self) -> frozenset[int]:
        """The ids of all its tokens."""
        return frozenset(self.hugging_face.get_vocab().values())

    @property
    def date(self) -> str | None:
        """The date and time that the chat template writes, as ISO 8601; ``None`` if it writes none.

        It is that of the object's making, until it is set.
        """
        return self.template.date

    @date.setter
    def date(self, date: str | None) -> None:
        if self.template.date is not None and date is not None:
            self.template.date = date

    def encode(self, messages: Sequence[Any], prompt: bool = True) -> list[int]:
        """Token ids of a conversation.

        Args:
            messages: The conversation.
            prompt: Whether they end where the assistant's response begins; otherwise where the last turn ends.

        Raises:
            DataError: If the chat template or the tokenizer refuses the conversation.
        """
        (ids,) = self.encode_all([messages], prompt)
        return ids

    def encode_all(self, conversations: Sequence[Sequence[Any]], prompt: bool = True) -> list[list[int]]:
        """Same as :meth:`encode` for several conversations, in half the time."""
        if not conversations:
            return []
        if self.images is None and any(map(images_in, conversations)):
            raise DataError(
                f"the prompt has an image, which {self.hugging_face.name_or_path!r} cannot see; train a model of "
                "Qwen2.5-VL's kind, or leave images out"
            )
        texts = [self.template.text(each, prompt) for each in conversations]
        with _refusing_surrogates(conversations):
            encoded: list[list[int]] = self.hugging_face(texts, add_special_tokens=False)["input_ids"]
        for index, conversation in enumerate(conversations):
            if self._control.named_in(conversation) is not None:
                encoded[index] = self._control.encode_conversation(conversation, prompt)
        if self.images is not None:
            return list(map(self.images.expanded, encoded, conversations))
        return encoded

    def encode_completion(self, text: str) -> list[int]:
        """Token ids of a response, including the token that ends it.

        Where the chat template opens the thinking, and the response is an answer alone, the end of the thinking stands
        before it.

        Raises:
            DataError: If the tokenizer refuses the text.
        """
        before = [] if self.thoughts is None else self.thoughts.before(text)
        return [*before, *self._encode(text), self.end_id]

    def encode_text(self, text: str) -> list[int]:
        """Token ids of a text that is no part of a conversation, with what the tokenizer adds to texts.

        Raises:
            DataError: If the tokenizer refuses the text.
        """
        if self._control.named_in(text) is None:
            with _refusing_surrogates([text]):
                return list(self.hugging_face(text)["input_ids"])
        word = self._encode("x")
        added: list[int] = self.hugging_face("x")["input_ids"]
        begin = next(index for index in range(len(added)) if added[index : index + len(word)] == word)
        return [*added[:begin], *self._encode(text), *added[begin + len(word) :]]

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of token ids, without special tokens.

        The text is as the tokens say it: some tokenizers, Llama 3's among them, ask that spaces before punctuation be
        taken out of it, which changes code, JSON and names of tools.
        """
        text: str = self.hugging_face.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def answer(self, tokens: Sequence[int]) -> str:
        """Text of a response without its thinking, as graders see it; with :attr:`thoughts` unset it is all of it."""
        return self.decode(tokens if self.thoughts is None else tokens[self.thoughts.end(tokens) :])

    def save_pretrained(self, folder: str | Path) -> None:
        """Write its files, and those of the processor of images if there is one."""
        self.hugging_face.save_pretrained(folder)
        if self.images is not None:
            self.images.save(folder)

    def served_stop_ids(self, listed: int | list[int] | None) -> int | list[int] | None:
        """The ends of a response for a generation config: those that it lists, and the others that are ends here."""
        known = [] if listed is None else [listed] if isinstance(listed, int) else list(listed)
        others = sorted(self.stop_ids.difference(known))
        return [*known, *others] if others else listed

    def _encode(self, text: str) -> list[int]:
        with _refusing_surrogates([text]):
            return self._control.encode(text)


@contextmanager
def _refusing_surrogates(texts: Sequence[Any]) -> Iterator[None]:
    """Turn a tokenizer's error about half of a surrogate pair into one that says what is wrong."""
    try:
        yield
    except (TypeError, UnicodeError) as error:
        problem = text_problem(list(texts))
        if problem is None:
            raise
        raise DataError(problem) from error


def load_tokenizer(
    name: str, trust_remote_code: bool = False, template_arguments: Mapping[str, Any] | None = None
) -> Tokenizer:
    """Load the tokenizer of a model.

    Args:
        name: See :meth:`Policy.load`.
        trust_remote_code: See :meth:`Policy.load`.
        template_arguments: See :class:`Tokenizer`.

    Raises:
        PolicyError: If files are missing or broken; see also :class:`Tokenizer`.
    """
    source = pretrained_source(name)
    options = {**source, "trust_remote_code": trust_remote_code}
    with explaining(name, source), refusing_code(name):
        tokenizer = AutoTokenizer.from_pretrained(**options)
        images = load_image_reader(source, trust_remote_code)
    return Tokenizer(tokenizer, listed_stop_ids(source), template_arguments, images)


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


def pretrained_source(name: str) -> dict[str, Any]:
    """Arguments for ``from_pretrained`` that say where the model is.

    Raises:
        PolicyError: If there is no such folder or file and the name is none of the hub's, or if packages are missing.
    """
    path = zoo.folder(name) if name.startswith(zoo.PREFIX) else Path(name)
    if path.suffix == ".gguf":
        if not path.is_file():
            beside = neighbour_hint(path, lambda each: each.suffix == ".gguf")
            raise PolicyError(f"there is no GGUF file {name!r}{beside}; give the path of one")
        if None in (find_spec("gguf"), find_spec("accelerate")):
            raise PolicyError(f"reading {name!r} needs more packages: pip install 'lightning-sdft[gguf]'")
        return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    if path.is_dir():
        return {"pretrained_model_name_or_path": str(path)}
    if path.exists():
        raise PolicyError(f"{name!r} is a file; name the folder of a Hugging Face model, or a .gguf file")
    if not HUB_ID.fullmatch(name):
        beside = neighbour_hint(path, lambda each: each.suffix == ".gguf" or (each / "config.json").is_file())
        raise PolicyError(
            f"there is no model in {name!r}, for there is no such folder{beside}; name a Hugging Face folder, a "
            ".gguf file, or a model of the hub (such as HuggingFaceTB/SmolLM2-135M-Instruct)"
        )
    local = {} if hub_problem() is None else {"local_files_only": True}
    return {"pretrained_model_name_or_path": name, **local}
