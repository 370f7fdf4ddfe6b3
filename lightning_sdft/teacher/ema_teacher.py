"""When the teacher follows the student."""

from __future__ import annotations

from typing import Any, Protocol, cast

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_sdft.policy.policy import Policy
from lightning_sdft.teacher.base import Teacher

__all__ = ["EMATeacher"]


class HasTeacher(Protocol):
    """A module with a student and its teacher."""

    policy: Policy
    teacher: Teacher


class EMATeacher(Callback):
    """After every optimizer step: `teacher <- teacher_rate * student + (1 - teacher_rate) * teacher`.

    The weights live in the module, and so in its checkpoints; here are only counters.

    Args:
        teacher_rate: Share of the student, in (0, 1]; a larger one makes a teacher that follows faster.
        every_n_steps: Optimizer steps between two updates.

    Raises:
        ValueError: If ``teacher_rate`` is not within (0, 1] or ``every_n_steps`` not positive.
    """

    def __init__(self, teacher_rate: float = 0.01, every_n_steps: int = 1) -> None:
        if not 0 < teacher_rate <= 1:
            raise ValueError(
                f"teacher_rate={teacher_rate} is not within (0, 1]; it is the share of the student in each update "
                "(a decay of 0.99 is a rate of 0.01). For a frozen teacher leave EMATeacher out"
            )
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps} is not positive")
        self.teacher_rate = teacher_rate
        self.every_n_steps = every_n_steps
        self.updates = 0
        self._last_step = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make sure that there is a teacher to move."""
        teacher = getattr(pl_module, "teacher", None)
        if teacher is None or not teacher.can_follow(cast(HasTeacher, pl_module).policy):
            raise MisconfigurationException(
                f"EMATeacher moves a teacher with weights of its own that follow the student's, and "
                f"{type(pl_module).__name__} has none; use SDFTModule with teacher=CopiedTeacher, without a model of "
                "another kind, or leave the callback out for a teacher that is live or stands still"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from here: a module may be trained again."""
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the teacher if the optimizer has just stepped; this hook runs for every micro-batch."""
        if trainer.global_step == self._last_step:
            return
        self._last_step = trainer.global_step
        module = cast(HasTeacher, pl_module)
        if trainer.global_step % self.every_n_steps == 0:
            module.teacher.update_(module.policy, self.teacher_rate)
            self.updates += 1
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]  # set outside of __init__
            pl_module.log("teacher/drift", module.teacher.drift(module.policy), batch_size=1)

    def state_dict(self) -> dict[str, Any]:
        """The counter."""
        return {"updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counter."""
        self.updates = state_dict["updates"]
