"""Lines about a run where no bar can move: in a pipe, a log file or CI."""

from __future__ import annotations

import math
import time
from collections import defaultdict

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer

from lightning_sdft.progress import Pace, Work, at_clock, seconds_text

__all__ = ["RunLines", "share_done"]

SHOWN = {
    "train/loss": "loss {:.3g}",
    "teacher/kl": "KL {:.3g}",
    "rollout/length": "rollouts {:.0f} tokens",
    "rollout/truncated": "{:.0%} cut",
}
"""How metrics of a step are written."""

QUIET = 30.0
"""Seconds of a validation before it is said how far it is."""


class RunLines:
    """Writes a line at the first optimizer step, then every twentieth of the run, and one after each validation.

    Values are means over the optimizer steps since the last line, and those of all processes.

    Args:
        written: Whether lines are written; without them it is only known when the run ends.
    """

    def __init__(self, written: bool = True) -> None:
        self.written = written
        self._pace = Pace()
        self._asked: Work | None = None
        self._sanity = self._evaluated = 0.0  # seconds of the base model's validation, and of all later ones
        self._validations = 0
        self._validation_began = 0.0

    # Training

    def begin(self, trainer: Trainer) -> None:
        """Training starts."""
        self._first = self._step = trainer.global_step
        self._began = time.monotonic()
        self._each = 0.0  # seconds of an optimizer step
        self._pace = Pace()
        self._forget()

    def batch_begins(self) -> None:
        """A micro-batch starts."""
        self._batch_began = time.monotonic()

    def batch_ends(self, trainer: Trainer) -> None:
        """A micro-batch has ended; after the last one of an optimizer step, write a line if one is due."""
        self._seconds += time.monotonic() - self._batch_began
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        self._steps += 1
        for name in SHOWN:
            if name in trainer.callback_metrics:
                self._sums[name] += float(trainer.callback_metrics[name])
        self._each = self._seconds / self._steps
        if self._pace.due(share_done(trainer)):
            if self.written:
                print(self._line(trainer), flush=True)
            self._forget()

    def seconds_left(self, trainer: Trainer) -> float | None:
        """Seconds until the run ends, validations included; ``None`` if nothing limits it, or before its first step."""
        if self._step == self._first:
            return None
        bounds = []
        total = _total_steps(trainer)
        if total is not None:
            bounds.append(self._seconds_of(trainer, total))
        if (timer := _timer(trainer)) is not None:
            bounds.append(timer.time_remaining() or 0.0)
        return min(bounds, default=None)

    def _seconds_of(self, trainer: Trainer, total: int) -> float:
        """Seconds of the remaining steps, and of the validations between them."""
        left, done = total - self._step, self._step - self._first
        every = _steps_between_validations(trainer)
        if every is None:  # whatever lies between the steps comes evenly
            return left * max(self._each, (time.monotonic() - self._began) / done)
        validation = self._evaluated / self._validations if self._validations else self._sanity
        return left * self._each + (total // every - (self._step - 1) // every) * validation

    def _line(self, trainer: Trainer) -> str:
        left = self.seconds_left(trainer)
        total = _total_steps(trainer)
        of = "" if total is None else f" of {total}"
        share = f" ({share_done(trainer):.0%})" if left is not None else ""
        parts = [SHOWN[name].format(value / self._steps) for name, value in self._sums.items()]
        parts.append(f"{seconds_text(self._each)} a step")
        if left:
            parts.append(f"ends at {at_clock(left)}")
        return f"step {self._step}{of}{share}: {', '.join(parts)}"

    def _forget(self) -> None:
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._steps, self._seconds = 0, 0.0

    # Evaluation

    def evaluation_begins(self, what: str, batches: int, quiet: float = 0.0) -> None:
        """An evaluation starts.

        Args:
            what: What it is called.
            batches: Number of batches in it.
            quiet: Seconds without any line.
        """
        self._validation_began = time.monotonic()
        self._asked = Work(what, batches, "batches", quiet, self.written)

    def evaluation_batch_ends(self) -> None:
        """A batch of an evaluation has ended."""
        if self._asked is not None:
            self._asked.advance()

    def validation_ends(self, trainer: Trainer) -> None:
        """A validation has ended: keep what it took, and write its accuracies unless they are printed as a table."""
        seconds = time.monotonic() - self._validation_began
        if trainer.sanity_checking:
            self._sanity = seconds if math.isinf(trainer.num_sanity_val_steps) else 0.0
        else:
            self._evaluated += seconds
            self._validations += 1
        names = ("val/accuracy", "prior/average")
        found = [f"{name} {trainer.callback_metrics[name]:.3f}" for name in names if name in trainer.callback_metrics]
        if found and self.written and trainer.state.fn == "fit":
            when = "before training" if trainer.sanity_checking else f"at step {trainer.global_step}"
            print(f"validation {when}: {', '.join(found)}, {seconds_text(seconds)}", flush=True)


def share_done(trainer: Trainer) -> float:
    """The share of the run that is done, by steps or by time, whichever ends it."""
    total, timer = _total_steps(trainer), _timer(trainer)
    by_steps = trainer.global_step / total if total else 0.0
    if timer is None:
        return by_steps
    elapsed = timer.time_elapsed()
    return max(by_steps, elapsed / (elapsed + (timer.time_remaining() or 0.0)))


def _total_steps(trainer: Trainer) -> int | None:
    """Optimizer steps of the whole run, those before it was resumed included; ``None`` if they are not limited."""
    total = trainer.estimated_stepping_batches
    return int(total) if 0 < total < math.inf else None


def _timer(trainer: Trainer) -> Timer | None:
    """What ends the run after a time, if there is a limit."""
    timers = [each for each in trainer.callbacks if isinstance(each, Timer)]  # type: ignore[attr-defined]  # set outside of __init__
    return next((each for each in timers if each.time_remaining() is not None), None)


def _steps_between_validations(trainer: Trainer) -> float | None:
    """Optimizer steps from one validation to the next; ``None`` if there is none, or they come by the clock."""
    batches = trainer.val_check_batch
    if not sum(trainer.num_val_batches) or batches is None or math.isinf(batches):
        return None
    return float(batches) * (trainer.check_val_every_n_epoch or 1) / trainer.accumulate_grad_batches
