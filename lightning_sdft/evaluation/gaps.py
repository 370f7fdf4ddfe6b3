"""How much more often the teacher is right than the student, when both answer as in training: sampled.

A model that solves a task greedily may write noise at temperature 1. What the student learns are the teacher's words
after the student's own samples, so the gap between the two under the rollouts' own sampling says what can be learned.
[1] finds the final gain of such training to be linear in the gap before it.

[1] A predictive law for on-policy self-distillation, 2026, https://arxiv.org/abs/2605.30070 (as its abstract claims)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from lightning_sdft.grading.base import Grader
from lightning_sdft.grading.interval import Score, bootstrap
from lightning_sdft.policy import Policy
from lightning_sdft.records import Example, Message, Rollout, Sampling
from lightning_sdft.rollout import generate

__all__ = ["TEMPERATURES", "Asker", "Gap", "proposed"]

TEMPERATURES = (1.0, 0.7, 0.5, 0.3, 0.0)
"""What is tried, the highest first."""

MARGIN = 0.05
"""Gaps that differ by less are taken as equal, and then the higher temperature is better, since rollouts vary more."""


Verdicts = tuple[torch.Tensor, float]


@dataclass(frozen=True)
class Gap:
    """Accuracies of student and teacher under one way of sampling.

    Args:
        temperature: Temperature of the samples; 0 is greedy.
        template: Template of the teacher's prompt.
        student: Accuracy of the model without demonstration.
        teacher: Accuracy of the model that sees the demonstration.
        gain: Mean over questions of teacher minus student.
        truncated: Share of the answers of both that reached the length limit.
    """

    temperature: float
    template: str
    student: Score
    teacher: Score
    gain: Score
    truncated: float = 0.0


@dataclass
class Asker:
    """Asks a model the same questions in several ways.

    Args:
        policy: The model.
        examples: Questions with demonstration and reference.
        grader: Decides which answers are correct.
        teacher_messages: Makes the conversation that the teacher sees of an example, with a template.
        sampling: How training samples, apart from the temperature.
        max_completion_tokens: Length at which answers are truncated.
        batch_size: Prompts answered at once.
        seed: Seed of the samples.
        answered: Called with the number of answers after each batch.
    """

    policy: Policy
    examples: Sequence[Example]
    grader: Grader
    teacher_messages: Callable[[Example, str], list[Message]]
    sampling: Sampling
    max_completion_tokens: int
    batch_size: int = 8
    seed: int = 0
    answered: Callable[[int], None] | None = None

    def __post_init__(self) -> None:
        self._alone: dict[float, Verdicts] = {}

    def gap(self, temperature: float, template: str) -> Gap:
        """The gap at a temperature, with a template of the teacher's prompt."""
        if temperature not in self._alone:
            self._alone[temperature] = self._verdicts(lambda example: example.prompt, temperature)
        alone, cut_alone = self._alone[temperature]
        shown, cut_shown = self._verdicts(lambda example: self.teacher_messages(example, template), temperature)
        both = ~(alone.isnan() | shown.isnan())
        graded = (alone[~alone.isnan()], shown[~shown.isnan()], (shown - alone)[both])
        student, teacher, gain = (bootstrap([each]) for each in graded)
        return Gap(temperature, template, student, teacher, gain, (cut_alone + cut_shown) / 2)

    def _verdicts(self, messages: Callable[[Example], Sequence[Message]], temperature: float) -> Verdicts:
        """Ones, zeros, and NaN where an answer could not be graded, `(Q,)`, and the share of answers that were cut."""
        prompts = self.policy.tokenizer.encode_all([list(messages(example)) for example in self.examples])
        seeds = [self.seed * len(prompts) + index for index in range(len(prompts))]
        sampling, size = replace(self.sampling, temperature=temperature), self.batch_size
        rollouts: list[Rollout] = []
        for start in range(0, len(prompts), size):
            part = prompts[start : start + size]
            own = seeds[start : start + size]
            rollouts += generate(self.policy, part, self.max_completion_tokens, sampling, own)
            if self.answered is not None:
                self.answered(len(part))
        responses = [self.policy.tokenizer.answer(rollout.completion) for rollout in rollouts]
        verdicts = self.grader.grade_all(responses, [example.reference for example in self.examples])
        graded = torch.tensor([float("nan") if each is None else float(each) for each in verdicts])
        return graded, sum(not rollout.finished for rollout in rollouts) / max(len(rollouts), 1)

    def survey(self, temperature: float, template: str, templates: Sequence[str] = ()) -> list[Gap]:
        """Gaps at all temperatures with the template that is set, then with the other templates at the best of these.

        Args:
            temperature: The temperature that is set; it comes first.
            template: The template that is set.
            templates: Others to try.
        """
        gaps = [self.gap(each, template) for each in _temperatures(temperature)]
        best = proposed(gaps).temperature
        return [*gaps, *(self.gap(best, each) for each in templates if each != template)]

    def answers(self, temperature: float, template: str, templates: Sequence[str] = ()) -> int:
        """Number of answers that :meth:`survey` asks for."""
        ways = 2 * len(_temperatures(temperature)) + sum(each != template for each in templates)
        return ways * len(self.examples)


def _temperatures(first: float) -> Sequence[float]:
    return tuple(dict.fromkeys((first, *TEMPERATURES)))


def proposed(gaps: Sequence[Gap]) -> Gap:
    """The gap to train with: among those that are nearly the widest, the first at the highest temperature.

    Args:
        gaps: Gaps, of which the first is the one that is set.
    """
    widest = max(gap.gain.value for gap in gaps)
    good = [gap for gap in gaps if gap.gain.value >= widest - MARGIN]
    return max(good, key=lambda gap: gap.temperature)
