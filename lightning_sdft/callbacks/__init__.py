"""Callbacks: what happens beside the training step."""

from lightning_sdft.callbacks.answer_table import AnswerTable
from lightning_sdft.callbacks.base_comparison import BaseComparison
from lightning_sdft.callbacks.best_checkpoint import BestCheckpoint
from lightning_sdft.callbacks.dashboard import Dashboard
from lightning_sdft.callbacks.gated_teacher import GatedTeacher
from lightning_sdft.callbacks.hyperparameters import HyperparameterSummary
from lightning_sdft.callbacks.kl_to_base import KLToBase
from lightning_sdft.callbacks.l2_sp import L2SP
from lightning_sdft.callbacks.last_checkpoints import LastCheckpoints
from lightning_sdft.callbacks.pass_at_k import PassAtK
from lightning_sdft.callbacks.prediction_writer import PredictionWriter
from lightning_sdft.callbacks.prior_tasks import PriorTasks
from lightning_sdft.callbacks.progress_bar import PhaseProgressBar
from lightning_sdft.callbacks.rollout_table import RolloutTable
from lightning_sdft.callbacks.run_logger import RunLogger
from lightning_sdft.callbacks.run_size import RunSize
from lightning_sdft.callbacks.teacher_watch import TeacherWatch
from lightning_sdft.callbacks.trade_off import TradeOffPicture

__all__ = [
    "L2SP",
    "AnswerTable",
    "BaseComparison",
    "BestCheckpoint",
    "Dashboard",
    "GatedTeacher",
    "HyperparameterSummary",
    "KLToBase",
    "LastCheckpoints",
    "PassAtK",
    "PhaseProgressBar",
    "PredictionWriter",
    "PriorTasks",
    "RolloutTable",
    "RunLogger",
    "RunSize",
    "TeacherWatch",
    "TradeOffPicture",
]
