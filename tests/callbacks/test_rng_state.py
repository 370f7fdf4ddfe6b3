from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lightning_sdft.callbacks import RNGState
from lightning_sdft.checkpoint import load_checkpoint
from lightning_sdft.modules import CausalLMModule, SFTModule


def test_state_is_restored_when_training_starts_and_only_once(make_trainer: Any) -> None:
    trainer, callback = make_trainer(), RNGState()
    torch.manual_seed(3)
    state = callback.state_dict()
    expected = torch.rand(4)
    resumed = RNGState()
    resumed.load_state_dict(state)
    torch.manual_seed(4)
    untouched = torch.rand(4)
    assert not torch.equal(untouched, expected)
    resumed.on_train_start(trainer, None)  # type: ignore[arg-type]
    assert torch.equal(torch.rand(4), expected)
    resumed.on_train_start(trainer, None)  # type: ignore[arg-type]
    assert not torch.equal(torch.rand(4), expected)


def test_state_of_fewer_processes_leaves_the_generator_alone(make_trainer: Any) -> None:
    resumed = RNGState()
    resumed.load_state_dict({"ranks": []})
    torch.manual_seed(4)
    expected = torch.rand(4)
    torch.manual_seed(4)
    resumed.on_train_start(make_trainer(), None)  # type: ignore[arg-type]
    assert torch.equal(torch.rand(4), expected)


def test_every_module_brings_it_along(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    trainer = make_trainer(max_steps=1)
    trainer.fit(words_module(SFTModule), datamodule=words_data())
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    saved = load_checkpoint(tmp_path / "one.ckpt")["callbacks"]["RNGState"]["ranks"]
    assert len(saved) == 1
    assert torch.equal(saved[0]["cpu"], torch.get_rng_state())
