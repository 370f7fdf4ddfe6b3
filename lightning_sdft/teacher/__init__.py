"""The teacher: a policy that is never trained by gradient, and follows the student by an EMA or stays frozen."""

from lightning_sdft.teacher.adapter import AdapterTeacher
from lightning_sdft.teacher.base import SharedTeacher, Teacher
from lightning_sdft.teacher.compensated import CompensatedTeacher
from lightning_sdft.teacher.ema_teacher import EMATeacher
from lightning_sdft.teacher.factory import (
    FORMS,
    BaseTeacher,
    CopiedTeacher,
    LiveTeacher,
    TeacherChoice,
    TeacherMemory,
    TrustRegionTeacher,
)
from lightning_sdft.teacher.full import FullTeacher, ema_update_
from lightning_sdft.teacher.mixed import MixedTeacher
from lightning_sdft.teacher.offloaded import OffloadedTeacher
from lightning_sdft.teacher.update import HasTeacher, TeacherUpdate

__all__ = [
    "FORMS",
    "AdapterTeacher",
    "BaseTeacher",
    "CompensatedTeacher",
    "CopiedTeacher",
    "EMATeacher",
    "FullTeacher",
    "HasTeacher",
    "LiveTeacher",
    "MixedTeacher",
    "OffloadedTeacher",
    "SharedTeacher",
    "Teacher",
    "TeacherChoice",
    "TeacherMemory",
    "TeacherUpdate",
    "TrustRegionTeacher",
    "ema_update_",
]
