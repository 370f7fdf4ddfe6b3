"""Who writes the completions that a distillation trains on.

[1] Agarwal et al., On-Policy Distillation of Language Models, 2023, https://arxiv.org/abs/2306.13649
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from lightning.pytorch.utilities import rank_zero_info

from lightning_sdft.data.groups import repeated
from lightning_sdft.losses.target import ramp
from lightning_sdft.policy import Policy, Tokenizer
from lightning_sdft.records import Example, Rollout, TokenSequence
from lightning_sdft.rollout import RolloutEngine
from lightning_sdft.settings import Count, PositiveShare, Share, check_ranges

__all__ = ["RolloutSource", "TeacherShare", "continued", "demonstrated", "say_of_rows", "source_problem"]

RolloutSource = Literal["student", "teacher", "demonstration"]


@dataclass(frozen=True)
class TeacherShare:
    """The share of the rollouts of an optimizer step that the teacher writes, shown what only it sees; compare [1].

    A student that cannot do the task yet writes little that a teacher could set right. The share falls in a straight
    line, so that in the end all rollouts are the student's own. Of the B examples of a process the teacher answers
    `round(share B)`.

    Args:
        start: The share at the first step.
        end: The share from then on.
        steps: Optimizer steps until ``end`` is reached.

    Raises:
        SettingError: If a share is not within [0, 1], or ``steps`` not positive.
    """

    start: PositiveShare = 0.5
    end: Share = 0.0
    steps: Count = 100

    def __post_init__(self) -> None:
        check_ranges(TeacherShare, vars(self))

    def count(self, examples: int, step: int) -> int:
        """How many of the examples of an optimizer step the teacher answers."""
        return round(ramp(self.start, self.end, self.steps, step) * examples)


torch.serialization.add_safe_globals([TeacherShare])  # checkpoints store it, and are loaded with weights_only=True


def source_problem(
    source: RolloutSource, share: TeacherShare | None, engine: RolloutEngine | None, generations: int
) -> str | None:
    """Why rollouts cannot come from there, or ``None``."""
    if generations > 1 and source == "demonstration":
        return (
            f"an example has one demonstration, and generations={generations} would be copies of it; leave generations "
            "out, or take rollout_source=student or teacher"
        )
    if engine is not None and source != "student":
        return (
            f"engine={type(engine).__name__} samples from the student, but rollout_source={source}; leave engine out, "
            "or take rollout_source=student"
        )
    if share is not None and source != "student":
        return (
            f"teacher_share is what the teacher writes beside the student, but rollout_source={source}; leave one out"
        )
    if share is not None and engine is not None and not engine.exact:
        return (
            "importance weights are for tokens that the student wrote, and with teacher_share the teacher writes some; "
            f"leave out teacher_share or engine={type(engine).__name__}"
        )
    return None


def demonstrated(example: Example, tokenizer: Tokenizer) -> Rollout:
    """The demonstration in a rollout's place."""
    completion = tokenizer.encode_completion(example.demonstration or "")
    return Rollout(tokenizer.encode(example.prompt), completion, [0.0] * len(completion), finished=True)


def continued(prompts: Sequence[list[int]], rollouts: Sequence[Rollout]) -> list[TokenSequence]:
    """Prompts with the completions of rollouts: each prompt with equally many, which follow one another."""
    each = len(rollouts) // max(len(prompts), 1)
    completions = (rollout.completion for rollout in rollouts)
    return [TokenSequence(*pair) for pair in zip(repeated(prompts, each), completions, strict=True)]


def say_of_rows(*policies: Policy) -> None:
    """Say of a model that cannot read a tree that it reads a prompt once for each of its completions."""
    for model in {type(policy.model).__name__ for policy in policies if not policy.reads_trees}:
        rank_zero_info(f"{model} cannot read several completions of a prompt as a tree: each is a row with its prompt.")
