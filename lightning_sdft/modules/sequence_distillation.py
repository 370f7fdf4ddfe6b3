"""SFT on the teacher's answers, the simplest way to learn from a teacher.

[1] Kim and Rush, Sequence-Level Knowledge Distillation, 2016, https://arxiv.org/abs/1606.07947
[2] Shenfeld et al., Self-Distillation Enables Continual Learning, 2026, https://arxiv.org/abs/2601.19897
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_sdft.data.groups import Group, MicroBatch
from lightning_sdft.losses import cross_entropy
from lightning_sdft.modules.distillation import DistillationModule
from lightning_sdft.teacher import Teacher

__all__ = ["SequenceDistillationModule"]


class SequenceDistillationModule(DistillationModule):
    """Sequence-level distillation [1]: cross-entropy on the teacher's answers, sampled anew each time.

    This is what remains of SDFT if the student neither answers itself nor sees the teacher's distributions: the third
    curve of Fig. 6 in [2]. The second curve, off-policy distillation, is DistillationModule with
    ``rollout_source: teacher``.

    Args:
        model: See :class:`CausalLMModule`.
        **kwargs: See :class:`DistillationModule`. ``rollout_source`` cannot be given, and ``divergence`` is not used.
    """

    def __init__(self, model: str, **kwargs: Any) -> None:
        super().__init__(model, rollout_source="teacher", **kwargs)

    def training_step(self, batch: MicroBatch, batch_idx: int) -> Tensor:
        """Raise the likelihood of the teacher's answers."""
        self.fill(batch.group)
        weights = self.weights(batch)
        with self.clock.phase("student"):
            hidden = self.policy.hidden(batch.student_sequences, prefix=self.prefixes.student)
            result = cross_entropy(hidden, self.policy.head, batch.targets().to(self.device), weights)
        total = result.loss + self.retained_loss(batch)
        return self.finish_step(batch, total, result, weights, {"nll": "train/nll", "entropy": "student/entropy"})

    def share_prefixes(self, group: Group, teacher: Teacher | None = None) -> None:
        """Share the student's prefix alone: the teacher reads nothing but its own prompts."""
        super().share_prefixes(group)
