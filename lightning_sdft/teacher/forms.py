"""How a copied teacher keeps its weights, by the name that users give."""

from __future__ import annotations

from typing import Literal

from lightning_sdft.teacher.compensated import CompensatedTeacher
from lightning_sdft.teacher.copied import CopiedTeacher
from lightning_sdft.teacher.offloaded import OffloadedTeacher

__all__ = ["COPIED_TEACHERS", "TeacherMemory"]

TeacherMemory = Literal["float32", "compensated", "offload"]

COPIED_TEACHERS: dict[TeacherMemory, type[CopiedTeacher]] = {
    "float32": CopiedTeacher,
    "compensated": CompensatedTeacher,
    "offload": OffloadedTeacher,
}
"""Memory to form of teacher."""
