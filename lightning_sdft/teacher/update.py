"""What the callbacks that change the teacher's weights share: when they do it."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Protocol, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_sdft.errors import SettingError
from lightning_sdft.policy.policy import Policy
from lightning_sdft.teacher.base import Teacher

__all__ = ["HasTeacher", "TeacherUpdate"]


class HasTeacher(Protocol):
    """A module with a student and its teacher."""

    policy: Policy
    teacher: Teacher

    def base_policy(self) -> Policy:
        """The model that training started from."""


class TeacherUpdate(Callback):
    """Changes the teacher after optimizer steps; a subclass says how.

    The teacher's weights are part of the module and of its checkpoints; the callback only keeps counters. It goes
    before all other callbacks, so that whichever of them saves finds student and teacher of the same step.
    """

    follows = False
    """Whether the teacher takes over what the student has become, whatever that is."""

    def __init__(self) -> None:
        self.updates = 0
        self._last_step = 0

    @abstractmethod
    def update(self, trainer: Trainer, module: HasTeacher) -> None:
        """Change the teacher, if this is a step after which it changes; called once after each optimizer step."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a teacher that cannot follow, and a second callback that would change it, before models are loaded.

        Raises:
            SettingError: If there is one.
        """
        names = [type(each).__name__ for each in trainer.callbacks if isinstance(each, TeacherUpdate)]  # type: ignore[attr-defined]
        if stage == "fit" and len(names) > 1:
            raise SettingError(
                f"{' and '.join(names)} would both change the teacher, and undo each other's work; leave all but one "
                "out of trainer.callbacks (configs/method/sdft.yaml has GatedTeacher, configs/preset/paper.yaml has "
                "EMATeacher instead)"
            )
        choice = getattr(pl_module, "teacher_choice", None)
        if stage == "fit" and not hasattr(pl_module, "teacher") and not getattr(choice, "can_move", False):
            raise self._refusal(pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the teacher, which is loaded now, can follow the student.

        Raises:
            SettingError: If it cannot.
        """
        teacher = getattr(pl_module, "teacher", None)
        if teacher is None or not teacher.can_follow(cast(HasTeacher, pl_module).policy):
            raise self._refusal(pl_module)

    def _refusal(self, module: LightningModule) -> SettingError:
        return SettingError(
            f"{type(self).__name__} updates a teacher that has its own copy of the student's weights to move, and "
            f"{type(module).__name__} has none; use SDFTModule with teacher=CopiedTeacher (its model, if set, must "
            "have the student's architecture), or leave the callback out for a teacher that is live, frozen or a trust "
            "region around a frozen reference"
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
        self.update(trainer, module)
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]  # set outside of __init__
            pl_module.log("teacher/drift", module.teacher.drift(module.policy), batch_size=1)

    def state_dict(self) -> dict[str, Any]:
        """The number of updates."""
        return {"updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the number of updates."""
        self.updates = state_dict["updates"]
