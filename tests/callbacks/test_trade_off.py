from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_sdft.callbacks import TradeOffPicture, trade_off
from lightning_sdft.callbacks.run_logger import FIRST
from lightning_sdft.callbacks.trade_off import picture
from lightning_sdft.modules import CausalLMModule, SFTModule
from tests.modules.test_answering import evaluation_sets

OPTIONS = {"limit_val_batches": 1.0, "num_sanity_val_steps": -1, "max_steps": -1}
TAG = "at a glance/trade-off, new task against prior tasks"


class Collecting(CSVLogger):
    """A logger that takes images, as that of Weights & Biases does."""

    images: list[Any] = []  # noqa: RUF012  # one logger a test

    def log_image(self, **image: Any) -> None:
        self.images = [*self.images, image]


def images(logger: TensorBoardLogger) -> list[str]:
    found: list[str] = EventAccumulator(logger.log_dir).Reload().Tags()["images"]
    return found


@pytest.mark.parametrize(
    ("rights", "installed", "drawn"),
    [({"new": 3, "old": 4}, True, [TAG]), ({"new": 3}, True, []), ({"new": 3, "old": 4}, False, [])],
)
def test_picture_is_logged_when_training_ends(
    rights: dict[str, int],
    installed: bool,
    drawn: list[str],
    words_module: Callable[..., CausalLMModule],
    words_data: Any,
    make_trainer: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("matplotlib")
    if not installed:
        monkeypatch.setattr(trade_off, "find_spec", lambda name: None)
    board, other = TensorBoardLogger(tmp_path, name="a", version=""), Collecting(tmp_path, name="b")
    callback = TradeOffPicture()
    trainer = make_trainer(callbacks=[callback], logger=[board, other], max_epochs=2, **OPTIONS)
    sets = evaluation_sets(words_module(SFTModule), rights)
    trainer.fit(words_module(SFTModule), datamodule=words_data(validation=sets))
    assert images(board) == drawn
    assert [(FIRST + each["key"], each["step"]) for each in other.images] == [(name, 8) for name in drawn]
    assert [step for step, _, _ in callback.points] == ([0, 4, 8] if "old" in rights else [])
    if "old" in rights:
        assert callback.points[0][1:] == (0.75, 1.0)


def test_resumed_run_draws_the_whole_way(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    sets = evaluation_sets(words_module(SFTModule), {"new": 3, "old": 4})
    first = make_trainer(callbacks=[TradeOffPicture()], max_epochs=1, **OPTIONS)
    first.fit(words_module(SFTModule), datamodule=words_data(validation=sets))
    first.save_checkpoint(tmp_path / "one.ckpt")
    callback = TradeOffPicture()
    resumed = make_trainer(callbacks=[callback], max_epochs=2, **OPTIONS)
    resumed.fit(words_module(SFTModule), datamodule=words_data(validation=sets), ckpt_path=tmp_path / "one.ckpt")
    assert [step for step, _, _ in callback.points] == [0, 4, 8]


def test_picture_has_ink() -> None:
    pytest.importorskip("matplotlib")
    pixels = picture([(0, 0.1, 0.9), (10, 0.8, 0.85)], "SDFTModule")
    assert pixels.shape[2] == 3
    assert pixels.min() < 50
    assert (pixels == 255).mean() > 0.5
