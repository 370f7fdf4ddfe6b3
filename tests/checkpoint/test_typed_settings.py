"""A run that goes on takes the settings that were typed, and says so, or refuses them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, seed_everything

from lightning_sdft.checkpoint.typed_settings import fingerprint
from lightning_sdft.errors import CheckpointError
from lightning_sdft.modules import SFTModule
from lightning_sdft.records import Example
from tests.modules.conftest import question


class Rates(Callback):
    """Keeps the learning rate of every optimizer step."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])


SCHEDULE = {"learning_rate": 1e-2, "weight_decay": 0.1, "warmup_steps": 1}


@pytest.fixture
def begun(words_module: Any, words_data: Any, make_trainer: Any, tmp_path: Path) -> Path:
    """The checkpoint of a run behind its first epoch, four of its eight steps."""
    seed_everything(5)
    trainer = make_trainer(max_epochs=1, max_steps=-1)
    trainer.fit(words_module(SFTModule, **SCHEDULE), datamodule=words_data())
    trainer.save_checkpoint(tmp_path / "begun.ckpt")
    return tmp_path / "begun.ckpt"


@pytest.fixture
def go_on(begun: Path, words_module: Any, words_data: Any, make_trainer: Any) -> Callable[..., Any]:
    """Goes on with other settings; returns the learning rates of the steps, and the trainer."""

    def run(data: Any = None, **settings: Any) -> tuple[list[float], Any]:
        watch = Rates()
        trainer = make_trainer(max_epochs=2, max_steps=-1, callbacks=[watch])
        module = words_module(SFTModule, **{**SCHEDULE, **settings})
        trainer.fit(module, datamodule=data or words_data(), ckpt_path=begun)
        return watch.rates, trainer

    return run


def test_typed_learning_rate_and_weight_decay_take_effect(
    go_on: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    as_before, _ = go_on()
    assert not [record for record in caplog.records if "other settings" in record.message]
    with caplog.at_level(logging.INFO):
        rates, trainer = go_on(learning_rate=5e-3, weight_decay=0.0)
    assert rates == pytest.approx([rate / 2 for rate in as_before], rel=1e-12)
    assert len(rates) == 4
    (group,) = trainer.optimizers[0].param_groups
    assert (group["initial_lr"], group["weight_decay"]) == (5e-3, 0.0)
    assert "The optimizer goes on with other settings than before: " in caplog.text
    assert "weight_decay 0.1 -> 0.0" in caplog.text
    assert "learning_rate 0.01 -> 0.005" in caplog.text


def test_typed_warmup_takes_effect_and_is_said(go_on: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        rates, _ = go_on(warmup_steps=9)
    assert rates == pytest.approx([1e-2 * step / 10 for step in (5, 6, 7, 8)])
    assert "goes on with other settings than before: warmup_steps 1 -> 9." in caplog.text


def test_rate_that_rose_from_zero_takes_effect(
    words_module: Any, words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    trainer = make_trainer(max_steps=2)
    trainer.fit(words_module(SFTModule, learning_rate=0.0), datamodule=words_data())
    trainer.save_checkpoint(tmp_path / "zero.ckpt")
    watch = Rates()
    make_trainer(callbacks=[watch]).fit(
        words_module(SFTModule, learning_rate=1e-3), datamodule=words_data(), ckpt_path=tmp_path / "zero.ckpt"
    )
    assert watch.rates[0] > 0


def test_a_seed_that_has_no_effect_is_said(go_on: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    seed_everything(6)
    with caplog.at_level(logging.INFO):
        go_on()
    assert "seed_everything=6 has no effect: random numbers go on from seed 5." in caplog.text


def test_other_examples_are_refused(go_on: Callable[..., Any], words_data: Any) -> None:
    others = [question(index) for index in range(1, 17)]
    with pytest.raises(CheckpointError, match=r"trained on 16 examples \(.*\), and this run has 16 ex") as it:
        go_on(words_data(train=others))
    assert "lightning-sdft export" in str(it.value)
    go_on(words_data(evaluation_batch_size=1))  # the same examples


def test_another_model_is_refused_and_one_that_moved_is_not(
    go_on: Callable[..., Any], family_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"trained with model='.*llama', and this run has model='.*qwen2'"):
        go_on(model=str(family_folder("qwen2")))
    (tmp_path / "llama").symlink_to(family_folder("llama"))
    go_on(model=str(tmp_path / "llama"))


@pytest.mark.parametrize("change", [{"id": "x"}, {"demonstration": "x"}, {"context": "x"}, {"reference": ["x"]}])
def test_fingerprint_is_of_all_that_is_in_the_examples(change: dict[str, Any]) -> None:
    plain: dict[str, Any] = {"id": "1", "prompt": [{"role": "user", "content": "hé"}], "demonstration": "a"}
    one, other = Example(**plain), Example(**{**plain, **change})
    assert fingerprint([one]) == fingerprint([Example(**plain, where="moved.jsonl, row 1")])
    assert len({fingerprint(each) for each in ([one], [other], [one, other], [other, one])}) == 4
