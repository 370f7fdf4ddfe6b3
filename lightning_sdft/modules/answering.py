"""Validation, test and prediction: a policy that answers greedily and is graded."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from lightning.pytorch import LightningModule

from lightning_sdft.distributed.sharding import whole
from lightning_sdft.modules.graded_sets import GradedSets
from lightning_sdft.policy import Policy
from lightning_sdft.policy.tokenizer import Tokenizer
from lightning_sdft.records import GREEDY, Example, Rollout
from lightning_sdft.rollout import generate

__all__ = ["AnsweringModule"]


class AnsweringModule(LightningModule):
    """A policy that is evaluated; a subclass loads it, and says which sets it answers and how long it may write."""

    policy: Policy
    tokenizer: Tokenizer
    graded: GradedSets
    max_completion_tokens: int
    _gathered: AbstractContextManager[None]

    # Sharded weights are gathered once for an evaluation, of which processes may have different shares

    def on_validation_start(self) -> None:
        """Gather the weights where they are sharded."""
        self._gathered = whole(self.policy)
        self._gathered.__enter__()

    def on_test_start(self) -> None:
        """Gather the weights where they are sharded."""
        self.on_validation_start()

    def on_predict_start(self) -> None:
        """Gather the weights where they are sharded."""
        self.on_validation_start()

    def _end_evaluation(self) -> None:
        """Cut the weights again, before they may be saved."""
        self._gathered.__exit__(None, None, None)

    def respond(self, examples: Sequence[Example]) -> list[Rollout]:
        """Answer prompts greedily."""
        prompts = self.tokenizer.encode_all([example.prompt for example in examples])
        return generate(self.policy, prompts, self.max_completion_tokens, GREEDY)

    def validation_step(
        self, batch: list[Example], batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, list[Rollout]]:
        """Answer greedily and grade."""
        rollouts = self.respond(batch)
        responses = [self.tokenizer.decode(rollout.completion) for rollout in rollouts]
        self.graded.update(dataloader_idx, batch, responses)
        self.graded.count(dataloader_idx, [len(rollout.completion) for rollout in rollouts])
        return {"rollouts": rollouts}

    def test_step(self, batch: list[Example], batch_idx: int, dataloader_idx: int = 0) -> dict[str, list[Rollout]]:
        """Answer greedily and grade."""
        return self.validation_step(batch, batch_idx, dataloader_idx)

    def predict_step(self, batch: list[Example], batch_idx: int, dataloader_idx: int = 0) -> list[dict[str, Any]]:
        """Answer greedily: one record per example with its verdicts, for a line of JSON each."""
        rollouts = self.respond(batch)
        responses = [self.tokenizer.decode(rollout.completion) for rollout in rollouts]
        verdicts = self.graded.verdicts(dataloader_idx, batch, responses)
        return [
            {
                "id": example.id,
                "prompt": example.prompt,
                "response": response,
                "finished": rollout.finished,
                "reference": example.reference,
                "correct": correct,
            }
            for example, rollout, response, correct in zip(batch, rollouts, responses, verdicts, strict=True)
        ]

    def on_validation_epoch_end(self) -> None:
        """Log accuracies: ``val/accuracy/<set>`` of new skills and ``prior/<set>`` of prior ones, and their means.

        The ends of their 95% intervals stand under ``val/accuracy_low``, ``val/accuracy_high`` and so on, and the mean
        tokens of responses under ``val/length/<set>``.
        """
        self._end_evaluation()
        self._log_accuracies("val/accuracy", "prior")
        self.log_dict(self.graded.lengths("val/length"), batch_size=1)

    def on_test_epoch_end(self) -> None:
        """Log accuracies under ``test/accuracy`` and ``test/prior``, mean tokens under ``test/length``."""
        self._end_evaluation()
        self._log_accuracies("test/accuracy", "test/prior")
        self.log_dict(self.graded.lengths("test/length"), batch_size=1)

    def on_predict_epoch_end(self) -> None:
        """End the evaluation."""
        self._end_evaluation()

    def _log_accuracies(self, new: str, prior: str) -> None:
        each, averages = self.graded.accuracies(new, prior)
        self.log_dict(each, batch_size=1)
        for name, value in averages.items():
            self.log(name, value, prog_bar=name in (new, f"{prior}/average"), batch_size=1)
