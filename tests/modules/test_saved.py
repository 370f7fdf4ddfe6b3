"""Checkpoints of adapters: nothing of the model that they are for, and nothing missing."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_sdft.errors import CheckpointError
from lightning_sdft.modules import CausalLMModule, DistillationModule, SDFTModule, SFTModule
from lightning_sdft.policy.lora import STUDENT, TEACHER, LoRA, adapter_weights
from lightning_sdft.teacher import BaseTeacher, CopiedTeacher, EMATeacher, LiveTeacher
from tests.modules.conftest import SHOWN

LORA = LoRA(rank=2, target_modules=["q_proj", "embed_tokens", "lm_head"], modules_to_save=["norm"])


@pytest.fixture
def train(words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any, tmp_path: Path) -> Any:
    """Trains for two steps and saves a checkpoint."""

    def run(method: type[CausalLMModule], **arguments: Any) -> tuple[Any, Path]:
        module = words_module(method, **arguments)
        trainer = make_trainer(max_steps=2, callbacks=[EMATeacher(0.3)] if method is SDFTModule else [])
        trainer.fit(module, datamodule=words_data())
        trainer.save_checkpoint(tmp_path / "two.ckpt")
        return module, tmp_path / "two.ckpt"

    return run


def names(module: Any, *adapters: str) -> set[str]:
    return {f"policy.model.{name}" for each in adapters for name in adapter_weights(module.policy.model, each)}


@pytest.mark.parametrize(
    ("method", "arguments", "adapters"),
    [
        (SFTModule, {}, [STUDENT]),
        (SDFTModule, {}, [STUDENT, TEACHER]),
        (DistillationModule, {"teacher": BaseTeacher()}, [STUDENT]),
        (DistillationModule, {"teacher": LiveTeacher()}, [STUDENT]),
        (DistillationModule, {"teacher": CopiedTeacher(model="llama")}, [STUDENT]),
    ],
)
def test_checkpoint_has_the_adapters_and_no_weights_of_models(
    method: type[CausalLMModule],
    arguments: dict[str, Any],
    adapters: list[str],
    train: Any,
    family_folder: Callable[[str], Path],
) -> None:
    if isinstance(arguments.get("teacher"), CopiedTeacher):
        arguments = {"teacher": CopiedTeacher(model=str(family_folder(arguments["teacher"].model)))}
    module, path = train(method, lora=LORA, **arguments)
    content = torch.load(path, weights_only=True)
    assert content["state_dict"].keys() == names(module, *adapters)
    assert content["lightning_sdft"]["model"] == str(family_folder("llama"))
    assert content["lightning_sdft"]["lora"] == asdict(LORA)
    assert content["hyper_parameters"]["lora"] == LORA
    assert len(content["optimizer_states"][0]["state"]) == len(names(module, STUDENT))


def equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_module_is_restored_with_its_model_and_adapters(train: Any) -> None:
    module, path = train(SDFTModule, lora=LORA)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is missing
        restored = SDFTModule.load_from_checkpoint(path)
    assert restored.lora == LORA
    assert not restored.strict_loading  # strategies that shard would miss the model's weights
    assert equal(restored.state_dict(), module.state_dict())
    assert equal(dict(restored.named_parameters()), dict(module.named_parameters()))
    adapters = [list(adapter_weights(restored.policy.model, name).values()) for name in (STUDENT, TEACHER)]
    assert not any(torch.equal(*pair) for pair in zip(*adapters, strict=True))


def test_state_can_be_handed_on(words_module: Callable[..., CausalLMModule], train: Any) -> None:
    module, _ = train(SDFTModule, lora=LORA)
    other = words_module(SDFTModule, lora=LORA)
    other.configure_model()
    other.load_state_dict(module.state_dict())
    assert equal(other.state_dict(), module.state_dict())


def test_process_that_launches_others_gets_a_state_it_has_no_models_for(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    trainer = make_trainer(max_steps=1, devices=2, strategy="ddp_fork", accumulate_grad_batches=1)
    trainer.fit(words_module(SDFTModule, lora=LORA), datamodule=words_data())
    assert trainer.state.finished


@pytest.fixture
def spoil(train: Any) -> Callable[..., Path]:
    """A checkpoint whose state was tampered with."""

    def run(change: Callable[[dict[str, Any]], object]) -> Path:
        path: Path
        _, path = train(SDFTModule, lora=LORA)
        content = torch.load(path, weights_only=True)
        change(content["state_dict"])
        torch.save(content, path)
        return path

    return run


WEIGHT = "policy.model.model.layers.1.self_attn.q_proj.lora_B.teacher.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop(WEIGHT), rf"lacks 1 weights, the first is '{WEIGHT}'"),
        (lambda state: state.update({"policy.model.lm_head.weight": torch.ones(1)}), "has left over 1 weights"),
        (lambda state: state.update({"teacher.policy.model.lm_head.weight": torch.ones(1)}), "has left over 1"),
    ],
)
def test_checkpoint_of_other_weights_is_refused_by_name(
    change: Any,
    message: str,
    spoil: Callable[..., Path],
    words_module: Callable[..., CausalLMModule],
    words_data: Any,
    make_trainer: Any,
) -> None:
    path = spoil(change)
    with pytest.raises(CheckpointError, match=message):
        make_trainer(callbacks=[EMATeacher(0.3)]).fit(
            words_module(SDFTModule, lora=LORA), datamodule=words_data(), ckpt_path=path
        )
    with pytest.raises(CheckpointError, match=message):
        SDFTModule.load_from_checkpoint(path)


@pytest.mark.parametrize(
    ("before", "after"), [(LORA, None), (None, LORA), (LORA, LoRA(**{**asdict(LORA), "alpha": 3}))]
)
def test_checkpoint_of_another_adapter_is_refused(
    before: LoRA | None,
    after: LoRA | None,
    train: Any,
    words_module: Callable[..., CausalLMModule],
    words_data: Any,
    make_trainer: Any,
) -> None:
    _, path = train(SFTModule, lora=before)
    with pytest.raises(CheckpointError, match=r"written with lora=.* and is to be read with lora=.* set lora"):
        make_trainer().fit(words_module(SFTModule, lora=after), datamodule=words_data(), ckpt_path=path)


def test_dropout_may_change(
    train: Any, words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    lora = LoRA(rank=2, dropout=0.1)
    _, path = train(SFTModule, lora=lora)
    trainer = make_trainer(max_steps=3)
    trainer.fit(words_module(SFTModule, lora=LoRA(rank=2)), datamodule=words_data(), ckpt_path=path)
    assert trainer.global_step == 3


def test_module_without_an_adapter_saves_everything(train: Any) -> None:
    module, path = train(DistillationModule, **SHOWN)
    state = torch.load(path, weights_only=True)["state_dict"]
    assert "lora" not in torch.load(path, weights_only=True)["lightning_sdft"]
    assert state.keys() == {
        f"{owner}.model.{name}" for owner in ("policy", "teacher.policy") for name in module.policy.model.state_dict()
    }
    assert module.strict_loading


def test_random_weights_under_an_adapter_are_refused(words_module: Callable[..., CausalLMModule]) -> None:
    with pytest.raises(ValueError, match="lora needs pretrained=true"):
        words_module(SFTModule, lora=LORA, pretrained=False)
