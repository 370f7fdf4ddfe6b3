"""Self-Distillation Policy Optimization: the teacher is told, once the student has answered, what became of it.

[1] Huebotter et al., Reinforcement Learning via Self-Distillation, 2026, https://arxiv.org/abs/2601.20802
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.data.groups import Group, Item, MicroBatch, repeated
from lightning_sdft.data.templates import SDPO_TEMPLATE, check_parts
from lightning_sdft.modules.distillation import DistillationModule
from lightning_sdft.modules.informing import Informing
from lightning_sdft.modules.step_means import mean_tokens
from lightning_sdft.records import Example, Rollout, TokenSequence

__all__ = ["SDPOModule"]


class SDPOModule(DistillationModule):
    """SDPO [1]: the teacher is the model itself, which also sees what was wrong with the student's answer.

    The student answers; the grader of the validated new task says whether that is right and, if it can, what is wrong;
    and the teacher, which is shown that, corrects the answer token by token. Demonstrations are not needed: with
    ``generations`` the teacher is shown a sibling, another rollout of the same prompt that is right. A rollout of which
    the teacher is told nothing (a right one without a right sibling) is not learned from.

    Training examples need a reference. ``feedback/right`` is the share of rollouts that were right.

    Args:
        model: See :class:`CausalLMModule`.
        teacher_template: Template of the teacher's user turn, in parts. A part is left out if one of its placeholders
            has nothing to show. ``{prompt}`` is the student's prompt; ``{sibling}`` a right sibling; ``{context}`` the
            article; ``{demonstration}`` that of the example, or else a right sibling. ``{attempt}`` is the student's
            answer and ``{feedback}`` what the grader says, both of wrong answers only. By default the template of the
            code of [1].
        **kwargs: See :class:`DistillationModule`. Rollouts are always the student's. With ``reduction: sequence`` the
            mean is over all rollouts, also those that are not learned from; with ``token`` it is over the tokens that
            are.

    Raises:
        SettingError: If the template has other placeholders, or none of what the student does not see.
    """

    def __init__(self, model: str, teacher_template: Sequence[str] = SDPO_TEMPLATE, **kwargs: Any) -> None:
        fields = check_parts(teacher_template)
        super().__init__(
            model,
            rollout_source="student",
            teacher_share=None,
            privileged_context="none",
            teacher_template=None,
            **kwargs,
        )
        self.parts = tuple(teacher_template)
        self.informing = Informing(self.tokenizer, self.parts, self.max_teacher_prompt_tokens)
        self.teacher_fields = fields

    def setup(self, stage: str) -> None:
        """Take the grader of the new task from the data module, and refuse references that it cannot use."""
        datamodule = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and isinstance(datamodule, DemonstrationDataModule):
            self.informing.take_grader(datamodule)
        super().setup(stage)
        if stage == "fit" and datamodule is not None:
            self.informing.check_references(datamodule.splits.train)

    def fill(self, group: Group) -> None:
        """Sample completions for a whole group, grade them, and make the prompts of a teacher that is told of them."""
        if group.items:
            return
        super().fill(group)
        learned = self.in_loss([item.student for item in group.items if _is_informed(item)])
        group.tokens = mean_tokens([len(each) for each in learned], self.device, self.skip_tokens)
        for name, share in self.informing.shares.items():
            self.means.add(name, share)

    def teacher_sequences(self, examples: Sequence[Example], rollouts: Sequence[Rollout]) -> list[TokenSequence]:
        """The prompts of a teacher that is told of the rollouts, followed by the rollouts.

        There may be several rollouts of each example, one example after the other.
        """
        prompts = self.informing.prompts(repeated(examples, len(rollouts) // len(examples)), rollouts)
        return [
            TokenSequence(rollout.prompt if prompt is None else prompt, rollout.completion)
            for prompt, rollout in zip(prompts, rollouts, strict=True)
        ]

    def weights(self, batch: MicroBatch, importance: Tensor | None = None) -> Tensor:
        """Weights of the completion tokens of a micro-batch, `(N,)`; 0 where the teacher is told nothing."""
        informed = torch.tensor([float(_is_informed(item)) for item in batch.items], device=self.device)
        lengths = torch.tensor(batch.completion_lengths, device=self.device)
        return super().weights(batch, importance) * informed.repeat_interleave(lengths)

    def missing(self, example: Example) -> str | None:
        """What an example lacks to be trained on, or ``None``."""
        if "context" in self.teacher_fields and not example.context:
            return "context"
        return "reference" if self.informing.needs_reference and example.reference is None else None


def _is_informed(item: Item) -> bool:
    """Whether the teacher sees more than the student."""
    return item.teacher is not None and item.teacher.prompt != item.student.prompt
