"""The teacher: a policy without gradient, whose weights follow the student's or stand still."""

from lightning_sdft.teacher.adapter import AdapterTeacher, BaseModelTeacher
from lightning_sdft.teacher.base import LiveTeacher, Teacher
from lightning_sdft.teacher.compensated import CompensatedTeacher
from lightning_sdft.teacher.copied import CopiedTeacher, ema_update_
from lightning_sdft.teacher.ema_teacher import EMATeacher
from lightning_sdft.teacher.forms import COPIED_TEACHERS, TeacherMemory
from lightning_sdft.teacher.offloaded import OffloadedTeacher

__all__ = [
    "COPIED_TEACHERS",
    "AdapterTeacher",
    "BaseModelTeacher",
    "CompensatedTeacher",
    "CopiedTeacher",
    "EMATeacher",
    "LiveTeacher",
    "OffloadedTeacher",
    "Teacher",
    "TeacherMemory",
    "ema_update_",
]
