"""Fine-tune language models on demonstrations without making them forget: SDFT, and the methods it is compared with."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_sdft.callbacks import L2SP as L2SP
    from lightning_sdft.callbacks import AnswerTable as AnswerTable
    from lightning_sdft.callbacks import BaseComparison as BaseComparison
    from lightning_sdft.callbacks import BestCheckpoint as BestCheckpoint
    from lightning_sdft.callbacks import Dashboard as Dashboard
    from lightning_sdft.callbacks import GatedTeacher as GatedTeacher
    from lightning_sdft.callbacks import HyperparameterSummary as HyperparameterSummary
    from lightning_sdft.callbacks import KLToBase as KLToBase
    from lightning_sdft.callbacks import LastCheckpoints as LastCheckpoints
    from lightning_sdft.callbacks import PassAtK as PassAtK
    from lightning_sdft.callbacks import PhaseProgressBar as PhaseProgressBar
    from lightning_sdft.callbacks import PredictionWriter as PredictionWriter
    from lightning_sdft.callbacks import PriorTasks as PriorTasks
    from lightning_sdft.callbacks import RolloutTable as RolloutTable
    from lightning_sdft.callbacks import RunLogger as RunLogger
    from lightning_sdft.callbacks import RunSize as RunSize
    from lightning_sdft.callbacks import TeacherWatch as TeacherWatch
    from lightning_sdft.callbacks import TradeOffPicture as TradeOffPicture
    from lightning_sdft.chat import ChatModel as ChatModel
    from lightning_sdft.chat import Endpoint as Endpoint
    from lightning_sdft.chat import LocalChat as LocalChat
    from lightning_sdft.checkpoint import ExactResume as ExactResume
    from lightning_sdft.checkpoint import Preemption as Preemption
    from lightning_sdft.data import DemonstrationDataModule as DemonstrationDataModule
    from lightning_sdft.data import EvaluationSet as EvaluationSet
    from lightning_sdft.data import GeneralDataModule as GeneralDataModule
    from lightning_sdft.data import JsonDataModule as JsonDataModule
    from lightning_sdft.data import KnowledgeDataModule as KnowledgeDataModule
    from lightning_sdft.data import MedicalDataModule as MedicalDataModule
    from lightning_sdft.data import Replay as Replay
    from lightning_sdft.data import ScienceDataModule as ScienceDataModule
    from lightning_sdft.data import Splits as Splits
    from lightning_sdft.data import StringSkillsDataModule as StringSkillsDataModule
    from lightning_sdft.data import ToolUseDataModule as ToolUseDataModule
    from lightning_sdft.errors import DataError as DataError
    from lightning_sdft.grading import Grader as Grader
    from lightning_sdft.grading import Judge as Judge
    from lightning_sdft.grading import JudgedAnswer as JudgedAnswer
    from lightning_sdft.grading import LocalJudge as LocalJudge
    from lightning_sdft.inspection import Inspection as Inspection
    from lightning_sdft.inspection import inspect_rollouts as inspect_rollouts
    from lightning_sdft.losses import AgreementProduct as AgreementProduct
    from lightning_sdft.losses import Clipped as Clipped
    from lightning_sdft.losses import DisagreementMixture as DisagreementMixture
    from lightning_sdft.losses import Divergence as Divergence
    from lightning_sdft.losses import ForwardKL as ForwardKL
    from lightning_sdft.losses import GeometricMixture as GeometricMixture
    from lightning_sdft.losses import InformationBound as InformationBound
    from lightning_sdft.losses import JensenShannon as JensenShannon
    from lightning_sdft.losses import ReverseKL as ReverseKL
    from lightning_sdft.losses import Target as Target
    from lightning_sdft.losses import TokenFocus as TokenFocus
    from lightning_sdft.losses import TopK as TopK
    from lightning_sdft.losses import Toward as Toward
    from lightning_sdft.losses import TruncatedImportance as TruncatedImportance
    from lightning_sdft.modules import CausalLMModule as CausalLMModule
    from lightning_sdft.modules import CPTModule as CPTModule
    from lightning_sdft.modules import DFTModule as DFTModule
    from lightning_sdft.modules import DistillationModule as DistillationModule
    from lightning_sdft.modules import ReinvokeModule as ReinvokeModule
    from lightning_sdft.modules import Retention as Retention
    from lightning_sdft.modules import SDFTModule as SDFTModule
    from lightning_sdft.modules import SDPOModule as SDPOModule
    from lightning_sdft.modules import SequenceDistillationModule as SequenceDistillationModule
    from lightning_sdft.modules import SFTModule as SFTModule
    from lightning_sdft.modules import TeacherShare as TeacherShare
    from lightning_sdft.policy import Policy as Policy
    from lightning_sdft.policy import Thinking as Thinking
    from lightning_sdft.policy.lora import LoRA as LoRA
    from lightning_sdft.records import Example as Example
    from lightning_sdft.records import Rollout as Rollout
    from lightning_sdft.records import Sampling as Sampling
    from lightning_sdft.rollout import ContinuousEngine as ContinuousEngine
    from lightning_sdft.rollout import RolloutEngine as RolloutEngine
    from lightning_sdft.rollout import VLLMEngine as VLLMEngine
    from lightning_sdft.rollout import VLLMServer as VLLMServer
    from lightning_sdft.teacher import BaseTeacher as BaseTeacher
    from lightning_sdft.teacher import CopiedTeacher as CopiedTeacher
    from lightning_sdft.teacher import EMATeacher as EMATeacher
    from lightning_sdft.teacher import LiveTeacher as LiveTeacher
    from lightning_sdft.teacher import Teacher as Teacher
    from lightning_sdft.teacher import TrustRegionTeacher as TrustRegionTeacher

__version__ = "0.1.0"

_HOMES = {
    "callbacks": (
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
        "RunSize",
        "RunLogger",
        "TeacherWatch",
        "TradeOffPicture",
    ),
    "checkpoint": ("ExactResume", "Preemption"),
    "chat": ("ChatModel", "Endpoint", "LocalChat"),
    "data": (
        "DemonstrationDataModule",
        "EvaluationSet",
        "GeneralDataModule",
        "JsonDataModule",
        "KnowledgeDataModule",
        "MedicalDataModule",
        "Replay",
        "ScienceDataModule",
        "Splits",
        "StringSkillsDataModule",
        "ToolUseDataModule",
    ),
    "errors": ("DataError",),
    "grading": ("Grader", "Judge", "JudgedAnswer", "LocalJudge"),
    "inspection": ("Inspection", "inspect_rollouts"),
    "losses": (
        "AgreementProduct",
        "Clipped",
        "DisagreementMixture",
        "Divergence",
        "ForwardKL",
        "GeometricMixture",
        "InformationBound",
        "JensenShannon",
        "ReverseKL",
        "Target",
        "TokenFocus",
        "TopK",
        "Toward",
        "TruncatedImportance",
    ),
    "modules": (
        "CPTModule",
        "CausalLMModule",
        "DFTModule",
        "DistillationModule",
        "ReinvokeModule",
        "Retention",
        "SDFTModule",
        "SDPOModule",
        "SFTModule",
        "SequenceDistillationModule",
        "TeacherShare",
    ),
    "policy": ("LoRA", "Policy", "Thinking"),
    "records": ("Example", "Rollout", "Sampling"),
    "rollout": ("ContinuousEngine", "RolloutEngine", "VLLMEngine", "VLLMServer"),
    "teacher": ("BaseTeacher", "CopiedTeacher", "EMATeacher", "LiveTeacher", "Teacher", "TrustRegionTeacher"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, because importing torch and transformers takes seconds."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
