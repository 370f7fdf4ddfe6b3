"""However an epoch is limited, an optimizer step has a whole group."""

from __future__ import annotations

from typing import Any

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from lightning_sdft.errors import DataError, SettingError
from lightning_sdft.modules import SFTModule
from tests.modules.conftest import make_trainer, words_data, words_module

__all__ = ["make_trainer", "words_data", "words_module"]


class Batches(Callback):
    """The micro-batches that were trained on: epoch, index in the group, ids."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, list[str]]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append((trainer.current_epoch, batch.index, [example.id for example in batch.examples]))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"limit_train_batches": 5}, "limit_train_batches=5 would end an epoch inside an optimizer step.* 4 or 6"),
        ({"limit_train_batches": 1}, "limit_train_batches=1 would .* such as 2"),
        ({"overfit_batches": 3}, "overfit_batches=3 would .* 2 or 4"),
        ({"limit_train_batches": 0.2}, "limit_train_batches=0.2 of 8 micro-batches is less than one optimizer step"),
        ({"callbacks": [GradientAccumulationScheduler({0: 2, 1: 4})]}, "GradientAccumulationScheduler would cut"),
    ],
)
def test_limit_that_cuts_a_group_is_refused(
    setting: dict[str, Any], message: str, make_trainer: Any, words_module: Any, words_data: Any
) -> None:
    module = words_module(SFTModule)
    with pytest.raises(DataError, match=message):
        make_trainer(accumulate_grad_batches=1, **setting).fit(module, datamodule=words_data())
    assert not hasattr(module, "policy")


@pytest.mark.parametrize(
    ("setting", "steps"),
    [
        ({"limit_train_batches": 4}, 4),
        ({"limit_train_batches": 0.8}, 6),  # 6 of 8 micro-batches
        ({"limit_train_batches": 0.7}, 4),  # 5 of 8, of which 4 are whole groups
        ({"limit_train_batches": 100}, 8),
        ({"limit_train_batches": 1.0}, 8),
        ({"fast_dev_run": 1}, 1),
    ],
)
def test_epochs_end_with_a_whole_group(
    setting: dict[str, Any], steps: int, make_trainer: Any, words_module: Any, words_data: Any
) -> None:
    batches = Batches()
    trainer = make_trainer(accumulate_grad_batches=1, callbacks=[batches], max_epochs=2, max_steps=-1, **setting)
    trainer.fit(words_module(SFTModule), datamodule=words_data())
    assert trainer.global_step == steps
    assert [index for _, index, _ in batches.seen] == [0, 1] * steps
    assert trainer.limit_train_batches == setting.get("limit_train_batches", 1)


@pytest.mark.parametrize(("trainer", "batches"), [({}, 8), ({"limit_train_batches": 2}, 2), ({"max_steps": -1}, 8)])
def test_validations_that_would_never_come_are_refused_before_a_model_is_loaded(
    trainer: dict[str, Any], batches: int, make_trainer: Any, words_module: Any, words_data: Any
) -> None:
    module = words_module(SFTModule)
    with pytest.raises(SettingError, match=f"val_check_interval=9, but an epoch has {batches} batches"):
        make_trainer(val_check_interval=9, **trainer).fit(module, datamodule=words_data())
    assert not hasattr(module, "policy")
    make_trainer(val_check_interval=batches, max_epochs=1, **trainer).fit(module, datamodule=words_data())
    make_trainer(val_check_interval=9, check_val_every_n_epoch=None, max_steps=1).fit(module, datamodule=words_data())


def test_loader_without_a_data_module_is_refused_at_the_step_that_has_half_a_group(
    make_trainer: Any, words_module: Any, words_data: Any
) -> None:
    trainer = make_trainer(limit_train_batches=3)
    with pytest.raises(DataError, match="the optimizer would step after 1 of the 2 micro-batches"):
        trainer.fit(words_module(SFTModule), train_dataloaders=words_data().train_dataloader())
    assert trainer.global_step == 1


def test_run_goes_on_behind_a_limited_epoch_with_the_beginning_of_the_next(
    make_trainer: Any, words_module: Any, words_data: Any, tmp_path: Any
) -> None:
    whole, first, rest = Batches(), Batches(), Batches()
    limited = {"limit_train_batches": 4, "max_steps": -1}
    make_trainer(callbacks=[whole], max_epochs=2, **limited).fit(words_module(SFTModule), datamodule=words_data())
    trainer = make_trainer(callbacks=[first], max_epochs=1, **limited)
    trainer.fit(words_module(SFTModule), datamodule=words_data())
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    resumed = make_trainer(callbacks=[rest], max_epochs=2, **limited)
    resumed.fit(words_module(SFTModule), datamodule=words_data(), ckpt_path=tmp_path / "end.ckpt")
    assert resumed.global_step == 4
    assert first.seen + rest.seen == whole.seen


@pytest.mark.parametrize(
    ("trainer", "data", "message"),
    [
        ({"limit_train_batches": 4}, {}, "in 4 steps of 4 .* and this run has .* in 2 steps of 4"),
        ({}, {"shuffle_seed": 3}, r"shuffle_seed=0\), and this run has .* \(shuffle_seed=3\)"),
    ],
)
def test_run_in_mid_epoch_does_not_go_on_in_another_order(
    trainer: dict[str, Any], data: dict[str, Any], message: str, make_trainer: Any, words_module: Any, words_data: Any,
    tmp_path: Any,
) -> None:  # fmt: skip
    begun = make_trainer(max_steps=1)
    begun.fit(words_module(SFTModule), datamodule=words_data())
    begun.save_checkpoint(tmp_path / "mid.ckpt")
    with pytest.raises(DataError, match=message):
        make_trainer(**trainer).fit(
            words_module(SFTModule), datamodule=words_data(**data), ckpt_path=tmp_path / "mid.ckpt"
        )
