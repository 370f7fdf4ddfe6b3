from __future__ import annotations

import pytest
import torch

from lightning_sdft.checkpoint import adapters_alone, check_adapters
from lightning_sdft.errors import CheckpointError
from lightning_sdft.policy import Policy
from lightning_sdft.policy.lora import LoRA, add_adapter

LORA = LoRA(rank=2, target_modules=["q_proj"])


@pytest.fixture
def adapted(llama: Policy) -> Policy:
    add_adapter(llama.model, LORA)
    return llama


def test_nothing_is_saved_of_the_models_but_adapters(adapted: Policy) -> None:
    state = {f"policy.{name}": weight for name, weight in adapted.state_dict().items()}
    beside = {"teacher.policy.model.lm_head.weight": torch.ones(1), "updates": torch.ones(1)}
    kept = adapters_alone({**state, **beside}, adapted)
    layers = adapted.model.config.num_hidden_layers
    assert sum("lora_A" in name for name in kept) == sum("lora_B" in name for name in kept) == layers
    assert kept.keys() - {name for name in kept if "lora_" in name} == {"updates"}


def test_all_adapters_and_nothing_else_are_asked_for(adapted: Policy) -> None:
    state = adapters_alone({f"policy.{name}": weight for name, weight in adapted.state_dict().items()}, adapted)
    check_adapters({**state, "updates": 3}, adapted)
    first, *others = sorted(state)
    with pytest.raises(CheckpointError, match=f"lacks 1 weights, the first is '{first}'"):
        check_adapters({name: state[name] for name in others}, adapted)
    with pytest.raises(CheckpointError, match=r"has left over 1 weights, the first is 'policy\.model\.more'"):
        check_adapters({**state, "policy.model.more": 3}, adapted)
