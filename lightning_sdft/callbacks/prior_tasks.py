"""Evaluates public benchmarks during a run, to see what it forgets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_sdft.distributed.sharding import unsharded
from lightning_sdft.evaluation.prior_scores import PriorScores
from lightning_sdft.evaluation.prior_tasks import PAPER_TASKS, PriorSuite
from lightning_sdft.modules.causal_lm import CausalLMModule
from lightning_sdft.settings import Count, check_ranges

__all__ = ["PriorTasks"]


class PriorTasks(Callback):
    """Runs prior tasks on the policy through the lm-evaluation-harness (extra ``eval``) and logs the scores.

    It logs ``prior/<task>`` and their unweighted mean ``prior/average``, with the ends of 95% intervals as
    ``prior_low/...`` and ``prior_high/...``, at the optimizer step they belong to. It does not change training: random
    number generators and the policy are left as they were. Under ``ddp`` the processes share the questions; under
    ``fsdp2`` the weights are gathered first.

    Args:
        tasks: See :class:`lightning_sdft.evaluation.PriorSuite`.
        every_n_steps: Optimizer steps between two evaluations; by default there is none before the end.
        base: Whether to evaluate the base model too, before the first step.
        limit: Ask only the first so many questions of each task (of each subject of MMLU); by default all.
        include_path: See :class:`lightning_sdft.evaluation.PriorSuite`.
        allow_code_execution: See :class:`lightning_sdft.evaluation.PriorSuite`.
        batch_tokens: Tokens in a batch, padding included.

    Raises:
        SettingError: If a number is out of range.
    """

    def __init__(
        self,
        tasks: Sequence[str] = PAPER_TASKS,
        every_n_steps: Count | None = None,
        base: bool = True,
        limit: Count | None = None,
        include_path: str | None = None,
        allow_code_execution: Sequence[str] = (),
        batch_tokens: Count = 16384,
    ) -> None:
        check_ranges(PriorTasks, locals())
        self.tasks = tasks
        self.every_n_steps = every_n_steps
        self.base = base
        self.limit = limit
        self.include_path = include_path
        self.allow_code_execution = allow_code_execution
        self.batch_tokens = batch_tokens
        self._suite: PriorSuite | None = None
        self._last_step: int | None = None
        self._latest: dict[str, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Load the tasks, before anything expensive happens."""
        if stage != "fit":
            return
        self._suite = PriorSuite(self.tasks, self.include_path, self.allow_code_execution)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate the base model, unless the run was resumed."""
        self._last_step = trainer.global_step  # which a resumed run has evaluated before
        if self.base and trainer.global_step == 0:
            self._evaluate(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Evaluate if the optimizer has just taken the n-th step; this hook runs for every micro-batch."""
        if self.every_n_steps is None or trainer.global_step == self._last_step:
            return
        if trainer.global_step % self.every_n_steps == 0:
            self._evaluate(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate the trained model, unless that has just been done."""
        if trainer.global_step != self._last_step:
            self._evaluate(trainer, pl_module)
        self._suite = None

    def state_dict(self) -> dict[str, Any]:
        """The latest scores, and the optimizer step they are of."""
        return self._latest

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the latest scores."""
        self._latest = state_dict

    def _evaluate(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last_step = trainer.global_step
        suite = self._suite
        assert suite is not None  # setup comes first
        policy = cast(CausalLMModule, pl_module).policy
        with trainer.precision_plugin.val_step_context(), unsharded(policy):
            scores = suite.evaluate(policy, self.limit, self.batch_tokens)
        # All processes use the first one's scores: code that a model writes may time out in one and not in another.
        metrics = trainer.strategy.broadcast(_metrics(scores))
        self._latest = {"step": trainer.global_step, "scores": metrics}
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})
        # LightningModule.log would write only at every log_every_n_steps-th step, and never after the last one.
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)


def _metrics(scores: PriorScores) -> dict[str, float]:
    """Scores and the ends of their intervals by metric name."""
    metrics = {}
    for score in (*scores.scores, *([] if scores.average is None else [scores.average])):
        metrics[f"prior/{score.task}"] = score.score
        if score.interval is not None:
            metrics[f"prior_low/{score.task}"], metrics[f"prior_high/{score.task}"] = score.interval
    return metrics
