"""Where a model's thinking ends and its answer begins, in responses such as `<think>Hm.</think>Yes`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from lightning_sdft.errors import PolicyError
from lightning_sdft.policy.chat_template import ChatTemplate
from lightning_sdft.settings import Count, check_ranges

__all__ = ["Thinking", "Thoughts"]


@dataclass(frozen=True)
class Thinking:
    """How a model is treated that thinks before it answers.

    Graders see the answer alone. Whether the model thinks is said by its chat template, see ``template_arguments``. A
    demonstration without thinking is an answer: where the template opens the thinking, ``closing`` stands before it.

    Args:
        max_tokens: Thinking budget: a response that still thinks after so many tokens is given ``closing`` and goes on
            with its answer, for which the rest of ``max_completion_tokens`` is left. By default there is none. It holds
            for rollouts and for evaluation.
        loss_on: The part of a response that is in the loss: ``thinking`` up to the end of ``closing``, the ``answer``
            behind it, or ``both``. Tokens that are skipped are the first of that part.
        opening: What begins the thinking; the response itself or the chat template writes it.
        closing: What ends it.

    Raises:
        SettingError: If ``max_tokens`` is less than 1.
    """

    max_tokens: Count | None = None
    loss_on: Literal["both", "thinking", "answer"] = "both"
    opening: str = "<think>"
    closing: str = "</think>"

    def __post_init__(self) -> None:
        check_ranges(Thinking, vars(self))


torch.serialization.add_safe_globals([Thinking])  # checkpoints store it, and are loaded with weights_only=True


class Thoughts:
    """Tells the thinking in a model's responses from the answers.

    Args:
        settings: The settings.
        tokenizer: The model's Hugging Face tokenizer.
        template: Its chat template.

    Attributes:
        closing: Token ids of what ends the thinking.
        begun: Whether a response begins inside the thinking, because the chat template opens it.

    Raises:
        PolicyError: If the tokenizer cannot write what ends the thinking.
    """

    def __init__(self, settings: Thinking, tokenizer: Any, template: ChatTemplate) -> None:
        self.settings = settings
        self._tokenizer = tokenizer
        self.closing: list[int] = tokenizer(settings.closing, add_special_tokens=False)["input_ids"]
        if settings.closing not in self._text(self.closing):
            raise PolicyError(
                f"thinking.closing={settings.closing!r} is no text that the tokenizer of "
                f"{tokenizer.name_or_path!r} can write; give what ends the thinking of this model"
            )
        prompt = template.text([{"role": "user", "content": "a"}])
        self.begun = prompt.rfind(settings.opening) > prompt.rfind(settings.closing)

    def end(self, completion: Sequence[int]) -> int:
        """Number of leading tokens of a response that are thinking, with what ends it; all of them if nothing does."""
        closing = self.settings.closing
        if closing not in self._text(completion):
            return len(completion) if self.thinks(completion) else 0
        low, high = 0, len(completion)  # the end is behind the first, and not behind the second
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if closing in self._text(completion[:middle]) else (middle, high)
        return high

    def thinks(self, completion: Sequence[int]) -> bool:
        """Whether a response begins with thinking."""
        return self.begun or self._text(completion).lstrip().startswith(self.settings.opening)

    def is_open(self, completion: Sequence[int]) -> bool:
        """Whether a response has begun to think and not come to its end."""
        return self.thinks(completion) and self.settings.closing not in self._text(completion)

    def before(self, text: str) -> list[int]:
        """Token ids of the end of the thinking, if a given response does not have it where it should."""
        return self.closing if self.begun and self.settings.closing not in text else []

    def in_loss(self, completion: Sequence[int]) -> range:
        """The places of the tokens of a response that are in the loss."""
        end = self.end(completion) if self.settings.loss_on != "both" else 0
        return range(end) if self.settings.loss_on == "thinking" else range(end, len(completion))

    def _text(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text
