"""Watches whether student and teacher still learn from demonstrations, which a falling loss does not show."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_sdft.callbacks.good_states import GoodStates
from lightning_sdft.callbacks.held_out import HeldOut, held_out
from lightning_sdft.callbacks.loggers import log_text
from lightning_sdft.callbacks.measures import STRESSED, Measures, measure, measure_under_stress
from lightning_sdft.callbacks.wear import below_best, worn
from lightning_sdft.checkpoint.typed_settings import reschedule
from lightning_sdft.data.groups import MicroBatch
from lightning_sdft.modules.distillation import DistillationModule
from lightning_sdft.settings import Count, Natural, PositiveShare, Share, check_ranges
from lightning_sdft.teacher import TeacherUpdate

__all__ = ["TeacherWatch"]


class TeacherWatch(Callback):
    """Asks student and teacher at every validation and in between, and warns when self-distillation wears out.

    A student and a teacher that follows it can become worse together: they agree, so that the loss stays low. What
    falls first is what the student answers when it is shown the demonstration; the teacher takes that over, and then
    the accuracy falls. So held-out examples are answered greedily by the student and by the teacher, both shown the
    demonstration; a quarter of them also by the student alone, and sampled as in training. They are graded like the new
    task; without references, the likelihood of the demonstrations takes the place of the accuracy. Logged are:

    - ``teacher/accuracy`` (teacher, shown the demonstration), ``student/in_context`` (student, shown it),
      ``student/alone``, ``teacher/gain`` (teacher shown it minus student alone); with ``_sampled``: as in training;
    - ``student/in_context_stressed``: ``student/in_context``, sampled at 1.5 times the temperature of training, where
      what is known less well goes wrong first; if the teacher follows the student, also between validations;
    - ``teacher/demonstration_kl``: KL of the teacher with the demonstration from the teacher without, in nats a token;
    - of the student's sampled answers ``rollout/length_p50`` and ``_p95``, ``rollout/cut`` (share that was cut),
      ``rollout/empty`` (share that says nothing), ``rollout/end_log_probability`` of the token that ends them, and
      ``rollout/repetition`` (how many times shorter zlib makes them).

    The teacher of :class:`SDPOModule` sees no demonstration, but what it is told of an attempt. So before it is asked
    the student attempts each question, ``generations`` times and sampled as in training, and the first attempt is told
    of: with feedback if it is wrong, with a right sibling if there is one, or not at all, and then the question stands
    alone. That prompt takes the place of the one with the demonstration in all of the above: ``teacher/accuracy`` is
    how often the teacher then gives a right answer of its own. The student alone answers apart from its attempts, so
    ``teacher/gain`` is what being told adds, and not that a wrong answer is tried again.

    Args:
        examples: Number of examples held out: validation examples that have demonstrations (for SDPO: references),
            otherwise training examples, which are then not trained on if an epoch has ten steps or more.
        every_n_steps: Optimizer steps between two questions under stress, for a teacher that follows the student; half
            as many while the last answers were worse than earlier ones. Once wear begins, accuracy falls within a
            hundred steps or two.
        tolerance: How much worse than before a share of right answers may be, beyond what chance explains (two standard
            errors).
        action: What to do when something wears out: ``warn`` once, also ``stop`` training, or ``go_back``: student,
            teacher and optimizer return to the last validation at which nothing was worn, and training goes on from
            there with the next examples at a lower learning rate. Each good validation then writes a checkpoint.
        returns: How often training may go back; then it stops.
        learning_rate_factor: Factor on the learning rate each time that training goes back.

    Raises:
        SettingError: If a number is out of range, there is no data module, or the teacher is shown nothing.
    """

    def __init__(
        self,
        examples: Count = 128,
        every_n_steps: Count = 32,
        tolerance: Share = 0.0,
        action: Literal["warn", "stop", "go_back"] = "warn",
        returns: Natural = 3,
        learning_rate_factor: PositiveShare = 0.5,
    ) -> None:
        check_ranges(TeacherWatch, locals())
        self.examples = examples
        self.every_n_steps = every_n_steps
        self.tolerance = tolerance
        self.action = action
        self.returns = returns
        self.learning_rate_factor = learning_rate_factor
        self.history: list[Measures] = []
        self.warned: list[str] = []
        self.returned = 0
        self.good = GoodStates()
        self._next: Literal["save", "go_back"] | None = None  # what to do before the next step
        self._held_out: HeldOut | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose the examples."""
        if stage == "fit":
            self._held_out = held_out(trainer, pl_module, self.examples, type(self).__name__)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask before the first step, and lower the learning rate of a run that goes on as it was lowered before."""
        if trainer.global_step == 0:
            self._look(trainer, cast(DistillationModule, pl_module))
        self._slow_down(trainer, cast(DistillationModule, pl_module))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask at each validation."""
        if self._held_out is not None and not trainer.sanity_checking:
            self._look(trainer, cast(DistillationModule, pl_module))

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: MicroBatch, batch_idx: int
    ) -> None:
        """Ask between validations; save or restore between two steps, when all callbacks have seen the validation."""
        if batch.index == 0:
            self._look_between(trainer, cast(DistillationModule, pl_module))
            self._act(trainer, cast(DistillationModule, pl_module))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save or restore after the last step."""
        self._act(trainer, cast(DistillationModule, pl_module))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ask nothing in evaluations after training."""
        self._held_out = None

    def _look(self, trainer: Trainer, module: DistillationModule) -> None:
        assert self._held_out is not None  # setup comes first
        step = trainer.global_step
        with trainer.precision_plugin.val_step_context():
            measures = measure(self._held_out, step)
        found = self._judge(trainer, module, measures)
        if self.action == "go_back" and not trainer.should_stop:  # else this is the end, to which it has gone back
            self._next = "go_back" if found else "save"

    def _look_between(self, trainer: Trainer, module: DistillationModule) -> None:
        step = trainer.global_step
        if not _follows(trainer, module) or self.history[-1]["step"] >= step:
            return
        closer = max(self.every_n_steps // 2, 1) if below_best(self.history, STRESSED) else self.every_n_steps
        if step % closer:
            return
        assert self._held_out is not None  # setup comes first
        with trainer.precision_plugin.val_step_context():
            measures = measure_under_stress(self._held_out, step)
        if self._judge(trainer, module, measures) and self.action == "go_back":
            self._next = "go_back"

    def _judge(self, trainer: Trainer, module: DistillationModule, measures: Measures) -> dict[str, str]:
        """Log measures, warn of what is worn, and stop if that is the action."""
        step = trainer.global_step
        self.history = [*(each for each in self.history if each["step"] < step), measures]
        metrics = {name: value for name, value in measures.items() if "/" in name}
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)
        found = worn(self.history, _follows(trainer, module), self.tolerance)
        for name in [name for name in found if name not in self.warned]:
            self.warned.append(name)
            _tell(trainer, found[name])
        if self.action == "stop" and found:
            trainer.should_stop = True
        return found

    def _act(self, trainer: Trainer, module: DistillationModule) -> None:
        if self._next == "save":
            self._next = None
            self.good.save(trainer)
        elif self._next == "go_back":
            self._next = None
            path = self.good.restore(trainer, module)
            if self.returned < self.returns:
                self.returned += 1
            else:
                rank_zero_warn(
                    f"TeacherWatch: it wears out again after going back {self.returns} times; training stops"
                )
                trainer.should_stop = True
            self._slow_down(trainer, module)
            rank_zero_info(f"TeacherWatch: step {trainer.global_step} goes on from the weights of {path}.")

    def _slow_down(self, trainer: Trainer, module: DistillationModule) -> None:
        module.learning_rate_scale = self.learning_rate_factor**self.returned
        if self.returned:
            reschedule(trainer)

    def state_dict(self) -> dict[str, Any]:
        """The measures so far, and what has been done about them."""
        kept = {name: getattr(self, name) for name in ("history", "warned", "returned")}
        return {**kept, "next": self._next, "good": self.good.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the measures."""
        for name in ("history", "warned", "returned"):
            setattr(self, name, state_dict[name])
        self._next = state_dict["next"]
        self.good.load_state_dict(state_dict["good"])


def _follows(trainer: Trainer, module: DistillationModule) -> bool:
    """Whether the teacher takes over what the student becomes."""
    updates = [each for each in trainer.callbacks if isinstance(each, TeacherUpdate)]  # type: ignore[attr-defined]
    return module.teacher.policy is module.policy or any(each.follows for each in updates)


def _tell(trainer: Trainer, text: str) -> None:
    """Warn in the terminal, and as a text among what is logged."""
    rank_zero_warn(f"TeacherWatch: {text}")
    log_text(trainer, "teacher/watch", text)
