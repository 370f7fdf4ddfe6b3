"""Evaluation outside the training loop: prior tasks, and the preflight before training."""

from lightning_sdft.evaluation.prior_scores import PriorScore, PriorScores
from lightning_sdft.evaluation.prior_tasks import PAPER_TASKS, PriorSuite

__all__ = ["PAPER_TASKS", "PriorScore", "PriorScores", "PriorSuite"]
