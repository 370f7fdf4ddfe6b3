"""Whether a model reads trees is found out by asking it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_sdft.policy import Policy
from lightning_sdft.policy.layout import in_rows, in_trees
from lightning_sdft.policy.tokenizer import Tokenizer
from lightning_sdft.policy.tree_probe import reads_trees
from tests.conftest import make_model, make_tokenizer
from tests.families.tiny import tiny
from tests.policy.test_layout import ARTICLE


def load(model: Any, **options: Any) -> Policy:
    return Policy(model, Tokenizer(make_tokenizer()), **options)


@pytest.mark.parametrize("family", ["llama", "gpt2", "cohere", "ctrl", "qwen2_moe"])
def test_full_attention_reads_trees(family: str) -> None:
    model = make_model(family) if family in ("llama", "gpt2", "cohere") else tiny(family)
    assert load(model).reads_trees


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_reads_trees(dtype: torch.dtype) -> None:
    assert load(make_model("llama").to(dtype)).reads_trees


@pytest.mark.parametrize("family", ["mistral", "gemma3_text", "starcoder2"])
def test_a_window_that_ends_within_the_tree_does_not(family: str) -> None:
    assert not load(tiny(family)).reads_trees


@pytest.mark.parametrize("family", ["bloom", "mpt"])
def test_positions_of_its_own_do_not(family: str) -> None:
    """ALiBi counts the tokens between two in the row, siblings included."""
    model = tiny(family)
    policy = load(model)
    assert not policy.reads_trees


class Own:
    """Replaces an input of a model, as if the model did not know it."""

    def __init__(self, policy: Policy, name: str) -> None:
        self.handle = policy.model.base_model.register_forward_pre_hook(self.drop, with_kwargs=True)
        self.name = name

    def drop(self, module: object, args: Any, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {name: value for name, value in inputs.items() if name != self.name}


@pytest.mark.parametrize("name", ["attention_mask", "position_ids"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_model_that_ignores_the_tree_does_not(family: str, name: str) -> None:
    policy = load(make_model(family))
    assert reads_trees(policy)
    Own(policy, name)
    assert not reads_trees(policy)


def test_an_untrained_model_that_leaks_does_not() -> None:
    """Its states hardly depend on other tokens: only the gradient shows it."""
    model = make_model("llama")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.mul_(1e-6)
    policy = load(model)
    assert policy.reads_trees
    Own(policy, "attention_mask")
    assert not reads_trees(policy)


def test_an_error_of_the_model_means_rows_and_little_memory_does_not() -> None:
    policy = load(make_model("llama"))

    def failing(*args: Any, **kwargs: Any) -> None:
        raise problems.pop()

    policy.model.base_model.register_forward_pre_hook(failing)
    problems: list[Exception] = [ValueError("Wrong shape for attention_mask")]
    assert not reads_trees(policy)
    problems.append(torch.OutOfMemoryError("out of memory"))
    with pytest.raises(torch.OutOfMemoryError):
        reads_trees(policy)


def test_without_probing_rows_are_read() -> None:
    assert not load(make_model("llama"), probing=False).reads_trees


def test_the_probe_leaves_no_gradients_and_no_hooks() -> None:
    model = make_model("llama").train()
    policy = load(model)
    assert all(weight.grad is None for weight in policy.parameters())
    assert not policy.model.get_input_embeddings()._forward_hooks
    assert policy.model.training


def test_frozen_weights_read_trees() -> None:
    assert load(make_model("llama").requires_grad_(False)).reads_trees


def test_the_verdict_is_that_of_more_tokens_too() -> None:
    policy = load(tiny("falcon").double().eval())
    rows = policy.read(in_rows(ARTICLE, policy.filler, policy.device))
    trees = policy.read(in_trees(ARTICLE, [[*range(9)]], policy.filler, policy.device))
    assert policy.reads_trees == torch.allclose(trees, rows, rtol=0, atol=1e-10 * rows.abs().max().item())
