"""Re-invocation: brings back what fine-tuning made a model forget.

[1] Lu and Thinking Machines Lab, On-Policy Distillation, 2025, https://thinkingmachines.ai/blog/on-policy-distillation/
[2] Shenfeld et al., Self-Distillation Enables Continual Learning, 2026, https://arxiv.org/abs/2601.19897
"""

from __future__ import annotations

from typing import Any

from lightning_sdft.errors import SettingError
from lightning_sdft.losses import Divergence, ReverseKL
from lightning_sdft.modules.distillation import DistillationModule
from lightning_sdft.teacher import CopiedTeacher, TeacherUpdate

__all__ = ["ReinvokeModule"]


class ReinvokeModule(DistillationModule):
    """Re-invocation [1], a baseline of [2]: after fine-tuning, on-policy distillation from the base model.

    The student answers general prompts, and reverse KL pulls it towards the next-token distributions of the base model,
    which sees the same prompts. The prompts may come from :class:`GeneralDataModule`.

    Args:
        model: The fine-tuned model, such as a folder written by ``lightning-sdft export``.
        teacher: The base model that fine-tuning started from, as :class:`CopiedTeacher` with that ``model``. It stays
            frozen.
        divergence: The divergence to minimise; by default ``ReverseKL``, as in [1].
        **kwargs: See :class:`DistillationModule`.

    Raises:
        SettingError: If ``teacher`` names no model.
    """

    def __init__(self, model: str, teacher: CopiedTeacher, divergence: Divergence | None = None, **kwargs: Any) -> None:
        if not teacher.model:
            raise SettingError("re-invocation needs the base model; give it as teacher=CopiedTeacher(model=...)")
        super().__init__(model, teacher=teacher, divergence=divergence or ReverseKL(), **kwargs)

    def setup(self, stage: str) -> None:
        """Refuse a callback that would change the base model, before it is loaded.

        Raises:
            SettingError: If there is one.
        """
        if stage == "fit" and any(isinstance(callback, TeacherUpdate) for callback in self.trainer.callbacks):  # type: ignore[attr-defined]
            raise SettingError(
                "EMATeacher and GatedTeacher would move the base model towards the student, which has forgotten; "
                "re-invocation needs the base model unchanged: take them out of trainer.callbacks"
            )
        super().setup(stage)
