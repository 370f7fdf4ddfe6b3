"""The callback that makes the teacher an exponential moving average (EMA) of the student."""

from __future__ import annotations

from typing import Annotated, Any, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from lightning_sdft.settings import Count, Range, check_ranges
from lightning_sdft.teacher.update import HasTeacher, TeacherUpdate

__all__ = ["EMATeacher"]


RATES = Range(
    0,
    1,
    open_low=True,
    hint="it is the share of the student in each update (an EMA decay of 0.99 is a rate of 0.01); for a frozen teacher "
    "leave EMATeacher out",
)


class EMATeacher(TeacherUpdate):
    """Updates after every optimizer step: `teacher <- teacher_rate * student + (1 - teacher_rate) * teacher`.

    Such a teacher takes over whatever the student becomes, also what it loses; :class:`TeacherWatch` shows it. With
    ``reset_every``, the teacher of every n-th step is the model that training started from.

    Args:
        teacher_rate: Share of the student in each update. With a larger rate the teacher follows faster.
        every_n_steps: Number of optimizer steps between updates.
        reset_every: Number of optimizer steps after which the teacher returns to the model that training started from,
            and follows the student anew; by default it never does. Without LoRA, that model stays in memory.

    Raises:
        SettingError: If a number is out of range.
    """

    follows = True

    def __init__(
        self,
        teacher_rate: Annotated[float, RATES] = 0.01,
        every_n_steps: Count = 1,
        reset_every: Count | None = None,
    ) -> None:
        check_ranges(EMATeacher, locals())
        super().__init__()
        self.teacher_rate = teacher_rate
        self.every_n_steps = every_n_steps
        self.reset_every = reset_every

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load the model that the teacher returns to."""
        super().on_train_start(trainer, pl_module)
        if self.reset_every is not None:
            cast(HasTeacher, pl_module).base_policy()

    def update(self, trainer: Trainer, module: HasTeacher) -> None:
        """Move the teacher towards the student, or back to the start."""
        step = trainer.global_step
        if self.reset_every is not None and step % self.reset_every == 0:
            module.teacher.return_to(module.base_policy())
        elif step % self.every_n_steps == 0:
            module.teacher.update_(module.policy, self.teacher_rate)
            self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """The number of updates, and the rate."""
        return {**super().state_dict(), "teacher_rate": self.teacher_rate}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the number of updates, and say if the rate is another one."""
        super().load_state_dict(state_dict)
        before = state_dict.get("teacher_rate", self.teacher_rate)
        if before != self.teacher_rate:
            rank_zero_info(
                f"Training goes on with other settings than before: teacher_rate {before} -> {self.teacher_rate}."
            )
