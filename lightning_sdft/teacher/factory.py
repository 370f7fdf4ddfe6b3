"""Which teacher a module has: settings, from which the teacher of a student is built."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch

from lightning_sdft.policy import Policy
from lightning_sdft.policy.adapter_view import AdapterView
from lightning_sdft.policy.lora import LoRA
from lightning_sdft.teacher.adapter import AdapterTeacher
from lightning_sdft.teacher.base import SharedTeacher, Teacher
from lightning_sdft.teacher.compensated import CompensatedTeacher
from lightning_sdft.teacher.full import FullTeacher
from lightning_sdft.teacher.offloaded import OffloadedTeacher

__all__ = ["FORMS", "BaseTeacher", "CopiedTeacher", "LiveTeacher", "TeacherChoice", "TeacherMemory"]

TeacherMemory = Literal["float32", "compensated", "offload"]

FORMS: dict[TeacherMemory, type[FullTeacher]] = {
    "float32": FullTeacher,
    "compensated": CompensatedTeacher,
    "offload": OffloadedTeacher,
}
"""The class that keeps the weights of a whole copy, by the ``memory`` that users give."""


class TeacherChoice(ABC):
    """Says who the teacher is, and builds it."""

    model: str | None = None
    """The model that the teacher starts from; without one, it starts from the student."""

    @abstractmethod
    def build(self, student: Policy, lora: LoRA | None, attention: str | None, trust_remote_code: bool) -> Teacher:
        """Build the teacher of a student.

        Args:
            student: The student as it is.
            lora: The student's adapter.
            attention: Implementation of attention of another model.
            trust_remote_code: Whether code that comes with another model may be run.
        """

    def problem(self, lora: LoRA | None, rollout_source: str) -> str | None:
        """Why a module with these settings cannot have such a teacher, or ``None``.

        Args:
            lora: The student's adapter.
            rollout_source: Who writes the rollouts.
        """
        return None


@dataclass(frozen=True)
class CopiedTeacher(TeacherChoice):
    """A copy of the student as it is when training starts; with ``lora``, a copy of its adapter.

    It stands still unless the callback :class:`EMATeacher` moves it.

    Args:
        memory: How a copy of the whole model keeps its weights; its average is that of float32 in every form.
            ``float32`` takes 4 bytes a parameter on the device. ``compensated`` takes as many, half of them for the
            bfloat16 weights with which it reads, at the precision and the speed of a bfloat16 model: the form for
            ``bf16-true``, where one in float32 would read in float32. ``offload`` takes 4 bytes a parameter of the
            CPU's memory instead, and on the device those of the largest block or the head at a time: each micro-batch
            sends the whole teacher there, and each update the whole student back.
        model: Start from these weights instead of the student's: a folder, hub id or ``.gguf`` file.

    Raises:
        ValueError: If there is no such ``memory``.
    """

    memory: TeacherMemory = "float32"
    model: str | None = None

    def __post_init__(self) -> None:
        if self.memory not in FORMS:
            raise ValueError(f"memory={self.memory} of a CopiedTeacher is none of {', '.join(FORMS)}")

    def build(self, student: Policy, lora: LoRA | None, attention: str | None, trust_remote_code: bool) -> Teacher:
        """Copy the student, its adapter, or another model."""
        if self.model is not None:
            with torch.device("cpu"):  # an offloaded teacher is nowhere else as a whole
                other = Policy.load(self.model, True, attention, trust_remote_code, tokenizer=student.tokenizer)
                return self.copy_of(other)
        return self.copy_of(student) if lora is None else AdapterTeacher(student, lora)

    def copy_of(self, policy: Policy) -> FullTeacher:
        """A copy of a whole policy in the form that ``memory`` asks for."""
        return FORMS[self.memory](policy)

    def problem(self, lora: LoRA | None, rollout_source: str) -> str | None:
        """Why there can be no copy in this form, or ``None``."""
        if self.memory != "float32" and lora is not None and self.model is None:
            return (
                f"with lora the teacher is an adapter, and CopiedTeacher(memory={self.memory}) is for a copy of the "
                "whole model; leave memory out, or train without lora"
            )
        if self.memory == "offload" and rollout_source == "teacher":
            return (
                "rollout_source=teacher would send the whole teacher of CopiedTeacher(memory=offload) to the device "
                "for every token; take memory=compensated or float32"
            )
        return None


@dataclass(frozen=True)
class LiveTeacher(TeacherChoice):
    """The student itself, as it is at every step."""

    def build(self, student: Policy, lora: LoRA | None, attention: str | None, trust_remote_code: bool) -> Teacher:
        """Let the student teach."""
        return SharedTeacher(student)


@dataclass(frozen=True)
class BaseTeacher(TeacherChoice):
    """The student without its adapter: the model as it was before training with ``lora``. It stands still."""

    def build(self, student: Policy, lora: LoRA | None, attention: str | None, trust_remote_code: bool) -> Teacher:
        """Let the student's model teach without the adapter."""
        return SharedTeacher(AdapterView(student, None))

    def problem(self, lora: LoRA | None, rollout_source: str) -> str | None:
        """Why there is no such base, or ``None``."""
        if lora is None:
            return (
                "BaseTeacher is the model without its adapter, and there is none: set lora, or use CopiedTeacher and "
                "leave EMATeacher out, by which the copy stays as it is when training starts"
            )
        return None


# A checkpoint may name them in its hyper-parameters, and is loaded without pickle's freedom.
torch.serialization.add_safe_globals([CopiedTeacher, LiveTeacher, BaseTeacher])
