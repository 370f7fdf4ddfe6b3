"""Teachers that are broken."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_sdft.callbacks import EMATeacher
from lightning_sdft.data.example import Example
from lightning_sdft.modules import CausalLMModule, SDFTModule
from lightning_sdft.policy import Policy, TokenSequence
from lightning_sdft.rollout import Rollout
from lightning_sdft.teacher import CopiedTeacher


class OtherDemonstration(SDFTModule):
    """The teacher sees the demonstration of the next example."""

    def teacher_sequences(self, examples: Sequence[Example], rollouts: Sequence[Rollout]) -> list[TokenSequence]:
        others = [*examples[1:], examples[0]]
        shown = [
            Example(example.id, example.prompt, other.demonstration)
            for example, other in zip(examples, others, strict=True)
        ]
        return super().teacher_sequences(shown, rollouts)


class BackwardsEMATeacher(EMATeacher):
    """The teacher takes a step away from the student each time."""

    def on_fit_start(self, trainer: object, pl_module: CausalLMModule) -> None:  # type: ignore[override]
        teacher = pl_module.teacher
        assert isinstance(teacher, CopiedTeacher)

        def away(student: Policy, rate: float) -> None:
            CopiedTeacher.update_(teacher, student, -rate)

        teacher.update_ = away  # type: ignore[method-assign]
