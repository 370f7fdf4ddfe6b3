"""The callback that lets the student take the teacher's place only while it still learns from demonstrations."""

from __future__ import annotations

import math

from lightning.pytorch import LightningModule, Trainer

from lightning_sdft.callbacks.held_out import HeldOut, held_out
from lightning_sdft.callbacks.measures import mean_score
from lightning_sdft.records import GREEDY
from lightning_sdft.settings import Count, check_ranges
from lightning_sdft.teacher import HasTeacher, TeacherUpdate

__all__ = ["GatedTeacher"]


class GatedTeacher(TeacherUpdate):
    """A teacher that stands still, and is replaced by the student at intervals, if the student passes a gate.

    After every n-th optimizer step, student and teacher answer held-out examples greedily, both shown the
    demonstrations. If `accuracy(student | demonstration) >= accuracy(teacher | demonstration)`, then
    `teacher <- student`; else the teacher stays. So it never becomes worse at what it is there for, as an EMA does when
    the student loses its in-context ability [1]. Without references, the likelihood of the demonstrations decides.

    [1] Self-distillation with gated refreshes (CGTR), 2026, https://arxiv.org/abs/2606.03532, claims the same of
    teachers that are refreshed at fixed intervals.

    With :class:`SDPOModule` both are shown what its teacher is told of the student's attempts in the demonstrations'
    place, as :class:`TeacherWatch` does.

    Args:
        every_n_steps: Optimizer steps between two tests of the student.
        examples: Number of examples held out for the test: validation examples that have demonstrations (for SDPO:
            references), otherwise training examples, which are then not trained on if an epoch has ten steps or more.

    Raises:
        SettingError: If a number is out of range, there is no data module, or the teacher is shown nothing.
    """

    def __init__(self, every_n_steps: Count = 64, examples: Count = 64) -> None:
        check_ranges(GatedTeacher, locals())
        super().__init__()
        self.every_n_steps = every_n_steps
        self.examples = examples
        self._held_out: HeldOut | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose the examples."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._held_out = held_out(trainer, pl_module, self.examples, type(self).__name__)

    def update(self, trainer: Trainer, module: HasTeacher) -> None:
        """Test the student, and let it take the teacher's place if it passes."""
        if trainer.global_step % self.every_n_steps:
            return
        assert self._held_out is not None  # setup comes first
        with trainer.precision_plugin.val_step_context():
            asked = self._held_out.attempted()
            student, teacher = (
                mean_score(asked.scores(policy, True, GREEDY)[0]) for policy in (module.policy, module.teacher.policy)
            )
        passes = student >= teacher or math.isnan(teacher)
        if passes:
            module.teacher.start_from(module.policy)
            self.updates += 1
        values = {"teacher/gate_student": student, "teacher/gate_teacher": teacher, "teacher/refreshed": float(passes)}
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)
