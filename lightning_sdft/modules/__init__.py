"""The methods as LightningModules."""

from lightning_sdft.modules.causal_lm import CausalLMModule
from lightning_sdft.modules.checks import NonFiniteLossError
from lightning_sdft.modules.cpt import CPTModule
from lightning_sdft.modules.dft import DFTModule
from lightning_sdft.modules.distillation import DistillationModule
from lightning_sdft.modules.reinvoke import ReinvokeModule
from lightning_sdft.modules.retention import Retention
from lightning_sdft.modules.rollout_source import TeacherShare
from lightning_sdft.modules.sdft import SDFTModule
from lightning_sdft.modules.sdpo import SDPOModule
from lightning_sdft.modules.sequence_distillation import SequenceDistillationModule
from lightning_sdft.modules.sft import SFTModule

__all__ = [
    "CPTModule",
    "CausalLMModule",
    "DFTModule",
    "DistillationModule",
    "NonFiniteLossError",
    "ReinvokeModule",
    "Retention",
    "SDFTModule",
    "SDPOModule",
    "SFTModule",
    "SequenceDistillationModule",
    "TeacherShare",
]
