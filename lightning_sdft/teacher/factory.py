"""The choice of a teacher in the config, from which the teacher of a student is built.

[1] Hübotter et al., Reinforcement Learning via Self-Distillation, 2026, https://arxiv.org/abs/2601.20802
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from lightning_sdft.errors import SettingError
from lightning_sdft.policy import Policy
from lightning_sdft.policy.adapter_view import AdapterView
from lightning_sdft.policy.lora import LoRA
from lightning_sdft.policy.tokenizer import pretrained_source
from lightning_sdft.settings import Fraction, check_ranges
from lightning_sdft.teacher.adapter import AdapterTeacher
from lightning_sdft.teacher.base import SharedTeacher, Teacher
from lightning_sdft.teacher.compensated import CompensatedTeacher
from lightning_sdft.teacher.full import FullTeacher
from lightning_sdft.teacher.mixed import MixedTeacher
from lightning_sdft.teacher.offloaded import OffloadedTeacher

__all__ = [
    "FORMS",
    "BaseTeacher",
    "CopiedTeacher",
    "LiveTeacher",
    "TeacherChoice",
    "TeacherMemory",
    "TrustRegionTeacher",
]

TeacherMemory = Literal["float32", "compensated", "offload"]

FORMS: dict[TeacherMemory, type[FullTeacher]] = {
    "float32": FullTeacher,
    "compensated": CompensatedTeacher,
    "offload": OffloadedTeacher,
}
"""The class of a full copy of the model, by the setting ``memory`` of :class:`CopiedTeacher`."""


class TeacherChoice(ABC):
    """The settings of a teacher, which build it."""

    model: str | None = None
    """The model that the teacher starts from; by default it starts from the student."""

    can_move: ClassVar[bool] = False
    """Whether a callback can change the teacher's weights."""

    @abstractmethod
    def build(self, student: Policy, lora: LoRA | None, attention: str | None, trust_remote_code: bool) -> Teacher:
        """Build the teacher of a student.

        Args:
            student: The student when training starts.
            lora: Settings of the student's adapter, if it has one.
            attention: Attention implementation, if the teacher is another model.
            trust_remote_code: Whether code that comes with that other model may be run.
        """

    def problem(self, lora: LoRA | None, writes: bool) -> str | None:
        """Why this teacher does not work with the module's other settings, or ``None`` if it does.

        Args:
            lora: Settings of the student's adapter, if it has one.
            writes: Whether the teacher generates rollouts, all of them or a share.
        """
        return None


@dataclass(frozen=True)
class CopiedTeacher(TeacherChoice):
    """A copy of the student when training starts; with ``lora``, a copy of its adapter.

    The copy stays frozen unless the callback :class:`EMATeacher` updates it.

    Args:
        memory: How to store the weights of a full copy of the model; the EMA is as exact as in float32 in every case.
            ``float32`` takes 4 bytes per parameter on the device. ``compensated`` also takes 4 bytes, 2 of them for the
            bfloat16 weights with which the teacher computes, at the precision and speed of a bfloat16 model; use it
            with ``bf16-true``, where a float32 teacher would compute in float32. ``offload`` takes 4 bytes per
            parameter of CPU memory instead, and on the device only as much as the largest block or the head needs;
            each micro-batch copies the whole teacher to the device, and each update the whole student to the CPU.
        model: Start from the weights of this model instead of the student's: a folder, hub id or ``.gguf`` file.

    Raises:
        SettingError: If ``memory`` is none of these.
    """

    can_move: ClassVar[bool] = True

    memory: TeacherMemory = "float32"
    model: str | None = None

    def __post_init__(self) -> None:
        if self.memory not in FORMS:
            raise SettingError(f"memory={self.memory} of a CopiedTeacher is none of {', '.join(FORMS)}")

    def build(self, student: Policy, lora: LoRA | None, attention: str | None, trust_remote_code: bool) -> Teacher:
        """Copy the student, its adapter, or another model."""
        if self.model is not None:
            with torch.device("cpu"):  # an offloaded teacher must never be whole on the device
                other = Policy.load(self.model, True, attention, trust_remote_code, tokenizer=student.tokenizer)
                return self.copy_of(other)
        return self.copy_of(student) if lora is None else AdapterTeacher(student, lora)

    def copy_of(self, policy: Policy) -> FullTeacher:
        """A full copy of a policy, stored as ``memory`` says."""
        return FORMS[self.memory](policy)

    def problem(self, lora: LoRA | None, writes: bool) -> str | None:
        """Why the ``memory`` does not work with these settings, or ``None`` if it does.

        Raises:
            PolicyError: If there is no such ``model``, before the student is loaded.
        """
        if self.model is not None:
            pretrained_source(self.model)
        if self.memory != "float32" and lora is not None and self.model is None:
            return (
                f"with lora the teacher is an adapter, and CopiedTeacher(memory={self.memory}) is for a copy of the "
                "whole model; leave memory out, or train without lora"
            )
        if self.memory == "offload" and writes:
            return (
                "rollout_source=teacher and teacher_share would send the whole teacher of "
                "CopiedTeacher(memory=offload) to the device for every token; use memory=compensated or float32"
            )
        return None


@dataclass(frozen=True)
class LiveTeacher(TeacherChoice):
    """The student itself, with its current weights at every step."""

    def build(self, student: Policy, lora: LoRA | None, attention: str | None, trust_remote_code: bool) -> Teacher:
        """Use the student as its own teacher."""
        return SharedTeacher(student)


@dataclass(frozen=True)
class BaseTeacher(TeacherChoice):
    """The student without its adapter: the base model of training with ``lora``, which stays frozen."""

    def build(self, student: Policy, lora: LoRA | None, attention: str | None, trust_remote_code: bool) -> Teacher:
        """Use the student's model without its adapter."""
        return SharedTeacher(AdapterView(student, None))

    def problem(self, lora: LoRA | None, writes: bool) -> str | None:
        """Why there is no base model to use, or ``None`` if there is one."""
        if lora is None:
            return (
                "BaseTeacher is the model without its adapter, and there is none: set lora, or use CopiedTeacher and "
                "leave EMATeacher out, so that the copy keeps the weights that it has when training starts"
            )
        return None


@dataclass(frozen=True)
class TrustRegionTeacher(TeacherChoice):
    """The trust-region teacher of [1]: a frozen reference, mixed with the student as it is at every step.

    The teacher's distribution is `softmax((1 - c) z_reference + c z_student)`, where both models are shown what only
    the teacher sees; no gradient flows through the student here. The reference is the student when training starts, in
    float32; with ``lora``, the model without its adapter, which takes no memory. It stays as it is: EMATeacher and
    GatedTeacher are refused.

    The mixture is no model of its own. So it writes no rollouts and is not exported, and wherever the teacher is asked
    to answer, as by TeacherWatch, the reference answers.

    Args:
        student_share: c; by default that of the code of [1]. With 0 the teacher is the reference.

    Raises:
        SettingError: If ``student_share`` is not within [0, 1).
    """

    student_share: Fraction = 0.05

    def __post_init__(self) -> None:
        check_ranges(TrustRegionTeacher, vars(self))

    def build(self, student: Policy, lora: LoRA | None, attention: str | None, trust_remote_code: bool) -> Teacher:
        """Copy the student, or take its model without the adapter, and mix the two."""
        reference = FullTeacher(student) if lora is None else SharedTeacher(AdapterView(student, None))
        return MixedTeacher(reference, student, self.student_share)

    def problem(self, lora: LoRA | None, writes: bool) -> str | None:
        """Why rollouts cannot be the teacher's, or ``None`` if they are not."""
        if writes:
            return (
                "rollout_source=teacher and teacher_share need a teacher that can generate, and TrustRegionTeacher is "
                "a mixture of two models that cannot; use CopiedTeacher, LiveTeacher or, with lora, BaseTeacher"
            )
        return None


# Checkpoints store these classes in their hyperparameters and are loaded with weights_only=True.
torch.serialization.add_safe_globals([CopiedTeacher, LiveTeacher, BaseTeacher, TrustRegionTeacher])
