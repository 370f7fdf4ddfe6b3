"""What the callbacks that change the teacher refuse, all alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lightning_sdft.callbacks import GatedTeacher
from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.errors import SettingError
from lightning_sdft.grading.exact_match import ExactMatch
from lightning_sdft.modules import CausalLMModule, DistillationModule, SDFTModule, SFTModule
from lightning_sdft.records import Example
from lightning_sdft.teacher import BaseTeacher, CopiedTeacher, EMATeacher, LiveTeacher
from tests.modules.conftest import question
from tests.teacher.test_ema_teacher import ADAPTER


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        (SFTModule, {}),
        (DistillationModule, {"teacher": LiveTeacher()}),
        (DistillationModule, {"teacher": BaseTeacher(), "lora": ADAPTER}),
        (DistillationModule, {"teacher": CopiedTeacher(model="zoo/laptop")}),  # of other shapes
        (DistillationModule, {"teacher": CopiedTeacher(model="zoo/laptop"), "lora": ADAPTER}),
    ],
)
def test_module_without_a_teacher_that_can_follow_is_refused(
    method: type[CausalLMModule],
    arguments: dict[str, Any],
    words_module: Callable[..., CausalLMModule],
    words_data: Any,
    make_trainer: Any,
) -> None:
    trainer = make_trainer(callbacks=[EMATeacher()])
    module = words_module(method, **arguments)
    with pytest.raises(SettingError, match=f"{method.__name__} has none"):
        trainer.fit(module, datamodule=words_data())
    if not isinstance(arguments.get("teacher"), CopiedTeacher):  # whose shapes are not known before
        assert not hasattr(module, "policy")


@pytest.mark.parametrize("names", ["EMATeacher and GatedTeacher", "GatedTeacher and EMATeacher"])
def test_two_that_change_the_teacher_are_refused_before_a_model_is_loaded_and_may_be_there_in_evaluation(
    names: str, words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    both = [EMATeacher(), GatedTeacher()]
    trainer = make_trainer(callbacks=both if names.startswith("EMA") else both[::-1], limit_val_batches=1)
    module = words_module(SDFTModule)
    asked = [Example(each.id, each.prompt, each.demonstration, reference="w1") for each in map(question, range(2))]
    data = words_data(validation=[EvaluationSet(asked, {"new": ExactMatch()})])
    with pytest.raises(
        SettingError, match=f"^{names} would both change the teacher.* leave all but one out of trainer"
    ):
        trainer.fit(module, datamodule=data)
    assert not hasattr(module, "policy")
    trainer.validate(module, datamodule=data, verbose=False)
    assert "val/accuracy" in trainer.callback_metrics
