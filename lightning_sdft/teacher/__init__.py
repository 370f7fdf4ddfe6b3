"""The teacher: a policy without gradient, whose weights follow the student's or stand still."""

from lightning_sdft.teacher.adapter import AdapterTeacher, BaseModelTeacher
from lightning_sdft.teacher.base import LiveTeacher, Teacher
from lightning_sdft.teacher.copied import CopiedTeacher, ema_update_

__all__ = ["AdapterTeacher", "BaseModelTeacher", "CopiedTeacher", "LiveTeacher", "Teacher", "ema_update_"]
