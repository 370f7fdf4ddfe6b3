"""Adapters on experts, whose weights are one tensor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from lightning_sdft.policy import Policy
from lightning_sdft.policy.adapter_export import merge_adapter, merged_weights, save_adapter
from lightning_sdft.policy.lora import LoRA, add_adapter
from lightning_sdft.policy.written import check_written_adapter
from tests.conftest import make_tokenizer, move_adapter


@pytest.fixture(params=["Mixtral", "Qwen3Moe"])
def experts(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The folder of a model with experts, in which an adapter wraps two weights of one layer."""
    shape = {"hidden_size": 16, "intermediate_size": 8, "moe_intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64}
    counts = {"num_experts" if request.param == "Qwen3Moe" else "num_local_experts": 2, "num_experts_per_tok": 1}
    config = getattr(transformers, f"{request.param}Config")(vocab_size=64, **shape, **heads, **counts)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    return str(tmp_path)


def test_adapter_on_experts_is_merged(experts: str) -> None:
    policy = Policy.load(experts)
    tokens = torch.tensor([[7, 8, 9, 10, 11]])
    plain = policy.model(tokens).logits
    add_adapter(policy.model, LoRA(rank=2))
    move_adapter(policy.model)
    adapted = policy.model(tokens).logits
    assert not torch.allclose(adapted, plain, atol=1e-3)
    weights = merged_weights(policy.model)
    merge_adapter(policy.model)
    torch.testing.assert_close(policy.model(tokens).logits, adapted)
    assert {name: each.tolist() for name, each in policy.model.state_dict().items()} == {
        name: each.tolist() for name, each in weights.items()
    }


def test_adapter_on_experts_is_written_so_that_peft_reads_it(experts: str, tmp_path: Path) -> None:
    policy = Policy.load(experts)
    add_adapter(policy.model, LoRA(rank=2), source=experts)
    move_adapter(policy.model)
    save_adapter(policy.model, tmp_path / "adapter")
    check_written_adapter(policy, tmp_path / "adapter", torch.float32, False)
