"""Teachers that are broken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lightning.pytorch import Callback, LightningModule

from lightning_sdft.modules import CausalLMModule, SDFTModule
from lightning_sdft.policy import Policy
from lightning_sdft.records import Example, Rollout, TokenSequence
from lightning_sdft.teacher import EMATeacher, FullTeacher


class OtherDemonstration(Callback):
    """The teacher sees the demonstration of the next example."""

    def on_fit_start(self, trainer: object, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, SDFTModule)
        shown = pl_module.teacher_sequences

        def of_others(examples: Sequence[Example], rollouts: Sequence[Rollout]) -> list[TokenSequence]:
            others = [*examples[1:], examples[0]]
            pairs = zip(examples, others, strict=True)
            return shown([replace(one, demonstration=other.demonstration) for one, other in pairs], rollouts)

        pl_module.teacher_sequences = of_others  # type: ignore[method-assign]


class BackwardsEMATeacher(EMATeacher):
    """The teacher takes a step away from the student each time."""

    def on_fit_start(self, trainer: object, pl_module: CausalLMModule) -> None:  # type: ignore[override]
        teacher = pl_module.teacher
        assert isinstance(teacher, FullTeacher)

        def away(student: Policy, rate: float) -> None:
            FullTeacher.update_(teacher, student, -rate)

        teacher.update_ = away  # type: ignore[method-assign]
