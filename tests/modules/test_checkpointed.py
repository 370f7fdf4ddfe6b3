from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_sdft.checkpoint import load_checkpoint
from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.errors import CheckpointError
from lightning_sdft.grading.exact_match import ExactMatch
from lightning_sdft.losses import ForwardKL, JensenShannon
from lightning_sdft.modules import CausalLMModule, DFTModule, NonFiniteLossError, SDFTModule, SFTModule
from lightning_sdft.records import Sampling
from lightning_sdft.teacher import EMATeacher
from tests.modules.conftest import METHODS, question

# A loss that is not finite


class Poison(Callback):
    """Spoils a weight in mid-run, behind the checkpoint of step 3."""

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.digest = ""
        self.good: dict[str, torch.Tensor] = {}
        self.batch: Any = None

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 3 and not self.digest:
            self.digest = hashlib.sha256(self.checkpoint.read_bytes()).hexdigest()
            self.good = {name: value.clone() for name, value in pl_module.state_dict().items()}
            self.batch = batch
            next(pl_module.policy.parameters()).data.fill_(torch.nan)


@pytest.mark.parametrize("method", METHODS)
def test_loss_that_is_not_finite_stops_the_run_and_leaves_the_last_good_checkpoint(
    method: type[CausalLMModule],
    words_module: Callable[..., CausalLMModule],
    words_data: Any,
    make_trainer: Any,
    tmp_path: Path,
) -> None:
    checkpoint = tmp_path / "last.ckpt"
    poison = Poison(checkpoint)
    save = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=1)
    callbacks = [poison, save, *([EMATeacher(0.5)] if method is SDFTModule else [])]
    trainer = make_trainer(callbacks=callbacks, enable_checkpointing=True)
    with pytest.raises(NonFiniteLossError, match="the loss is nan at step 3 on the examples") as caught:
        trainer.fit(words_module(method), datamodule=words_data())
    assert len(poison.batch) == 2
    assert str([item.example.id for item in poison.batch.items]) in str(caught.value)
    assert hashlib.sha256(checkpoint.read_bytes()).hexdigest() == poison.digest

    content = load_checkpoint(checkpoint)
    assert content["global_step"] == 3
    assert content["state_dict"].keys() == poison.good.keys()
    assert all(torch.equal(content["state_dict"][name], value) for name, value in poison.good.items())
    resumed = make_trainer(max_steps=4)
    resumed.fit(words_module(method), datamodule=words_data(), ckpt_path=checkpoint)
    assert resumed.global_step == 4


def test_non_finite_gradient_of_a_finite_loss_stops_before_the_step(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    class Overflow(Callback):
        def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
            if trainer.global_step == 1:
                next(each.grad for each in pl_module.parameters() if each.grad is not None).fill_(torch.inf)

    module = words_module(SFTModule)
    with pytest.raises(NonFiniteLossError, match="the gradient is inf at step 1 on the examples"):
        make_trainer(callbacks=[Overflow()]).fit(module, datamodule=words_data())
    assert all(parameter.isfinite().all() for parameter in module.parameters())


# Checkpoints


@pytest.fixture
def sft_checkpoint(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any, tmp_path: Path
) -> Path:
    trainer = make_trainer(max_steps=1)
    trainer.fit(words_module(SFTModule), datamodule=words_data())
    trainer.save_checkpoint(tmp_path / "sft.ckpt")
    return tmp_path / "sft.ckpt"


@pytest.mark.parametrize("stage", ["fit", "test"])
@pytest.mark.parametrize("method", [DFTModule, SDFTModule])
def test_checkpoint_of_another_method_is_refused(
    method: type[CausalLMModule],
    stage: str,
    sft_checkpoint: Path,
    words_module: Callable[..., CausalLMModule],
    words_data: Any,
    make_trainer: Any,
) -> None:
    sets = [EvaluationSet([question(0)], {"new": ExactMatch()})]
    run = getattr(make_trainer(), stage)
    with pytest.raises(CheckpointError, match=f"written by SFTModule, not by {method.__name__}"):
        run(words_module(method), datamodule=words_data(test=sets), ckpt_path=sft_checkpoint)


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_truncated_checkpoint_is_refused_by_name(
    share: float,
    sft_checkpoint: Path,
    words_module: Callable[..., CausalLMModule],
    words_data: Any,
    make_trainer: Any,
) -> None:
    content = sft_checkpoint.read_bytes()
    sft_checkpoint.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"sft.ckpt' \(\d+ bytes\) is truncated or not a checkpoint"):
        make_trainer().fit(words_module(SFTModule), datamodule=words_data(), ckpt_path=sft_checkpoint)


def test_absent_checkpoint_is_refused_by_name(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"there is no checkpoint .*none.ckpt"):
        make_trainer().fit(words_module(SFTModule), datamodule=words_data(), ckpt_path=tmp_path / "none.ckpt")


def test_checkpoint_restores_class_arguments_and_weights_without_pickle(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    arguments = {
        "divergence": JensenShannon(0.3),
        "sampling": Sampling(temperature=0.7),
        "skip_tokens": 1,
        "learning_rate": 0.004,
        "warmup_steps": 2,
    }
    module = words_module(SDFTModule, **arguments)
    trainer = make_trainer(max_steps=2, callbacks=[EMATeacher(0.5)])
    trainer.fit(module, datamodule=words_data())
    path = tmp_path / "sdft.ckpt"
    trainer.save_checkpoint(path)

    content = torch.load(path, weights_only=True)
    assert {name: content["hyper_parameters"][name] for name in arguments} == arguments
    restored = SDFTModule.load_from_checkpoint(path)
    assert type(restored) is SDFTModule
    assert {name: getattr(restored, name) for name in arguments} == arguments
    assert (restored.model, restored.max_prompt_tokens) == (module.model, module.max_prompt_tokens)
    assert restored.teacher_template == module.teacher_template
    expected = module.state_dict()
    assert restored.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in restored.state_dict().items())
    assert SDFTModule.load_from_checkpoint(path, divergence=ForwardKL()).divergence == ForwardKL()


def test_random_weights_are_an_argument(family_folder: Callable[[str], Path]) -> None:
    def embedding(pretrained: bool) -> torch.Tensor:
        budgets = {"max_prompt_tokens": 16, "max_completion_tokens": 8}
        module = SFTModule(str(family_folder("llama")), pretrained=pretrained, **budgets)
        module.configure_model()
        weight = module.policy.model.get_input_embeddings().weight
        module.configure_model()  # once more, as Lightning may
        assert module.policy.model.get_input_embeddings().weight is weight
        return weight.detach()

    torch.manual_seed(0)
    assert torch.equal(embedding(True), embedding(True))
    assert not torch.equal(embedding(True), embedding(False))
