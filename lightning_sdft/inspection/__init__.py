"""A look inside self-distillation: answers of student and teacher, and where the two disagree."""

from lightning_sdft.inspection.look import inspect_rollouts, taught, token_looks
from lightning_sdft.inspection.records import Answer, Candidate, RolloutLook, TokenLook
from lightning_sdft.inspection.views import Inspection

__all__ = [
    "Answer",
    "Candidate",
    "Inspection",
    "RolloutLook",
    "TokenLook",
    "inspect_rollouts",
    "taught",
    "token_looks",
]
