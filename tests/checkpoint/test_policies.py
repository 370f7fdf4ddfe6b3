from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_sdft.checkpoint import describe_method, load_policy
from lightning_sdft.errors import CheckpointError
from lightning_sdft.policy import Policy
from lightning_sdft.policy.lora import STUDENT, TEACHER, LoRA, adapter_weights, add_adapter
from tests.conftest import move_adapter
from tests.policy.test_policy import own_logits

LORA = LoRA(rank=2, target_modules=["q_proj", "embed_tokens"], modules_to_save=["norm"])


@pytest.fixture
def adapters(llama: Policy, tmp_path: Path) -> tuple[Policy, Path]:
    """A policy with adapters of a student and a teacher, and their checkpoint."""
    for seed, name in enumerate((STUDENT, TEACHER)):
        add_adapter(llama.eval().model, LORA, name)
        move_adapter(llama.model, name, seed)
    about = describe_method("SDFTModule", llama.tokenizer.hugging_face.name_or_path, LORA)
    state = {f"policy.model.{name}": weight.detach() for name, weight in adapter_weights(llama.model).items()}
    torch.save({"lightning_sdft": about, "state_dict": state}, tmp_path / "adapters.ckpt")
    return llama, tmp_path / "adapters.ckpt"


@pytest.mark.parametrize("weights", [STUDENT, TEACHER])
def test_policy_is_rebuilt_of_model_and_adapter(weights: Any, adapters: tuple[Policy, Path]) -> None:
    policy, path = adapters
    loaded = load_policy(None, str(path), weights).eval()
    if weights == TEACHER:
        pairs = zip(*(adapter_weights(policy.model, name).values() for name in (STUDENT, TEACHER)), strict=True)
        for theirs, ours in pairs:
            theirs.data.copy_(ours)
    assert torch.equal(own_logits(loaded), own_logits(policy))
    assert adapter_weights(loaded.model).keys() == adapter_weights(loaded.model, STUDENT).keys()


def test_policy_without_some_of_its_adapter_is_refused(adapters: tuple[Policy, Path]) -> None:
    _, path = adapters
    content = torch.load(path)
    weight = next(name for name in content["state_dict"] if STUDENT in name)
    del content["state_dict"][weight]
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=f"lacks 1 weights, the first is '{weight}'"):
        load_policy(None, str(path))
    load_policy(None, str(path), TEACHER)


def test_teacher_that_is_no_adapter_has_no_weights(adapters: tuple[Policy, Path]) -> None:
    _, path = adapters
    content = torch.load(path)
    content["state_dict"] = {name: each for name, each in content["state_dict"].items() if TEACHER not in name}
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="of SDFTModule, has no weights of a teacher"):
        load_policy(None, str(path), TEACHER)
