"""The teacher that a module's arguments ask for."""

from __future__ import annotations

from typing import Literal

import torch

from lightning_sdft.policy import Policy
from lightning_sdft.policy.lora import LoRA
from lightning_sdft.teacher import (
    COPIED_TEACHERS,
    AdapterTeacher,
    BaseModelTeacher,
    LiveTeacher,
    Teacher,
    TeacherMemory,
)

__all__ = ["TeacherKind", "check_teacher", "make_teacher"]

TeacherKind = Literal["copy", "live", "base"]


def check_teacher(
    kind: TeacherKind, model: str | None, memory: TeacherMemory, lora: LoRA | None, rollout_source: str
) -> None:
    """Refuse arguments that contradict each other.

    Args:
        kind: See ``teacher`` of :class:`DistillationModule`, as of the others ``teacher_model`` and so on.
        model: Weights that the teacher starts from instead of the student's.
        memory: How a copied teacher keeps its weights.
        lora: The student's adapter.
        rollout_source: Who writes the rollouts.

    Raises:
        ValueError: If there cannot be such a teacher.
    """
    if kind != "copy" and model is not None:
        itself = {"live": "the student itself", "base": "the student's own base"}[kind]
        raise ValueError(f"teacher={kind} is {itself} and cannot start from teacher_model={model}")
    if kind == "base" and lora is None:
        raise ValueError(
            "teacher=base is the model without its adapter, and there is none: set lora, or use teacher=copy and leave "
            "EMATeacher out, by which the copy stays as it is when training starts"
        )
    if memory != "float32" and (kind != "copy" or (lora is not None and model is None)):
        raise ValueError(
            f"teacher={kind}{' with lora' if lora is not None else ''} keeps no whole model as "
            f"teacher_memory={memory}; leave teacher_memory out, or take teacher=copy without lora"
        )
    if rollout_source == "teacher" and memory == "offload":
        raise ValueError(
            "rollout_source=teacher would send a teacher with teacher_memory=offload to the device for every token; "
            "take teacher_memory=compensated or float32"
        )


def make_teacher(
    student: Policy,
    kind: TeacherKind,
    model: str | None,
    memory: TeacherMemory,
    lora: LoRA | None,
    attention: str | None,
    trust_remote_code: bool,
) -> Teacher:
    """Build a teacher of a student, or of another model.

    Args:
        student: The student as it is.
        kind: See :func:`check_teacher`, as of ``model``, ``memory`` and ``lora``.
        model: Weights that the teacher starts from instead of the student's.
        memory: How a copied teacher keeps its weights.
        lora: The student's adapter.
        attention: Implementation of attention of another model.
        trust_remote_code: Whether code that comes with another model may be run.
    """
    if kind == "live":
        return LiveTeacher(student)
    if kind == "base":
        return BaseModelTeacher(student)
    if model is not None:
        with torch.device("cpu"):  # an offloaded teacher is nowhere else as a whole
            other = Policy.load(model, True, attention, trust_remote_code, tokenizer=student.tokenizer)
            return COPIED_TEACHERS[memory](other)
    return COPIED_TEACHERS[memory](student) if lora is None else AdapterTeacher(student, lora)
