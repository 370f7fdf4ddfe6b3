"""Which models read on behind a prefix, and what becomes of the others."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_sdft.policy import Policy
from lightning_sdft.policy.prefix import BranchingLayer
from lightning_sdft.policy.tokenizer import Tokenizer
from tests.conftest import make_model, make_tokenizer
from tests.families.tiny import tiny
from tests.policy.test_layout import siblings

ROWS = siblings(prompts=4, generations=1, begin=90, rest=5, completion=5)


def policy_of(model: Any, probing: bool = True) -> Policy:
    return Policy(model, Tokenizer(make_tokenizer()), probing)


@pytest.mark.parametrize(
    "family", ["llama", "gpt2", "gpt_neox", "opt", "qwen2", "gemma2", "gemma3_text", "bloom", "mpt"]
)
def test_attention_reads_prefixes(family: str) -> None:
    assert policy_of(tiny(family)).reads_prefixes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_reads_prefixes(dtype: torch.dtype) -> None:
    assert policy_of(tiny("llama").to(dtype)).reads_prefixes


def test_another_memory_does_not() -> None:
    policy = policy_of(make_model("llama"))
    policy.model.config.layer_types = ["linear_attention"] * policy.model.config.num_hidden_layers
    assert not policy.reads_prefixes


@pytest.mark.parametrize("fault", ["forgets", "detaches"])
def test_a_model_that_reads_otherwise_behind_a_prefix_does_not(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_of(make_model("llama"))
    update = BranchingLayer.update

    def broken(self: BranchingLayer, keys: Any, values: Any, *args: Any, **kwargs: Any) -> Any:
        first = self.made is None
        found = update(self, keys, values, *args, **kwargs)
        if first:
            return found
        if fault == "forgets":
            return tuple(torch.cat([torch.zeros_like(each[:, :, :6]), each[:, :, 6:]], 2) for each in found)
        return tuple(each.detach() for each in found)

    monkeypatch.setattr(BranchingLayer, "update", broken)
    assert not policy.reads_prefixes
    assert policy.share_prefix([[each] for each in ROWS]) is None


def test_it_is_asked_only_where_a_prefix_would_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_of(make_model("llama", max_position_embeddings=512))
    calls: list[int] = []
    policy.model.base_model.register_forward_pre_hook(lambda *_: calls.append(1))
    assert policy.share_prefix([[each] for each in siblings(4, 1, begin=9, rest=5, completion=5)]) is None
    assert calls == []
    assert policy.share_prefix([[each] for each in ROWS]) is not None
    asked = len(calls)
    policy.share_prefix([[each] for each in ROWS])
    assert len(calls) == asked + 1


def test_without_probing_nothing_is_shared() -> None:
    policy = policy_of(make_model("llama", max_position_embeddings=512), probing=False)
    assert policy.share_prefix([[each] for each in ROWS]) is None


def test_frozen_weights_and_no_gradient_change_nothing_about_it() -> None:
    policy = policy_of(make_model("llama").requires_grad_(False))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert policy.reads_prefixes
    assert all(each.grad is None for each in policy.parameters())
