"""Asks student and teacher training questions in several ways, before anything is trained."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.data.templates import TEMPLATES_TO_TRY, teacher_messages
from lightning_sdft.errors import DataError
from lightning_sdft.evaluation.gaps import Asker, Gap
from lightning_sdft.grading.base import Grader
from lightning_sdft.modules.attempts import attempts
from lightning_sdft.modules.causal_lm import CausalLMModule
from lightning_sdft.modules.checks import naming
from lightning_sdft.modules.distillation import DistillationModule
from lightning_sdft.modules.examples import leave_out_bad_rows
from lightning_sdft.modules.sdpo import SDPOModule
from lightning_sdft.records import Example, Message

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["Asking", "prepare"]


@dataclass
class _FeedbackAsker(Asker):
    """Asks the teacher of SDPO, once the student has attempted each question and the attempts are graded.

    Attempts are sampled at the temperature at which both are asked; their prompts do not depend on the template.

    Args:
        module: The module.
    """

    module: SDPOModule | None = None

    def shown(self, temperature: float, template: str) -> list[Sequence[Message]]:
        """The conversations that the teacher sees: where it is told nothing, the student's own."""
        assert self.module is not None  # follows arguments that have defaults
        sampling = replace(self.sampling, temperature=temperature)
        made = attempts(self.module, self.examples, sampling, self.batch_size, self.seed)
        return [each.messages for each in made]


@dataclass(frozen=True)
class Asking:
    """Training questions, and how the model is asked them.

    Args:
        module: The module, with its model on the device.
        asker: Asks the questions.
        name: What right answers are called; empty if the task has no references.
        over_budget: Why examples are too long, those of them all that are.
        examples: Number of training examples.
    """

    module: DistillationModule
    asker: Asker
    name: str
    over_budget: Sequence[str]
    examples: int

    @property
    def answers(self) -> int:
        """Largest number of answers that :meth:`survey` asks for."""
        return self.asker.answers(self._templates)

    def survey(self) -> list[Gap]:
        """The gap as it is set, those of other ways to sample and to show demonstrations, and the widest at the end."""
        return self.asker.survey(self.module.sampling.temperature, self.template, self._templates)

    @property
    def tells(self) -> bool:
        """Whether the teacher is told of attempts of the student, and not shown demonstrations."""
        return isinstance(self.module, SDPOModule)

    def shown(self) -> list[Sequence[Message]]:
        """The conversations that the teacher sees, as it is set."""
        return self.asker.shown(self.module.sampling.temperature, self.template)

    @property
    def template(self) -> str:
        """The template of the teacher's prompt that is set."""
        module = self.module
        return "".join(module.parts) if isinstance(module, SDPOModule) else module.teacher_template

    @property
    def _templates(self) -> Sequence[str]:
        demonstrated = self.module.teacher_fields == {"prompt", "demonstration"}
        return TEMPLATES_TO_TRY if demonstrated and not isinstance(self.module, SDPOModule) else ()


def prepare(
    trainer: Trainer, model: CausalLMModule, datamodule: DemonstrationDataModule, questions: int, seed: int
) -> Asking:
    """Draw training questions, and load the model.

    Args:
        trainer: Says on which device, and in which precision.
        model: The module.
        datamodule: Its data, with demonstrations. Without references answers are compared with the demonstrations.
        questions: Number of training questions to draw at random.
        seed: Seed for the choice of questions and for sampled answers.

    Raises:
        DataError: If the module has no teacher that sees more, or if no training question can be asked.
    """
    if not isinstance(model, DistillationModule) or model.teacher_fields == {"prompt"}:
        raise DataError(
            f"preflight compares a model with its teacher, and {type(model).__name__} here has none that sees "
            "more; give the config of an SDFT run"
        )
    if trainer.world_size > 1:
        raise DataError(f"preflight runs in one process, not {trainer.world_size}; set trainer.devices=1")
    if isinstance(model, SDPOModule):
        model.informing.take_grader(datamodule)
    leave_out_bad_rows(datamodule, model)
    examples = datamodule.splits.train
    graded = _graded(datamodule)
    problem = naming(model.training_problem)
    problems = {example.id: problem(example) for example in examples}
    asked = [each for each in examples if problems[each.id] is None and _usable(each, model, graded is not None)]
    if not asked:
        raise DataError(
            f"none of {len(examples)} training examples is within the token budgets and has what the teacher sees "
            "and what the grader compares with; raise the budgets, or give demonstrations and references"
        )
    asked = random.Random(seed).sample(asked, min(questions, len(asked)))
    name, grader = "", None
    if graded is not None:
        name, grader = graded
        EvaluationSet(asked, {name: grader}).check_references()
    with trainer.precision_plugin.module_init_context():
        model.configure_model()
    model.to(trainer.strategy.root_device)
    limits = (model.max_completion_tokens, datamodule.evaluation_batch_size, seed)
    ways = (model.policy, asked, grader, teacher_messages, model.sampling, *limits)
    asker = _FeedbackAsker(*ways, module=model) if isinstance(model, SDPOModule) else Asker(*ways)
    return Asking(model, asker, name, [each for each in problems.values() if each is not None], len(examples))


def _graded(datamodule: DemonstrationDataModule) -> tuple[str, Grader] | None:
    """The grader of the new task, which says what is correct, and its name."""
    splits = datamodule.splits
    for evaluation_set in (*splits.validation, *splits.test):
        if evaluation_set.graders and not evaluation_set.prior:
            return next(iter(evaluation_set.graders.items()))
    return None


def _usable(example: Example, model: DistillationModule, graded: bool) -> bool:
    if isinstance(model, SDPOModule):
        return model.missing(example) is None
    has_reference = example.reference is not None or not graded
    return model.missing(example) is None and example.demonstration is not None and has_reference
