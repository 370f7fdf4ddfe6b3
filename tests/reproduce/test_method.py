"""SDFT learns at least as much as SFT and forgets a fifth of it at most; a broken teacher is found out.

One skill and two seeds of what ``make reproduce`` does, each method at its best learning rate there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from lightning.pytorch import Callback

from lightning_sdft.callbacks import EMATeacher
from lightning_sdft.data.example import Example
from lightning_sdft.modules import CausalLMModule, DistillationModule, SDFTModule
from lightning_sdft.policy import Policy, TokenSequence
from lightning_sdft.rollout import Rollout
from lightning_sdft.teacher import CopiedTeacher
from tests.reproduce.training import Result, Summary, build, promise_holds, run

SKILL = "swap-ends"
SEEDS = (0, 1)
RATES = {"SFT": 3e-4, "SDFT": 3e-4}

pytestmark = [pytest.mark.method, pytest.mark.xdist_group("method")]


@pytest.fixture(scope="module")
def sft() -> Summary:
    return Summary.of([run("SFT", SKILL, RATES["SFT"], seed) for seed in SEEDS])


def test_sdft_learns_as_much_as_sft_and_forgets_little(sft: Summary) -> None:
    results = [run("SDFT", SKILL, RATES["SDFT"], seed) for seed in SEEDS]
    assert all(result.new > result.base_new + 0.2 for result in results)
    assert promise_holds(Summary.of(results), sft)


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


def without_demonstration(method: str, learning_rate: float) -> CausalLMModule:
    budgets = {"max_prompt_tokens": 16, "max_completion_tokens": 24, "max_teacher_prompt_tokens": 64}
    return DistillationModule("zoo/laptop", learning_rate=learning_rate, privileged_context="none", **budgets)


def with_other_demonstration(method: str, learning_rate: float) -> CausalLMModule:
    return build(method, learning_rate, OtherDemonstration)


@pytest.mark.parametrize(
    ("build_module", "teacher_callback"),
    [
        pytest.param(without_demonstration, lambda: EMATeacher(0.01), id="no demonstration"),
        pytest.param(with_other_demonstration, lambda: EMATeacher(0.01), id="another example's demonstration"),
        pytest.param(build, lambda: BackwardsEMATeacher(0.01), id="update backwards"),
    ],
)
def test_broken_teacher_breaks_the_promise(
    build_module: Callable[[str, float], CausalLMModule], teacher_callback: Callable[[], Callback], sft: Summary
) -> None:
    result: Result = run("SDFT", SKILL, RATES["SDFT"], 0, build_module=build_module, teacher_callback=teacher_callback)
    assert not promise_holds(Summary.of([result]), sft)
