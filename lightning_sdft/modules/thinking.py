"""What thinking changes in a step: rollouts within a budget, and the part of them that is in the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lightning_sdft.distributed.processes import process_count
from lightning_sdft.errors import SettingError
from lightning_sdft.losses import TokenFocus
from lightning_sdft.policy.thinking import Thoughts
from lightning_sdft.records import Rollout, TokenSequence
from lightning_sdft.rollout import RolloutEngine

__all__ = ["Sample", "budgeted", "check_budget", "check_thinking", "in_loss"]


class Sample(Protocol):
    """Samples a completion of each prompt."""

    def __call__(self, *, prompts: Sequence[list[int]], max_tokens: int, seeds: Sequence[int]) -> list[Rollout]:
        """See :meth:`RolloutEngine.generate`."""


def check_budget(thoughts: Thoughts, limit: int) -> None:
    """Refuse a thinking budget that leaves nothing for the answer.

    Args:
        thoughts: Tells thinking from answers.
        limit: Number of tokens of the longest completion.

    Raises:
        SettingError: If it leaves nothing.
    """
    budget = thoughts.settings.max_tokens
    if budget is not None and budget + len(thoughts.closing) >= limit:
        raise SettingError(
            f"thinking.max_tokens={budget} leaves no token for the answer of max_completion_tokens={limit}, which is "
            "for both; raise max_completion_tokens, or lower thinking.max_tokens"
        )


def check_thinking(thoughts: Thoughts | None, focus: TokenFocus | None, engine: RolloutEngine) -> None:
    """Refuse settings of distillation that thinking does not go with.

    Args:
        thoughts: Tells thinking from answers, if the model thinks.
        focus: More weight for some tokens.
        engine: What samples rollouts.

    Raises:
        SettingError: If there are such settings.
    """
    if thoughts is None:
        return
    settings = thoughts.settings
    if settings.max_tokens is not None and not engine.exact:
        raise SettingError(
            f"thinking.max_tokens writes the end of the thinking itself, and engine={type(engine).__name__} needs the "
            "probability of each token; leave one of them out"
        )
    if settings.loss_on != "both" and focus is not None:
        raise SettingError(
            f"focus weighs the tokens of whole rollouts, and thinking.loss_on={settings.loss_on} takes a part of them; "
            "leave one of them out"
        )


def budgeted(
    sample: Sample, prompts: Sequence[list[int]], max_tokens: int, seeds: Sequence[int], thoughts: Thoughts | None
) -> list[Rollout]:
    """Sample completions, and end the thinking of those that are over its budget.

    All processes sample the same number of times, because sharded weights are gathered for it.

    Args:
        sample: Samples completions.
        prompts: Token ids of each prompt.
        max_tokens: Completions are truncated at this length.
        seeds: Random seed of each prompt.
        thoughts: Tells thinking from answers, if the model thinks.

    Returns:
        The completions. The end of thinking that was not sampled has the log-probability 0.
    """
    budget = None if thoughts is None else thoughts.settings.max_tokens
    if thoughts is None or budget is None:
        return sample(prompts=prompts, max_tokens=max_tokens, seeds=seeds)
    begun = sample(prompts=prompts, max_tokens=budget, seeds=seeds)
    for index, each in enumerate(begun):
        if not each.finished and thoughts.is_open(each.completion):
            scores = each.log_probabilities + [0.0] * len(thoughts.closing)
            begun[index] = Rollout(each.prompt, each.completion + thoughts.closing, scores, finished=False)
    going = [index for index, each in enumerate(begun) if not each.finished]
    if not going and process_count() == 1:
        return begun
    longer = [begun[index].prompt + begun[index].completion for index in going]
    rest = sample(
        prompts=longer or list(prompts[:1]),
        max_tokens=max_tokens - budget - len(thoughts.closing),
        seeds=[seeds[index] + 1 for index in going] or list(seeds[:1]),  # others, whose noise is not that of before
    )
    for index, each in zip(going, rest, strict=False):
        before = begun[index]
        scores = before.log_probabilities + each.log_probabilities
        begun[index] = Rollout(before.prompt, before.completion + each.completion, scores, each.finished)
    return begun


def in_loss(thoughts: Thoughts | None, sequences: Sequence[TokenSequence]) -> list[range]:
    """The places of the completion tokens of each sequence that are in the loss, before any are skipped."""
    if thoughts is None:
        return [range(len(each.completion)) for each in sequences]
    return [thoughts.in_loss(each.completion) for each in sequences]
