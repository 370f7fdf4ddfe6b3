from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_sdft.callbacks import LastCheckpoints, RunSize
from lightning_sdft.callbacks.run_size import checkpoint_size
from lightning_sdft.modules import CausalLMModule, SDFTModule, SFTModule
from lightning_sdft.policy.lora import LoRA


@pytest.mark.parametrize(
    ("method", "options"),
    [(SFTModule, {}), (SDFTModule, {}), (SDFTModule, {"lora": LoRA(rank=2), "pretrained": True})],
)
def test_checkpoints_are_as_large_as_announced(
    method: type[CausalLMModule],
    options: dict[str, Any],
    make_module: Callable[..., CausalLMModule],
    make_data: Any,
    make_trainer: Any,
    tmp_path: Path,
) -> None:
    module = make_module(method, **options)
    trainer = make_trainer(max_steps=1)
    trainer.fit(module, datamodule=make_data())
    for weights_only in (False, True):
        file = tmp_path / f"{weights_only}.ckpt"
        trainer.save_checkpoint(file, weights_only=weights_only)
        content = torch.load(file, weights_only=True)
        inside = sum(each.numel() * each.element_size() for each in _tensors(content))
        assert inside == pytest.approx(checkpoint_size(module, weights_only), rel=0.02)
        assert file.stat().st_size == pytest.approx(inside, abs=100_000)


def _tensors(content: Any) -> list[torch.Tensor]:
    if isinstance(content, torch.Tensor):
        return [content]
    values = content.values() if isinstance(content, dict) else content if isinstance(content, list | tuple) else ()
    return [each for value in values for each in _tensors(value)]


def test_it_is_said_before_training(
    make_module: Any, make_data: Any, make_trainer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = [LastCheckpoints(dirpath=tmp_path), ModelCheckpoint(tmp_path, save_weights_only=True, monitor="x")]
    trainer = make_trainer(callbacks=[RunSize(), *written], max_steps=1, enable_checkpointing=True)
    trainer.fit(make_module(SDFTModule), datamodule=make_data())
    first, _, second = capsys.readouterr().out.splitlines()[:3]
    assert first == "SDFTModule of zoo/laptop: 798,464 parameters are trained, 798,464 beside them are not"
    assert re.fullmatch(
        r"checkpoints: up to 3 of 12.8 MB or 6.4 MB each, 32.1 MB in all \(.* are free\), in .*", second
    )
    assert str(tmp_path) in second


def test_checkpoints_that_are_never_removed(
    make_module: Any, make_data: Any, make_trainer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    every = ModelCheckpoint(tmp_path / "not" / "yet", save_top_k=-1)
    trainer = make_trainer(callbacks=[RunSize(), every], max_steps=1, enable_checkpointing=True)
    trainer.fit(make_module(SFTModule), datamodule=make_data())
    assert "checkpoints: 9.6 MB each, none is removed" in capsys.readouterr().out
