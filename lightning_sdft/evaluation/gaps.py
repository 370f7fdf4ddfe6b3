"""How much more often the teacher is right than the student, when both answer as in training: sampled.

A model that solves a task greedily may write noise at temperature 1. What the student learns are the teacher's words
after the student's own samples, so the gap between the two under the rollouts' own sampling says what can be learned.
[1] finds the final gain of such training to be linear in the gap before it.

[1] A predictive law for on-policy self-distillation, 2026, https://arxiv.org/abs/2605.30070 (as its abstract claims)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil

import torch

from lightning_sdft.grading.base import Grader
from lightning_sdft.grading.interval import Score, bootstrap
from lightning_sdft.policy import Policy
from lightning_sdft.records import Example, Message, Rollout, Sampling
from lightning_sdft.rollout import respond

__all__ = ["TEMPERATURES", "Asker", "Gap", "closeness", "proposed", "verdicts"]

TEMPERATURES = (1.0, 0.7, 0.5, 0.3, 0.0)
"""What is tried, the highest first."""

MARGIN = 0.05
"""Gaps that differ by less are taken as equal, and then the higher temperature is better, since rollouts vary more."""

FEW = 16
"""Questions that are asked in all ways; the way that is set and the best of the others are asked the rest, too."""

NEARLY_ALL = 0.95


@dataclass(frozen=True)
class _Answers:
    """Answers to all questions.

    Args:
        right: How right each is, `(Q,)`; NaN where it could not be graded.
        lengths: Their numbers of tokens.
        cut: How many reached the length limit.
    """

    right: torch.Tensor
    lengths: Sequence[int]
    cut: int


@dataclass(frozen=True)
class Gap:
    """Accuracies of student and teacher under one way of sampling.

    Args:
        temperature: Temperature of the samples; 0 is greedy.
        template: Template of the teacher's prompt.
        student: Accuracy of the model without demonstration.
        teacher: Accuracy of the model that sees the demonstration, or what else the teacher is shown.
        gain: Mean over questions of teacher minus student.
        truncated: Share of the answers of both that reached the length limit.
        tokens: Number of tokens that 95% of the answers of both do not exceed.
        questions: Number of questions.
    """

    temperature: float
    template: str
    student: Score
    teacher: Score
    gain: Score
    truncated: float = 0.0
    tokens: int = 0
    questions: int = 0


@dataclass
class Asker:
    """Asks a model the same questions in several ways.

    Args:
        policy: The model.
        examples: Questions with demonstration and reference.
        grader: Decides which answers are correct; without one they are measured by their :func:`closeness` to the
            demonstrations.
        teacher_messages: Makes the conversation that the teacher sees of an example, with a template.
        sampling: How training samples, apart from the temperature.
        max_completion_tokens: Length at which answers are truncated.
        batch_size: Prompts answered at once.
        seed: Seed of the samples.
        answered: Called with the number of answers after each batch.
    """

    policy: Policy
    examples: Sequence[Example]
    grader: Grader | None
    teacher_messages: Callable[[Example, str], list[Message]]
    sampling: Sampling
    max_completion_tokens: int
    batch_size: int = 8
    seed: int = 0
    answered: Callable[[int], None] | None = None

    def __post_init__(self) -> None:
        self._alone: dict[float, _Answers] = {}
        self._gaps: dict[tuple[float, str], Gap] = {}

    def gap(self, temperature: float, template: str) -> Gap:
        """The gap at a temperature, with a template of the teacher's prompt; what was asked is not asked again."""
        if (temperature, template) not in self._gaps:
            self._gaps[temperature, template] = self._gap(temperature, template)
        return self._gaps[temperature, template]

    def _gap(self, temperature: float, template: str) -> Gap:
        if temperature not in self._alone:
            self._alone[temperature] = self._answers([example.prompt for example in self.examples], temperature)
        alone = self._alone[temperature]
        shown = self._answers(self.shown(temperature, template), temperature)
        both = ~(alone.right.isnan() | shown.right.isnan())
        given = (*(each.right[~each.right.isnan()] for each in (alone, shown)), (shown.right - alone.right)[both])
        student, teacher, gain = (bootstrap([each]) for each in given)
        lengths = sorted([*alone.lengths, *shown.lengths])
        nearly_all = lengths[ceil(NEARLY_ALL * len(lengths)) - 1]
        cut = (alone.cut + shown.cut) / len(lengths)
        return Gap(temperature, template, student, teacher, gain, cut, nearly_all, len(self.examples))

    def shown(self, temperature: float, template: str) -> list[Sequence[Message]]:
        """The conversations that the teacher sees."""
        return [self.teacher_messages(example, template) for example in self.examples]

    def _answers(self, conversations: Sequence[Sequence[Message]], temperature: float) -> _Answers:
        prompts = self.policy.tokenizer.encode_all([list(each) for each in conversations])
        seeds = [self.seed * len(prompts) + index for index in range(len(prompts))]
        sampling, size = replace(self.sampling, temperature=temperature), self.batch_size
        rollouts: list[Rollout] = []
        for start in range(0, len(prompts), size):
            part = prompts[start : start + size]
            own = seeds[start : start + size]
            rollouts += respond(self.policy, part, self.max_completion_tokens, sampling, own)
            if self.answered is not None:
                self.answered(len(part))
        responses = [self.policy.tokenizer.answer(rollout.completion) for rollout in rollouts]
        lengths = [len(rollout.completion) for rollout in rollouts]
        cut = sum(not rollout.finished for rollout in rollouts)
        return _Answers(verdicts(self.grader, responses, self.examples), lengths, cut)

    def survey(self, temperature: float, template: str, templates: Sequence[str] = ()) -> list[Gap]:
        """The gap as it is set, and the widest that is found, each over all questions; between them all others.

        The first few questions are asked with all templates greedily, and then with the best of them at one temperature
        after another, from the highest down, until the gap is as wide as the greedy one. So the gap that is proposed is
        measured on questions by which it was not chosen, too.

        Args:
            temperature: The temperature that is set; it comes first.
            template: The template that is set.
            templates: Others to try.
        """
        few = replace(self, examples=self.examples[:FEW])
        as_set = few.gap(temperature, template)
        greedy = [few.gap(0.0, each) for each in dict.fromkeys((template, *templates))]
        best = proposed(greedy)
        warmer: list[Gap] = []
        for each in sorted({temperature, *TEMPERATURES} - {0.0}, reverse=True):
            warmer.append(few.gap(each, best.template))
            if warmer[-1].gain.value >= best.gain.value - MARGIN:
                break
        _, *others = gaps = list(dict.fromkeys([as_set, *warmer, *greedy]))
        if len(self.examples) <= FEW:
            return gaps
        chosen = proposed(gaps)
        whole = dict.fromkeys(self.gap(each.temperature, each.template) for each in (as_set, chosen))
        return [next(iter(whole)), *others, *list(whole)[1:]]

    def answers(self, templates: Sequence[str] = ()) -> int:
        """Largest number of answers that :meth:`survey` asks for.

        Args:
            templates: Templates to try, with the one that is set.
        """
        few, everything = min(FEW, len(self.examples)), len(self.examples)
        ways = 2 + 1 + len(templates) + 2 * len(TEMPERATURES)
        return ways * few + (4 * everything if everything > few else 0)


def verdicts(grader: Grader | None, responses: Sequence[str], examples: Sequence[Example]) -> torch.Tensor:
    """How right each response is, `(Q,)`: 1 or 0, NaN where it could not be graded; without a grader its closeness."""
    if grader is None:
        pairs = zip(responses, examples, strict=True)
        return torch.tensor([closeness(response, example.demonstration or "") for response, example in pairs])
    graded = grader.grade_all(responses, [example.reference for example in examples])
    return torch.tensor([float("nan") if each is None else float(each) for each in graded])


def closeness(answer: str, demonstration: str) -> float:
    """Share of words that an answer and a demonstration have in common (F1, without order and case).

    Example:
        >>> closeness("It goes to the press.", "to the press. now")
        0.6666666666666666
    """
    first, second = (Counter(text.casefold().split()) for text in (answer, demonstration))
    words = first.total() + second.total()
    return 2 * (first & second).total() / words if words else 1.0


def proposed(gaps: Sequence[Gap]) -> Gap:
    """The gap to train with: the first at the highest temperature of those that are nearly the widest.

    Only those over most questions count.

    Args:
        gaps: Gaps, of which the first is the one that is set.
    """
    most = max(gap.questions for gap in gaps)
    known = [gap for gap in gaps if gap.questions == most]
    widest = max(gap.gain.value for gap in known)
    good = [gap for gap in known if gap.gain.value >= widest - MARGIN]
    return max(good, key=lambda gap: gap.temperature)
