"""The callback that makes the teacher an exponential moving average (EMA) of the student."""

from __future__ import annotations

from typing import Annotated, Any, Protocol, cast

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from lightning_sdft.policy.policy import Policy
from lightning_sdft.settings import Count, Range, check_ranges
from lightning_sdft.teacher.base import Teacher

__all__ = ["EMATeacher"]


RATES = Range(
    0,
    1,
    open_low=True,
    hint="it is the share of the student in each update (an EMA decay of 0.99 is a rate of 0.01); for a frozen teacher "
    "leave EMATeacher out",
)


class HasTeacher(Protocol):
    """A module with a student and its teacher."""

    policy: Policy
    teacher: Teacher


class EMATeacher(Callback):
    """Updates after every optimizer step: `teacher <- teacher_rate * student + (1 - teacher_rate) * teacher`.

    The teacher's weights are part of the module and of its checkpoints; this callback only keeps counters.

    Args:
        teacher_rate: Share of the student in each update. With a larger rate the teacher follows faster.
        every_n_steps: Number of optimizer steps between updates.

    Raises:
        SettingError: If a number is out of range.
    """

    def __init__(self, teacher_rate: Annotated[float, RATES] = 0.01, every_n_steps: Count = 1) -> None:
        check_ranges(EMATeacher, locals())
        self.teacher_rate = teacher_rate
        self.every_n_steps = every_n_steps
        self.updates = 0
        self._last_step = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the module has a teacher that can follow the student."""
        teacher = getattr(pl_module, "teacher", None)
        if teacher is None or not teacher.can_follow(cast(HasTeacher, pl_module).policy):
            raise MisconfigurationException(
                f"EMATeacher updates a teacher that has its own copy of the student's weights, and "
                f"{type(pl_module).__name__} has none; use SDFTModule with teacher=CopiedTeacher (its model, if set, "
                "must have the student's architecture), or leave the callback out for a live or a frozen teacher"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting steps here, because a module may be trained more than once."""
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the teacher if this micro-batch ended with an optimizer step."""
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
        """The number of updates, and the rate."""
        return {"updates": self.updates, "teacher_rate": self.teacher_rate}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the number of updates, and say if the rate is another one."""
        self.updates = state_dict["updates"]
        before = state_dict.get("teacher_rate", self.teacher_rate)
        if before != self.teacher_rate:
            rank_zero_info(
                f"Training goes on with other settings than before: teacher_rate {before} -> {self.teacher_rate}."
            )
