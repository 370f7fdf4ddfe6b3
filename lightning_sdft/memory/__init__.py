"""Estimates the memory of a run before anybody rents a machine for it."""

from lightning_sdft.memory.estimate import Estimate, estimate
from lightning_sdft.memory.fitting import Fitting, Room, fitting, in_gib, room
from lightning_sdft.memory.lengths import Lengths, lengths_by_budgets, lengths_by_data
from lightning_sdft.memory.plan import TrainerPlan
from lightning_sdft.memory.rehearsal import Phase
from lightning_sdft.memory.remedies import Remedy, remedies

__all__ = [
    "Estimate",
    "Fitting",
    "Lengths",
    "Phase",
    "Remedy",
    "Room",
    "TrainerPlan",
    "estimate",
    "fitting",
    "in_gib",
    "lengths_by_budgets",
    "lengths_by_data",
    "remedies",
    "room",
]
