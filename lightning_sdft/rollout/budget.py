"""Completions within a thinking budget: whoever has a model answer, in a step or beside it, does it here."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

from lightning_sdft.distributed.processes import process_count
from lightning_sdft.policy import Policy
from lightning_sdft.policy.thinking import Thoughts
from lightning_sdft.records import Rollout, Sampling
from lightning_sdft.rollout.in_process import generate, generate_ways

__all__ = ["Sample", "budgeted", "respond", "respond_ways"]


class Sample(Protocol):
    """Samples a completion of each prompt."""

    def __call__(self, *, prompts: Sequence[list[int]], max_tokens: int, seeds: Sequence[int]) -> list[Rollout]:
        """See :meth:`RolloutEngine.generate`."""


def respond(
    policy: Policy, prompts: Sequence[list[int]], max_tokens: int, sampling: Sampling, seeds: Sequence[int]
) -> list[Rollout]:
    """Answer prompts as evaluation does: :func:`generate`, within the thinking budget of the policy's tokenizer.

    Args:
        policy: The policy that answers.
        prompts: Token ids of each prompt.
        max_tokens: Answers are truncated at this length, their thinking included.
        sampling: Settings of sampling.
        seeds: Random seed of each prompt.
    """
    sample = partial(generate, policy, sampling=sampling)
    return budgeted(sample, prompts, max_tokens, seeds, policy.tokenizer.thoughts)


def respond_ways(
    policy: Policy,
    prompts: Sequence[list[int]],
    max_tokens: int,
    ways: Sequence[tuple[Sampling, int]],
    seeds: Sequence[int],
) -> list[list[Rollout]]:
    """Answer the same prompts in several ways, for which they are read once if there is no thinking budget.

    The arguments are those of :func:`generate_ways`.
    """
    thoughts = policy.tokenizer.thoughts
    if thoughts is None or thoughts.settings.max_tokens is None:
        return generate_ways(policy, prompts, max_tokens, ways, seeds)
    return [respond(policy, prompts[:count], max_tokens, sampling, seeds[:count]) for sampling, count in ways]


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
