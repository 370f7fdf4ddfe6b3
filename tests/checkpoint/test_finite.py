"""No checkpoint holds weights that are not finite, whoever saves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.distributed import init_device_mesh, init_process_group
from torch.distributed.tensor import DTensor, Shard

from lightning_sdft.callbacks import LastCheckpoints
from lightning_sdft.checkpoint.finite import has_finite_weights
from lightning_sdft.distributed.processes import process_index
from lightning_sdft.errors import CheckpointError
from lightning_sdft.modules import NonFiniteLossError, SFTModule
from lightning_sdft.policy.lora import LoRA
from tests.launch import in_processes


class Destroy(Callback):
    """An optimizer whose n-th step makes a weight infinite."""

    def __init__(self, step: int, value: float = torch.inf) -> None:
        self.step, self.value = step, value

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        def destroy(*_: Any) -> None:
            if trainer.global_step == self.step - 1:
                trained = [each for each in pl_module.parameters() if each.requires_grad]
                trained[-1].data.view(-1)[0] = self.value

        trainer.optimizers[0].register_step_post_hook(destroy)


@pytest.mark.parametrize("lora", [None, LoRA(rank=2)])
@pytest.mark.parametrize("weights_only", [False, True])
def test_weights_that_are_not_finite_are_not_saved(
    lora: LoRA | None, weights_only: bool, words_module: Any, words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    save = ModelCheckpoint(
        tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1, save_weights_only=weights_only, save_on_exception=True
    )
    trainer = make_trainer(callbacks=[Destroy(3), save], enable_checkpointing=True)
    with pytest.raises(CheckpointError, match="the weights at step 3 are infinite or not a number"):
        trainer.fit(words_module(SFTModule, lora=lora), datamodule=words_data())
    assert {path.name for path in tmp_path.iterdir()} == {"step=1.ckpt", "step=2.ckpt"}


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_the_error_that_ends_a_run_leaves_only_checkpoints_with_finite_weights(
    value: float, words_module: Any, words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    save = LastCheckpoints(every_n_train_steps=2, dirpath=tmp_path)
    trainer = make_trainer(callbacks=[Destroy(3, value), save], enable_checkpointing=True)
    with pytest.raises(NonFiniteLossError, match="the last checkpoint has only finite weights"):
        trainer.fit(words_module(SFTModule), datamodule=words_data())
    assert {path.name for path in tmp_path.iterdir()} == {"step000002.ckpt", "last.ckpt"}
    resumed = make_trainer(max_steps=4)
    resumed.fit(words_module(SFTModule), datamodule=words_data(), ckpt_path=tmp_path / "last.ckpt")
    assert resumed.global_step == 4


def check_parts(value: float) -> None:
    init_process_group("gloo")
    module = LightningModule()
    whole = torch.ones(1 + process_index(), 4)  # the weights of one process, of which the other one has a part
    module.weight = torch.nn.Parameter(
        DTensor.from_local(whole, init_device_mesh("cpu", (2,)), [Shard(0)], shape=torch.Size([3, 4]), stride=(4, 1))
    )
    assert has_finite_weights(module)
    if process_index() == 1:
        module.weight.data.to_local()[1, 2] = value
    assert not has_finite_weights(module)


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_weights_of_which_another_process_holds_the_part(value: float) -> None:
    in_processes(2, check_parts, value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_large_weights_in_any_precision_are_finite(dtype: torch.dtype) -> None:
    """Their squares are not."""
    module = LightningModule()
    module.layer = torch.nn.Linear(50, 50).to(dtype)
    module.layer.weight.data.fill_(6e4)
    assert has_finite_weights(module)
    module.layer.bias.data[3] = torch.nan
    assert not has_finite_weights(module)
    module.layer.bias.requires_grad_(False)
    assert has_finite_weights(module)
