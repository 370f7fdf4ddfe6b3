"""Examples on which student and teacher are asked during training, with the demonstrations and without."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from lightning.pytorch import LightningModule, Trainer

from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.distributed.processes import process_count, process_index
from lightning_sdft.distributed.sharding import unsharded
from lightning_sdft.errors import DataError, SettingError
from lightning_sdft.grading.base import Grader
from lightning_sdft.losses import ForwardKL, cross_entropy, distillation_loss
from lightning_sdft.modules.attempts import attempts
from lightning_sdft.modules.distillation import DistillationModule
from lightning_sdft.modules.sdpo import SDPOModule
from lightning_sdft.policy import Policy
from lightning_sdft.policy.inference import evaluating
from lightning_sdft.records import Example, Rollout, Sampling, TokenSequence
from lightning_sdft.rollout import respond_ways

__all__ = ["HeldOut", "Way", "held_out"]

T = TypeVar("T")

Way = tuple[Sampling, int]
"""Settings of sampling, and the number of questions, from the first one on, that are answered so."""


@dataclass(frozen=True)
class HeldOut:
    """Questions for student and teacher, of which each process asks its share.

    Args:
        module: The module whose models are asked.
        examples: This process's share of the examples.
        shown: Token ids of their prompts as the teacher sees them, with demonstrations or, once they are
            :meth:`attempted`, with feedback.
        alone: Token ids of their prompts as the student does.
        grader: Decides which answers are right; without one, the score of an example is its demonstration's likelihood.
        batch_size: Prompts answered at once.
    """

    module: DistillationModule
    examples: Sequence[Example]
    shown: Sequence[list[int]]
    alone: Sequence[list[int]]
    grader: Grader | None
    batch_size: int

    @classmethod
    def of(
        cls, module: DistillationModule, examples: Sequence[Example], grader: Grader | None, batch_size: int
    ) -> HeldOut:
        """Questions with their prompts, which are made once."""
        shown = module.tokenizer.encode_all([module.teacher_messages(each) for each in examples])
        alone = module.tokenizer.encode_all([each.prompt for each in examples])
        return cls(module, examples, shown, alone, grader, batch_size)

    def attempted(self) -> HeldOut:
        """The questions as the teacher sees them now: that of SDPO is told of attempts that the student makes first.

        All processes must call this together.
        """
        if not isinstance(self.module, SDPOModule):
            return self
        made = attempts(self.module, self.examples, batch_size=self.batch_size)
        return replace(self, shown=[each.shown for each in made])

    def part(self, every: int) -> HeldOut:
        """The first of the questions, one of every so many."""
        count = math.ceil(len(self.examples) / every)
        return replace(self, examples=self.examples[:count], shown=self.shown[:count], alone=self.alone[:count])

    def answers(self, policy: Policy, shown: bool, sampling: Sampling) -> list[Rollout]:
        """The answers of a policy; the seed of each depends only on its example."""
        return self.answers_each(policy, shown, [(sampling, len(self.examples))])[0]

    def answers_each(self, policy: Policy, shown: bool, ways: Sequence[Way]) -> list[list[Rollout]]:
        """The answers of a policy in several ways, for which each prompt is read once; see :meth:`answers`."""
        seeds = [int.from_bytes(hashlib.sha256(each.id.encode()).digest()[:7]) for each in self.examples]
        limit = self.module.max_completion_tokens
        answers: list[list[Rollout]] = [[] for _ in ways]
        begun = 0
        with unsharded(policy):
            for prompts, part in zip(self._cut(self._prompts(shown)), self._cut(seeds), strict=True):
                asked = {place: count - begun for place, (_, count) in enumerate(ways) if count > begun}
                own = [(ways[place][0], min(count, len(prompts))) for place, count in asked.items()]
                for place, rollouts in zip(asked, respond_ways(policy, prompts, limit, own, part), strict=True):
                    answers[place] += rollouts
                begun += len(prompts)
        return answers

    def scores(self, policy: Policy, shown: bool, sampling: Sampling) -> tuple[list[float], list[Rollout]]:
        """Scores in [0, 1] of a policy, and its answers.

        The score of an example is 1 if the answer is right, 0 if it is wrong, and NaN if it could not be graded.
        Without a grader it is the probability of the demonstration, as the geometric mean over its tokens, and nothing
        is answered.
        """
        return self.scores_each(policy, shown, [(sampling, len(self.examples))])[0]

    def scores_each(self, policy: Policy, shown: bool, ways: Sequence[Way]) -> list[tuple[list[float], list[Rollout]]]:
        """The scores and answers of a policy in several ways; see :meth:`scores`."""
        if self.grader is None:
            likelihoods = self._likelihoods(policy, shown)
            return [(likelihoods[:count], []) for _, count in ways]
        return [(self._grade(answers), answers) for answers in self.answers_each(policy, shown, ways)]

    def _grade(self, answers: Sequence[Rollout]) -> list[float]:
        assert self.grader is not None  # else there are likelihoods
        texts = [self.module.tokenizer.answer(answer.completion) for answer in answers]
        verdicts = self.grader.grade_all(texts, [example.reference for example in self.examples[: len(answers)]])
        return [float("nan") if verdict is None else float(verdict) for verdict in verdicts]

    @torch.no_grad()
    def effect(self, policy: Policy, rollouts: Sequence[Rollout]) -> list[float]:
        """`KL(policy(. | with demonstration) || policy(. | without))` in nats, per token of answers `(N,)`."""
        values: list[float] = []
        alone = [TokenSequence(prompt, each.completion) for prompt, each in zip(self.alone, rollouts, strict=True)]
        with unsharded(policy), evaluating(policy):
            head = policy.head
            for shown, bare in zip(self._cut(rollouts), self._cut(alone), strict=True):
                hidden, shown_hidden = policy.hidden(bare), policy.hidden(shown)
                weights = torch.ones(len(hidden), device=hidden.device)
                values += distillation_loss(hidden, head, shown_hidden, head, weights, ForwardKL()).values.tolist()
        return values

    @torch.no_grad()
    def _likelihoods(self, policy: Policy, shown: bool) -> list[float]:
        values: list[float] = []
        encode = self.module.tokenizer.encode_completion
        completions = [encode(example.demonstration or "") for example in self.examples]
        sequences = list(map(TokenSequence, self._prompts(shown), completions))
        with unsharded(policy), evaluating(policy):
            for part in self._cut(sequences):
                hidden = policy.hidden(part)
                targets = torch.tensor([token for each in part for token in each.completion], device=hidden.device)
                weights = torch.ones(len(hidden), device=hidden.device)
                nll = cross_entropy(hidden, policy.head, targets, weights).values
                values += [each.mean().neg().exp().item() for each in nll.split([len(x.completion) for x in part])]
        return values

    def _prompts(self, shown: bool) -> Sequence[list[int]]:
        return self.shown if shown else self.alone

    def _cut(self, items: Sequence[T]) -> Iterator[Sequence[T]]:
        return (items[start : start + self.batch_size] for start in range(0, len(items), self.batch_size))


def held_out(trainer: Trainer, module: LightningModule, count: int, user: str) -> HeldOut:
    """Choose the examples, the same for all callbacks of a run and for a run that goes on.

    They are validation examples of the new task, if those have all that the teacher is shown; otherwise they are taken
    out of the training examples. They are graded as in validation, unless there is no validation, there are no
    references, or another model would be asked for each verdict; for SDPO as in training.

    Args:
        trainer: The trainer with its data module.
        module: The module, which must know what the teacher is shown.
        count: Number of examples.
        user: The callback that asks, for errors.

    Raises:
        SettingError: If there is no data module, or the teacher is shown nothing.
        DataError: If too few examples have what the teacher is shown.
    """
    datamodule = getattr(trainer, "datamodule", None)
    if not isinstance(datamodule, DemonstrationDataModule):
        raise SettingError(f"{user} asks questions of a data module; pass datamodule=..., or leave {user} out")
    if not isinstance(module, DistillationModule) or module.teacher_fields <= {"prompt"}:
        raise SettingError(
            f"{user} is for a teacher that sees more than the student; leave it out of trainer.callbacks with "
            f"{type(module).__name__}"
        )
    new = next((each for each in datamodule.splits.validation if not each.prior), None)
    grader = _grader(module, datamodule, new)
    usable = _usable(module, graded=grader is not None)
    chosen: Sequence[Example] = [] if new is None else list(filter(usable, new.examples))
    if chosen:
        chosen = random.Random(0).sample(chosen, min(count, len(chosen)))
    elif not (chosen := datamodule.withhold(count, usable)):
        grader, chosen = None, datamodule.withhold(count, _usable(module, graded=False))
    if not chosen:
        raise DataError(
            f"{user}: no example has {_needed(module)} within the token budgets to ask the teacher with; give "
            f"{'references' if isinstance(module, SDPOModule) else 'demonstrations'}, or leave {user} out of "
            "trainer.callbacks"
        )
    share = chosen[process_index() :: process_count()]
    return HeldOut.of(module, share, grader, datamodule.evaluation_batch_size)


def _grader(
    module: DistillationModule, datamodule: DemonstrationDataModule, new: EvaluationSet | None
) -> Grader | None:
    if isinstance(module, SDPOModule):
        module.informing.take_grader(datamodule)
        return module.informing.grader
    grader = None if new is None else next(iter(new.graders.values()), None)
    return None if grader is None or grader.asks_a_model else grader


def _needed(module: DistillationModule) -> str:
    """What an example must have."""
    if isinstance(module, SDPOModule):
        return ", ".join(["reference", *(["context"] if "context" in module.teacher_fields else [])])
    return ", ".join(sorted(module.teacher_fields - {"prompt"}))


def _usable(module: DistillationModule, graded: bool) -> Callable[[Example], bool]:
    """Whether an example can be shown to the teacher, and its answer graded."""

    def usable(example: Example) -> bool:
        try:
            complete = module.missing(example) is None and module.training_problem(example) is None
        except DataError:  # a row that the tokenizer refuses
            return False
        if isinstance(module, SDPOModule):
            return complete
        return complete and bool(example.demonstration) and (example.reference is not None or not graded)

    return usable
