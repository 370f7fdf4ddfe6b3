"""Evaluation beside the training loop: prior tasks."""

from lightning_sdft.evaluation.prior_tasks import PAPER_TASKS, PriorScore, PriorScores, PriorSuite, PriorTaskError

__all__ = ["PAPER_TASKS", "PriorScore", "PriorScores", "PriorSuite", "PriorTaskError"]
