"""Trees: hidden states and gradients are those of rows, and each distinct beginning is read once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import rms_norm
from transformers import LlamaConfig

from lightning_sdft.policy import Policy
from lightning_sdft.policy.layout import Layout, cut_into_trees, in_rows, in_trees, longest_tree
from lightning_sdft.policy.lora import LoRA, add_adapter
from lightning_sdft.policy.tokenizer import Tokenizer
from lightning_sdft.records import TokenSequence
from lightning_sdft.teacher import CopiedTeacher
from tests.conftest import VOCABULARY, make_model, make_tokenizer
from tests.families.tiny import tiny

GENERATOR = torch.Generator().manual_seed(0)


def tokens(count: int) -> list[int]:
    return torch.randint(5, len(VOCABULARY), (count,), generator=GENERATOR).tolist()


def siblings(prompts: int, generations: int, begin: int, rest: int, completion: int) -> list[TokenSequence]:
    """Completions of prompts that begin alike, of different lengths and in no order."""
    common = tokens(begin)
    asked = [[*common, *tokens(rest + index)] for index in range(prompts)]
    found = [TokenSequence(prompt, tokens(completion + n)) for prompt in asked for n in range(generations)]
    return [found[place] for place in torch.randperm(len(found), generator=GENERATOR).tolist()]


ARTICLE = siblings(prompts=3, generations=3, begin=9, rest=4, completion=3)


def run(policy: Policy, layout: Layout) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits of the completion tokens, and the gradients of a loss that depends on each of them."""
    policy.zero_grad()
    logits = policy.head(policy.read(layout))
    generator = torch.Generator().manual_seed(0)
    (logits * torch.randn(logits.shape, generator=generator, dtype=logits.dtype)).sum().backward()
    return logits.detach(), {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}


def exact(model: Any) -> Any:
    """A model in float64, also in its norms, which would compute in float32."""
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = partial(_norm, module)
    return model.double().eval()


def _norm(module: Any, states: Tensor) -> Tensor:
    return rms_norm(states, states.shape[-1:], module.weight, 1e-6)


@pytest.mark.parametrize("cut", [[[*range(9)]], [[*range(5)], [5, 6], [7, 8]]], ids=["one tree", "three trees"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "gpt_neox", "opt", "phi", "qwen3"])
def test_trees_are_rows(family: str, cut: list[list[int]]) -> None:
    policy = Policy(exact(tiny(family)), Tokenizer(make_tokenizer()))
    assert policy.reads_trees
    at = policy.filler, policy.device
    rows, expected = run(policy, in_rows(ARTICLE, *at))
    trees, gradients = run(policy, in_trees(ARTICLE, cut, *at))
    torch.testing.assert_close(trees, rows, rtol=0, atol=1e-10 * rows.abs().max().item())
    assert gradients.keys() == expected.keys()
    scale = max(gradient.abs().max().item() for gradient in expected.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-10 * scale, msg=name)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_each_attention_reads_trees_under_autocast(
    attention: str, precision: torch.dtype, family_folder: Callable[[str], Path]
) -> None:
    policy = Policy.load(str(family_folder("llama")), attention=attention).eval()
    assert policy.reads_trees
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        rows = policy.read(in_rows(ARTICLE, policy.filler, policy.device))
        trees = policy.read(in_trees(ARTICLE, [[*range(9)]], policy.filler, policy.device))
    limit = 1e-5 if precision == torch.float32 else 0.05
    torch.testing.assert_close(trees, rows, rtol=0, atol=limit * rows.abs().max().item())


def roomy(**changes: Any) -> Policy:
    """A policy that reads long trees."""
    return Policy(make_model("llama", max_position_embeddings=1024, **changes), Tokenizer(make_tokenizer()))


MANY = siblings(prompts=2, generations=4, begin=0, rest=40, completion=6)


def shapes(policy: Policy) -> list[tuple[int, ...]]:
    """The shapes of the inputs that the model gets from now on."""
    found: list[tuple[int, ...]] = []
    policy.model.base_model.register_forward_pre_hook(
        lambda _, __, inputs: found.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    return found


def test_a_policy_reads_the_generations_of_a_prompt_as_a_tree() -> None:
    policy = roomy()
    read = shapes(policy)
    trees = policy.hidden(MANY)
    policy.reads_trees = False
    rows = policy.hidden(MANY)
    torch.testing.assert_close(trees, rows, rtol=0, atol=1e-5 * rows.abs().max().item())
    # Prompts of 40 and 41 tokens, four completions of 6 to 9; their last tokens predict nothing.
    assert read == [(2, 41 + 5 + 6 + 7 + 8 + 5), (8, 41 + 9)]


def test_a_policy_with_gradient_checkpointing_reads_trees() -> None:
    policy = roomy()
    expected = run(policy, in_rows(MANY, policy.filler, policy.device))[1]
    policy.enable_gradient_checkpointing()
    read = shapes(policy)
    policy.zero_grad()
    logits = policy.head(policy.hidden(MANY))
    (logits * torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    assert read[0][0] == 2
    scale = max(gradient.abs().max().item() for gradient in expected.values())
    for name, weight in policy.named_parameters():
        assert weight.grad is not None
        torch.testing.assert_close(weight.grad, expected[name], rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("lora", [None, LoRA(rank=2)])
def test_teachers_read_trees(lora: LoRA | None) -> None:
    policy = roomy()
    if lora is not None:
        pytest.importorskip("peft")
        add_adapter(policy.model, lora)
    teacher = CopiedTeacher().build(policy, lora, None, False)
    read = shapes(teacher.policy)
    trees = teacher.hidden(MANY)
    assert read[0][0] == 2
    teacher.policy.reads_trees = False
    rows = teacher.hidden(MANY)
    torch.testing.assert_close(trees, rows, rtol=0, atol=1e-5 * rows.abs().max().item())
    assert not trees.requires_grad


def test_prompts_about_one_article_read_it_once() -> None:
    about = siblings(prompts=8, generations=1, begin=300, rest=5, completion=6)
    policy = roomy(hidden_size=64)
    read = shapes(policy)
    policy.hidden(about)
    assert read == [(1, -(-(300 + sum(len(each) - 300 - 1 for each in about)) // 8) * 8)]


def test_what_a_window_or_the_model_ends_is_read_as_rows() -> None:
    for limit, rows in ((150, 1), (80, 2), (64, 4), (8, 8)):
        found = cut_into_trees(MANY, 1e-6, limit)
        assert len(MANY if found is None else found) == rows, limit
    config = LlamaConfig(max_position_embeddings=512)
    assert longest_tree(config, 512) == 512
    config.sliding_window = 100
    assert longest_tree(config, 512) == 100
    config.sliding_window = None
    assert longest_tree(config, None) is None


def test_models_with_windows_read_trees_within_them() -> None:
    policy = Policy(
        exact(make_model("gemma3", sliding_window=80, max_position_embeddings=512)), Tokenizer(make_tokenizer())
    )
    assert policy.longest_tree == 80
    read = shapes(policy)
    trees = policy.hidden(MANY)
    assert read[0][0] == 2
    rows = policy.read(in_rows(MANY, policy.filler, policy.device))
    torch.testing.assert_close(trees, rows, rtol=0, atol=1e-6 * rows.abs().max().item())


def test_siblings_with_long_completions_are_spread_over_several_trees() -> None:
    cuts = [cut_into_trees(siblings(1, 8, 0, 400, length), 3e-4, None) for length in (50, 400, 4000)]
    assert [None if cut is None else len(cut) for cut in cuts] == [1, 2, None]


def test_every_sequence_is_in_one_tree_with_its_siblings() -> None:
    many = siblings(prompts=5, generations=4, begin=3, rest=60, completion=9)
    cut = cut_into_trees(many, 2e-3, None)
    assert cut is not None
    assert sorted(index for tree in cut for index in tree) == list(range(20))
    assert [len({tuple(many[index].prompt) for index in tree}) for tree in cut] == [1] * 5


def test_little_is_not_worth_a_tree() -> None:
    assert cut_into_trees(siblings(4, 1, 30, 100, 20), 1e-4, None) is None  # a common system prompt
    assert cut_into_trees(siblings(2, 2, 0, 10, 3), 1e-4, None) is None  # of few tokens
    assert cut_into_trees(MANY[:1], 1e-4, None) is None


def test_equal_sequences_are_read_once() -> None:
    twice = [*MANY, *MANY]
    policy = roomy().eval()
    hidden = policy.hidden(twice)
    assert torch.equal(*hidden.chunk(2))


def test_padding_leaves_no_trace() -> None:
    """Trees of different sizes: states and gradients are finite, and those of each tree alone."""
    policy = roomy().eval()
    uneven = [*siblings(1, 4, 0, 40, 6), *siblings(1, 4, 0, 90, 6)]
    layout = in_trees(uneven, [[0, 1, 2, 3], [4, 5, 6, 7]], policy.filler, policy.device)
    together, gradients = run(policy, layout)
    alone = in_trees(uneven[:4], [[0, 1, 2, 3]], policy.filler, policy.device)
    short, _ = run(policy, alone)
    torch.testing.assert_close(together[: len(short)], short, rtol=0, atol=1e-5 * short.abs().max().item())
    assert all(torch.isfinite(each).all() for each in gradients.values())
