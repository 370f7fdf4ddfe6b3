"""Self-Distillation Fine-Tuning.

[1] Shenfeld et al., Self-Distillation Enables Continual Learning, 2026, https://arxiv.org/abs/2601.19897
"""

from __future__ import annotations

from typing import Any, Literal

from lightning_sdft.modules.distillation import DistillationModule
from lightning_sdft.settings import Natural

__all__ = ["SDFTModule"]


class SDFTModule(DistillationModule):
    """SDFT [1]: the teacher is the model itself, which also sees an expert demonstration for the prompt.

    The student answers on its own; forward KL pulls it towards the teacher's next-token distributions on that answer.
    Add the callback :class:`EMATeacher`, which makes the teacher follow the student at rate 0.01; without it the
    teacher stays as it is when training starts.

    Args:
        model: See :class:`CausalLMModule`.
        privileged_context: What only the teacher sees: the example's ``demonstration``, its ``article``, or ``both``.
        skip_tokens: Number of leading completion tokens left out of the loss, so that the student does not learn a
            preamble in which the teacher refers to the demonstration.
        **kwargs: See :class:`DistillationModule`.
    """

    def __init__(
        self,
        model: str,
        privileged_context: Literal["demonstration", "article", "both"] = "demonstration",
        skip_tokens: Natural = 3,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, privileged_context=privileged_context, skip_tokens=skip_tokens, **kwargs)
