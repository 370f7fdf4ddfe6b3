"""Answers to prompts, outside of training: ``module.answer(prompts)``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from lightning.pytorch.utilities.seed import isolate_rng

from lightning_sdft.errors import DataError
from lightning_sdft.policy import Policy, Tokenizer
from lightning_sdft.records import GREEDY, Example, Message, Sampling
from lightning_sdft.rollout import respond
from lightning_sdft.settings import Count, Natural, check_ranges

__all__ = ["answer"]


class Asked(Protocol):
    """A module whose policy answers prompts."""

    policy: Policy
    tokenizer: Tokenizer
    max_completion_tokens: int

    def configure_model(self) -> None:
        """Load the models, unless they are there."""

    def prompt_problem(self, example: Example) -> str | None:
        """Why an example does not fit the prompt budget, or ``None``."""


def answer(
    self: Asked,
    prompts: str | Sequence[str | list[Message]],
    sampling: Sampling = GREEDY,
    seed: Natural = 0,
    batch_size: Count = 8,
) -> list[str]:
    """Answer prompts with the policy as it is now; the models are loaded if they are not yet.

    Nothing else of the module changes, nor do random number generators.

    Args:
        self: The module.
        prompts: Each a user's text, or a conversation that ends in a user turn; a single text is one prompt.
        sampling: How answers are sampled; greedily by default.
        seed: Seed of sampled answers.
        batch_size: Prompts answered at once.

    Returns:
        One answer a prompt, cut at ``max_completion_tokens``.

    Raises:
        DataError: If a prompt is empty, does not end in a user turn, or is over ``max_prompt_tokens``.
        SettingError: If a number is out of range.
    """
    check_ranges(answer, locals())
    given: list[Any] = [prompts] if isinstance(prompts, str) else list(prompts)
    examples = [
        Example(f"prompt {index}", [{"role": "user", "content": each}] if isinstance(each, str) else list(each))
        for index, each in enumerate(given)
    ]
    for example in examples:
        if (problem := self.prompt_problem(example)) is not None:
            raise DataError(f"{example.id}: {problem}; shorten it, or raise max_prompt_tokens")
    with isolate_rng():
        self.configure_model()
    encoded = self.tokenizer.encode_all([example.prompt for example in examples])
    seeds = [seed * len(examples) + index for index in range(len(examples))]
    return [
        self.tokenizer.decode(rollout.completion)
        for start in range(0, len(examples), batch_size)
        for rollout in respond(
            self.policy,
            encoded[start : start + batch_size],
            self.max_completion_tokens,
            sampling,
            seeds[start : start + batch_size],
        )
    ]
