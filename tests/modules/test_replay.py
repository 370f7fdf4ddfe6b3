"""Baselines that hold on to what was there, by examples or by the base model: their losses, and that runs go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from lightning_sdft.data import Replay
from lightning_sdft.modules import Retention, SFTModule
from lightning_sdft.policy import Policy
from lightning_sdft.records import Example
from tests.modules.conftest import question
from tests.modules.dense import log_probabilities
from tests.modules.test_resume import check_resume

EARLIER = [question(index) for index in range(30, 42)]


class Losses(Callback):
    def __init__(self) -> None:
        self.first: float | None = None

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.first = outputs["loss"].item() if self.first is None else self.first


@pytest.mark.usefixtures("double")
def test_loss_is_the_mean_over_the_tokens_of_new_and_replayed_demonstrations(
    words_module: Any, words_data: Any, make_trainer: Any
) -> None:
    new = [question(index) for index in range(9)]
    data = words_data(new, replay=Replay(words_data(EARLIER), 0.25), batch_size=12, micro_batch_size=12)
    losses, module = Losses(), words_module(SFTModule)
    trainer = make_trainer(callbacks=[losses], max_steps=1, accumulate_grad_batches=1, precision="64-true")
    trainer.fit(module, datamodule=data)
    replayed = data.splits.train[9:]
    assert len(replayed) == 3
    assert losses.first == pytest.approx(negative_log_likelihood(module, [*new, *replayed]), rel=1e-9)


def negative_log_likelihood(module: SFTModule, examples: list[Example]) -> float:
    """Per token of the demonstrations, from the logits of the untrained model."""
    policy = Policy.load(module.model)
    total, count = 0.0, 0
    for sequence in module.demonstrations(examples):
        tokens = torch.tensor(sequence.completion)
        found = log_probabilities(policy.model.eval(), sequence.prompt, sequence.completion)
        total -= found.gather(-1, tokens[:, None]).sum().item()
        count += len(tokens)
    return total / count


def test_resumed_run_with_replay_equals_the_uninterrupted_one(
    words_module: Any, words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    fixtures = (words_module, words_data, make_trainer, tmp_path)
    check_resume(SFTModule, 0, *fixtures, data=lambda: {"replay": Replay(words_data(EARLIER), 0.2)})


@pytest.mark.parametrize("general", [False, True])
def test_resumed_sft_that_is_held_by_the_base_equals_the_uninterrupted_one(
    general: bool, words_module: Any, words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    """KL-regularised on the prompts of the step, or on general prompts, which is on-policy replay."""
    retention = Retention(words_data(EARLIER) if general else None, prompts=4)
    check_resume(SFTModule, 0, words_module, words_data, make_trainer, tmp_path, retention=retention)
