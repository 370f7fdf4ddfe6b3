"""A check before training: does the model have the in-context ability that self-distillation needs?

SDFT makes two assumptions about the model that sees a demonstration [1, section 3.2]: it solves the task, and its
answers stay close to what the model would say without the demonstration.

References:
    [1] Shenfeld et al., *Self-Distillation Enables Continual Learning*, 2026, https://arxiv.org/abs/2601.19897
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal, TypeVar

import torch
from torch import Tensor

from lightning_sdft.evaluation.gaps import Gap, proposed, verdicts
from lightning_sdft.grading.base import Grader
from lightning_sdft.grading.interval import Score, bootstrap
from lightning_sdft.losses import ForwardKL, cross_entropy, distillation_loss
from lightning_sdft.policy import Policy
from lightning_sdft.policy.inference import evaluating
from lightning_sdft.records import GREEDY, Example, Message, Rollout, Sampling, TokenSequence
from lightning_sdft.rollout import respond

__all__ = ["Preflight", "copies", "judge_preflight", "preflight"]

T = TypeVar("T")

Verdict = Literal["go", "change", "doubtful", "stop"]
"""What a preflight advises."""

SOLVED = 0.5
"""Share of the base model's failures that the teacher must solve for the verdict ``go``."""

ENOUGH = 0.7
"""Share of the widest gap between teacher and student that the one which is set must have for the verdict ``go``."""

CUT = 0.5
"""Share of answers that reached the length limit above which accuracies say nothing."""

ANSWERS = 3
"""Answers to each question: greedy ones with and without the demonstration, and a sampled one with it."""

COPIED = 0.9
"""Minimum similarity at which an answer counts as a copy of the demonstration."""


NOTHING = {
    "demonstration": "the demonstration does not make the model better at the task beyond chance: there is nothing to "
    "distil (try a larger model, other demonstrations, another teacher_template, or SFT)",
    "feedback": "what the teacher is told of the student's attempts does not make the model better at the task beyond "
    "chance: there is nothing to distil (try a larger model, a grader that says what is wrong, more generations for a "
    "right sibling, another teacher_template, or demonstrations)",
}
"""Why there is no reason to train, by what the teacher is shown."""


@dataclass(frozen=True)
class Preflight:
    """Results of a preflight. Accuracies are of greedy answers, but for those of ``gaps``.

    Args:
        questions: Number of questions.
        base: Accuracy of the model without demonstration.
        teacher: Accuracy of the model that sees the demonstration.
        gain: Mean over questions of teacher minus base.
        solved: Of the questions that the base model fails, the share that the teacher solves.
        ungraded: Number of answers, of base and teacher together, that could not be graded.
        kl_per_token: KL(teacher || base) on the teacher's sampled answers in nats, mean over tokens.
        kl_per_response: The same, summed over the tokens of each answer, mean over answers.
        teacher_surprise: Negative log-likelihood of the teacher's sampled answers under the base model, in nats per
            token.
        demonstration_surprise: The same for the demonstrations, which SFT would imitate; NaN if there are none.
        copied: Share of the teacher's answers that copy the demonstration; NaN if there are none.
        truncated: Share of the teacher's answers that reached the length limit.
        base_truncated: The same of the model's own answers.
        gaps: How much more often the teacher is right when both answer as in training: at the temperature that is set,
            at others, and with other templates of the teacher's prompt.
        graded: Whether answers were graded; otherwise accuracies are the closeness of answers to demonstrations.
        shown: What the teacher sees more than the student: a ``demonstration``, or ``feedback`` on an attempt.
    """

    questions: int
    base: Score
    teacher: Score
    gain: Score
    solved: float
    ungraded: int
    kl_per_token: float
    kl_per_response: float
    teacher_surprise: float
    demonstration_surprise: float
    copied: float
    truncated: float
    base_truncated: float = 0.0
    gaps: Sequence[Gap] = ()
    graded: bool = True
    shown: Literal["demonstration", "feedback"] = "demonstration"


@torch.no_grad()
def preflight(
    policy: Policy,
    examples: Sequence[Example],
    grader: Grader | None,
    teacher_messages: Callable[[Example], Sequence[Message]],
    max_completion_tokens: int,
    batch_size: int = 8,
    seed: int = 0,
    sampling: Sampling = Sampling(),  # noqa: B008  # frozen
    answered: Callable[[int], None] | None = None,
) -> Preflight:
    """Compare a model's answers with and without a demonstration in the prompt.

    Args:
        policy: The model.
        examples: Questions with demonstration and reference.
        grader: Decides which answers are correct; without one they are measured by their closeness to demonstrations.
        teacher_messages: Makes the conversation that the teacher sees of an example.
        max_completion_tokens: Length at which answers are truncated.
        batch_size: Number of sequences per forward pass and of prompts answered at once.
        seed: Seed for sampling answers.
        sampling: How training samples.
        answered: Called with the number of answers after each batch; there are :data:`ANSWERS` to each question.
    """
    encode = policy.tokenizer.encode
    own = [encode(example.prompt) for example in examples]
    shown = [encode(list(teacher_messages(example))) for example in examples]

    def answer(prompts: Sequence[list[int]], sampling: Sampling) -> list[Rollout]:
        seeds = [seed * len(prompts) + index for index in range(len(prompts))]
        rollouts: list[Rollout] = []
        for part, part_seeds in zip(_batches(prompts, batch_size), _batches(seeds, batch_size), strict=True):
            rollouts += respond(policy, part, max_completion_tokens, sampling, part_seeds)
            if answered is not None:
                answered(len(part))
        return rollouts

    def grade(rollouts: Sequence[Rollout]) -> Tensor:
        responses = [policy.tokenizer.answer(rollout.completion) for rollout in rollouts]
        return verdicts(grader, responses, examples)

    greedy, alone = answer(shown, GREEDY), answer(own, GREEDY)
    base, teacher = grade(alone), grade(greedy)
    both = ~(base.isnan() | teacher.isnan())
    failed = both & (base == 0)
    kl, surprise = _teacher_on_its_answers(policy, own, answer(shown, sampling), batch_size)
    demonstrated = [(index, each.demonstration) for index, each in enumerate(examples) if each.demonstration]
    demonstrations = [
        TokenSequence(own[index], policy.tokenizer.encode_completion(text)) for index, text in demonstrated
    ]
    copied = [copies(policy.tokenizer.decode(greedy[index].completion), text) for index, text in demonstrated]
    return Preflight(
        questions=len(examples),
        base=bootstrap([base[~base.isnan()]]),
        teacher=bootstrap([teacher[~teacher.isnan()]]),
        gain=bootstrap([(teacher - base)[both]]),
        solved=teacher[failed].mean().item() if grader is not None else float("nan"),
        ungraded=int(base.isnan().sum() + teacher.isnan().sum()),
        kl_per_token=torch.cat(kl).mean().item(),
        kl_per_response=torch.stack([values.sum() for values in kl]).mean().item(),
        teacher_surprise=torch.cat(surprise).mean().item(),
        demonstration_surprise=_mean(_surprise(policy, demonstrations, batch_size)),
        copied=_mean([torch.tensor([float(each) for each in copied])]),
        truncated=sum(not rollout.finished for rollout in greedy) / len(greedy),
        base_truncated=sum(not rollout.finished for rollout in alone) / len(alone),
        graded=grader is not None,
    )


def copies(answer: str, demonstration: str) -> bool:
    """Whether an answer and a demonstration have at least 90% of their words, in order, in common.

    Example:
        >>> copies("The answer is  B.", "The answer is B.")
        True
    """
    return SequenceMatcher(None, answer.split(), demonstration.split(), autojunk=False).ratio() >= COPIED


def judge_preflight(result: Preflight) -> tuple[Verdict, list[str]]:
    """Decide from a preflight whether SDFT is worth running.

    Returns:
        The verdict and the reasons against SDFT as it is set. The verdict is ``change`` if the teacher, sampled as in
        training, is not better than the base model or far less than it could be, and another temperature or template
        would make it better; ``stop`` if it is not better and nothing that was tried helps; ``doubtful`` if there are
        other reasons against; and otherwise ``go``, with a remark if the teacher merely copies. If most answers were
        cut at the limit, that comes first, for then the others say little.
    """
    now, best = (result.gaps[0], proposed(result.gaps)) if result.gaps else (None, None)
    cut = max(result.truncated, result.base_truncated, now.truncated if now else 0.0)
    gain = now.gain if now else result.gain
    better = gain.low > 0
    reasons: list[str] = []
    if cut > CUT:
        reasons.append(
            f"{cut:.0%} of the answers were cut at the limit before they ended, so accuracies say little: raise "
            "max_completion_tokens, ask for short answers in the prompts, or take a model that ends its answers (one "
            "trained to chat), and run preflight again"
        )
    wider = now is not None and best is not None and best is not now and best.gain.low > 0
    if now and best and wider and (not better or gain.value < ENOUGH * best.gain.value):
        reasons.append(
            f"sampled as in training, at temperature {now.temperature:g}, {_scores(now, result.graded)}; "
            f"{_said(best, now)} it would be {best.teacher.value:.0%} and {best.student.value:.0%}"
        )
        return "change", reasons
    if not better:
        return "stop", reasons or [NOTHING[result.shown]]
    if result.shown == "demonstration" and result.solved < SOLVED:
        reasons.append(
            f"with the demonstration the model solves only {result.solved:.0%} of what it fails without: the student "
            "cannot become better than its teacher"
        )
    if result.teacher_surprise >= result.demonstration_surprise:
        reasons.append(
            f"the teacher's answers are as far from the model's own as the demonstrations "
            f"({result.teacher_surprise:.2f} against {result.demonstration_surprise:.2f} nats per token): expect as "
            "much forgetting as with SFT"
        )
    if result.truncated > 0.1 and cut <= CUT:
        reasons.append(
            f"{result.truncated:.0%} of the teacher's answers were cut at the limit; raise max_completion_tokens"
        )
    verdict: Verdict = "doubtful" if reasons else "go"
    if result.copied > SOLVED and result.teacher_surprise >= SOLVED * result.demonstration_surprise:
        # No doubt: such a teacher taught SmolLM2 its task, and general questions were answered as well as before.
        reasons.append(
            f"{result.copied:.0%} of the teacher's answers copy the demonstration, so the student learns the expert's "
            "wording along with the skill"
        )
    return verdict, reasons


def _scores(now: Gap, graded: bool) -> str:
    teacher, student = f"{now.teacher.value:.0%}", f"{now.student.value:.0%}"
    if graded:
        return f"the teacher is right in {teacher} and the student in {student}"
    return f"the teacher has {teacher} of its words from the demonstration and the student {student}"


def _said(best: Gap, now: Gap) -> str:
    """What to set for a better gap."""
    settings = [] if best.temperature == now.temperature else [f"sampling.temperature={best.temperature:g}"]
    settings += [] if best.template == now.template else [f"teacher_template={best.template!r}"]
    return "with " + " and ".join(settings)


def _teacher_on_its_answers(
    policy: Policy, own: Sequence[list[int]], rollouts: Sequence[Rollout], batch_size: int
) -> tuple[list[Tensor], list[Tensor]]:
    """For each token of the teacher's sampled answers: KL(teacher || base), and the NLL under the base model."""
    kl: list[Tensor] = []
    alone = [TokenSequence(prompt, rollout.completion) for prompt, rollout in zip(own, rollouts, strict=True)]
    with evaluating(policy):
        for sequences, shown in zip(_batches(alone, batch_size), _batches(rollouts, batch_size), strict=True):
            hidden, teacher_hidden = policy.hidden(sequences), policy.hidden(shown)
            weights = torch.ones(len(hidden), device=hidden.device)
            head = policy.head
            values = distillation_loss(hidden, head, teacher_hidden, head, weights, ForwardKL()).values
            kl += values.cpu().split([len(each.completion) for each in sequences])
    return kl, _surprise(policy, alone, batch_size)


def _surprise(policy: Policy, sequences: Sequence[TokenSequence], batch_size: int) -> list[Tensor]:
    """Negative log-likelihood of each completion token, in nats."""
    nll: list[Tensor] = []
    with evaluating(policy):
        for part in _batches(sequences, batch_size):
            hidden = policy.hidden(part)
            targets = torch.tensor([token for each in part for token in each.completion], device=hidden.device)
            values = cross_entropy(hidden, policy.head, targets, torch.ones(len(hidden), device=hidden.device)).values
            nll += values.cpu().split([len(each.completion) for each in part])
    return nll


def _mean(values: Sequence[Tensor]) -> float:
    return torch.cat([*values]).mean().item() if values else float("nan")


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
