"""The records that the package passes around: examples, token sequences, rollouts, and settings of sampling."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

import torch

from lightning_sdft.errors import DataError
from lightning_sdft.settings import Fraction, Natural, PositiveShare, Temperature, check_ranges

__all__ = [
    "GREEDY",
    "Content",
    "Example",
    "Image",
    "Message",
    "Prompt",
    "Rollout",
    "Sampling",
    "TokenSequence",
    "images_in",
    "text_of",
    "text_problem",
]

Content = str | list[dict[str, Any]]
"""What a turn says: text, or parts of Hugging Face's kind, which are texts and images in their order:
``{"type": "text", "text": ...}`` and ``{"type": "image", "image": path or PIL image}``."""


class Message(TypedDict):
    """One turn of a conversation; it may have further fields, such as ``tool_calls``, which the chat template reads."""

    role: str
    content: Content


@dataclass(frozen=True)
class Example:
    """A prompt with whatever is known about good answers to it.

    Args:
        id: Name of the example, unique within a data set and the same in every epoch and run.
        prompt: Chat messages, of which the last is a user turn.
        demonstration: An expert's response to this prompt, or ``None``.
        context: Text that only the teacher may see, such as the article that a question is about.
        reference: What the grader compares a response with; any JSON value.
        where: File and row that it is from, for error messages.

    Raises:
        DataError: If the prompt is empty or does not end in a user turn.
    """

    id: str
    prompt: list[Message]
    demonstration: str | None = None
    context: str | None = None
    reference: Any = None
    where: str = field(default="", compare=False, repr=False)

    def to(self, device: object, **kwargs: object) -> Example:
        """Return the example itself: Lightning moves every batch to the device, but examples hold no tensors."""
        return self

    def __post_init__(self) -> None:
        if not self.prompt:
            raise DataError(f"example {self.id!r}: the prompt has no messages; give at least one user turn")
        last = self.prompt[-1]
        if last["role"] != "user":
            raise DataError(
                f"example {self.id!r}: the conversation ends in a {last['role']!r} turn; it must end in a user turn, "
                "because the model writes the response (put a given response in the demonstration)"
            )
        if not text_of(last["content"]).strip():
            raise DataError(f"example {self.id!r}: the prompt is empty; write text in its last user turn")


@dataclass(frozen=True)
class Image:
    """An image in a prompt. Its pixels are read when a model reads the prompt, and are not kept.

    Args:
        source: Path of its file, or a PIL image.
        tokens: Number of tokens that stand for it.
    """

    source: Any
    tokens: int

    def __hash__(self) -> int:
        return hash(self.source if isinstance(self.source, str) else id(self.source))


class Prompt(list[int]):
    """Token ids of a prompt that has images, whose tokens it contains.

    It goes wherever the token ids of a prompt go. A model that reads images refuses one that has lost them.

    Args:
        tokens: The token ids.
        images: The images, in the order of their tokens.
    """

    def __init__(self, tokens: Iterable[int], images: Sequence[Image]) -> None:
        super().__init__(tokens)
        self.images = tuple(images)


@dataclass(frozen=True)
class TokenSequence:
    """A prompt and its completion, as token ids."""

    prompt: list[int]
    completion: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True)
class Sampling:
    """How tokens are sampled.

    Args:
        temperature: Logits are divided by it; 0 takes the most probable token (greedy), and others are from
            0.001 to 100.
        top_p: Sample only from the most probable tokens that together have this probability.
        top_k: Sample only from this many most probable tokens; 0 means all.
        min_p: Sample only from tokens whose probability is at least this fraction of the most probable token's.

    Raises:
        SettingError: If a value is out of range.
    """

    temperature: Temperature = 1.0
    top_p: PositiveShare = 1.0
    top_k: Natural = 0
    min_p: Fraction = 0.0

    def __post_init__(self) -> None:
        check_ranges(Sampling, vars(self))


GREEDY = Sampling(temperature=0.0)

torch.serialization.add_safe_globals([Sampling])  # checkpoints store it, and are loaded with weights_only=True


@dataclass(frozen=True)
class Rollout(TokenSequence):
    """A completion that a policy generated.

    Args:
        prompt: Token ids of the prompt.
        completion: Token ids of the completion, including the end token if it is finished.
        log_probabilities: The sampler's log-probability of each completion token.
        finished: Whether the completion ends with an end token; otherwise it was truncated.
    """

    log_probabilities: list[float]
    finished: bool


def images_in(messages: Sequence[Any]) -> list[Any]:
    """The sources of the images in a conversation, in their order."""
    parts = (part for each in messages if isinstance(each["content"], list) for part in each["content"])
    return [part["image"] for part in parts if part["type"] == "image"]


def text_of(content: Content) -> str:
    """What a turn says, as text; an image is the path of its file in brackets."""
    if isinstance(content, str):
        return content
    return "".join(part["text"] if part["type"] == "text" else f"[image {part['image']}] " for part in content)


def text_problem(value: object) -> str | None:
    """Why a text, or a text in lists and dictionaries, cannot be encoded, or ``None``."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            around = value[max(0, error.start - 10) : error.start + 10]
            return (
                f"its text contains half of a surrogate pair, which is no character, in {around!a}; write the "
                "character whole, or leave it out"
            )
    elif isinstance(value, Mapping):
        return text_problem([*value, *value.values()])
    elif isinstance(value, list | tuple):
        return next((problem for each in value if (problem := text_problem(each)) is not None), None)
    return None
