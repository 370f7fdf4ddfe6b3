from __future__ import annotations

from typing import Any
from warnings import simplefilter

import pytest

from lightning_sdft.modules import SDFTModule
from lightning_sdft.modules.cut_rollouts import CutRollouts


def warnings(recwarn: pytest.WarningsRecorder) -> list[str]:
    return [str(each.message) for each in recwarn if "max_completion_tokens" in str(each.message)]


@pytest.mark.parametrize(
    ("shares", "count"),
    [
        ([1.0] * 7, 0),
        ([1.0] * 8, 1),
        ([1.0] * 30, 1),
        ([0.5] * 30, 0),
        ([0.0] * 8 + [1.0] * 4, 0),
        ([0.0] * 8 + [1.0] * 5, 1),
    ],
)
def test_one_warning_when_most_rollouts_of_eight_steps_were_cut(
    shares: list[float], count: int, recwarn: pytest.WarningsRecorder
) -> None:
    simplefilter("always")
    cut = CutRollouts()
    for share in shares:
        cut.add(share, 32)
    assert len(warnings(recwarn)) == count


def test_a_run_warns_with_what_to_do(
    words_module: Any, words_data: Any, make_trainer: Any, recwarn: pytest.WarningsRecorder
) -> None:
    module = words_module(SDFTModule, max_completion_tokens=1, learning_rate=0.0)
    make_trainer(max_steps=8).fit(module, datamodule=words_data())
    (warning,) = warnings(recwarn)
    assert "of the rollouts of the last 8 steps were cut at max_completion_tokens=1 before they ended" in warning
    assert "Raise max_completion_tokens, ask for short answers" in warning
