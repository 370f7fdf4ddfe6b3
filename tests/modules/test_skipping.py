"""Some tokens must be left in the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lightning_sdft.errors import SettingError
from lightning_sdft.modules import DistillationModule, SDFTModule
from tests.modules.conftest import EXAMPLES, SHOWN, ready
from tests.modules.dense import step


def test_skipping_the_longest_completion_is_refused(words_module: Callable[..., DistillationModule]) -> None:
    with pytest.raises(SettingError, match=r"skip_tokens=8 leaves no token in the loss.* max_completion_tokens=8"):
        words_module(SDFTModule, skip_tokens=8)
    words_module(SDFTModule, skip_tokens=7)


def test_skipping_every_demonstration_is_refused_before_training(
    words_module: Callable[..., DistillationModule], words_data: Any, make_trainer: Any
) -> None:
    settings = {**SHOWN, "rollout_source": "demonstration", "learning_rate": 0.0}
    module = words_module(DistillationModule, skip_tokens=5, **settings)
    with pytest.raises(SettingError, match="the longest of 16 demonstrations has 5; lower skip_tokens"):
        make_trainer().fit(module, datamodule=words_data())
    assert not hasattr(module, "policy")
    make_trainer(max_steps=1).fit(words_module(DistillationModule, skip_tokens=4, **settings), datamodule=words_data())


@pytest.mark.filterwarnings("error:no completion of this optimizer step")
def test_step_without_a_token_in_the_loss_is_warned_of(words_module: Callable[..., DistillationModule]) -> None:
    shortest = EXAMPLES[:1]
    settings = {**SHOWN, "rollout_source": "demonstration"}
    step(ready(words_module(DistillationModule, **settings)), shortest)
    with pytest.raises(UserWarning, match="more than skip_tokens=7 tokens, so nothing is learned"):
        step(ready(words_module(DistillationModule, skip_tokens=7, **settings)), shortest)
