"""Prefixes: what is read behind them, and the gradient that goes back through them, is that of whole rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_sdft.policy import Policy
from lightning_sdft.policy.adapter_view import AdapterView
from lightning_sdft.policy.common_prefix import common_prefix
from lightning_sdft.policy.lora import LoRA, add_adapter
from lightning_sdft.policy.prefix import Prefix, worth_sharing
from lightning_sdft.policy.tokenizer import Tokenizer
from lightning_sdft.records import TokenSequence
from tests.conftest import make_model, make_tokenizer
from tests.families.tiny import tiny
from tests.policy.test_layout import exact, shapes, siblings

MANY = siblings(prompts=4, generations=1, begin=9, rest=3, completion=3)
TREE = siblings(prompts=2, generations=4, begin=9, rest=30, completion=3)


def policy_of(model: Any) -> Policy:
    return Policy(model, Tokenizer(make_tokenizer()))


def loss(policy: Policy, sequences: list[TokenSequence], prefix: Prefix | None) -> Tensor:
    """A loss that depends on each logit, in its own way."""
    logits = policy.head(policy.hidden(sequences, prefix=prefix))
    generator = torch.Generator().manual_seed(len(sequences[0]))
    return (logits * torch.randn(logits.shape, generator=generator, dtype=logits.dtype)).sum()


def run(policy: Policy, batches: list[list[TokenSequence]], prefix: Prefix | None) -> tuple[list[float], list[Tensor]]:
    """The losses of micro-batches, and the gradients that they add up to."""
    losses = []
    for batch in batches:
        losses.append(loss(policy, batch, prefix))
        losses[-1].backward()
    if prefix is not None:
        prefix.backward()
    gradients = [each.grad.clone() for each in policy.parameters() if each.grad is not None]
    policy.zero_grad()
    return [each.item() for each in losses], gradients


def check_equal(policy: Policy, batches: list[list[TokenSequence]]) -> None:
    """Losses and gradients behind a prefix are those of whole rows, to 1e-10."""
    expected, rows = run(policy, batches, None)
    shared = common_prefix([each.prompt for batch in batches for each in batch])
    assert len(shared) == 9
    found, gradients = run(policy, batches, Prefix(policy.model, shared, policy.device))
    assert found == pytest.approx(expected, rel=1e-10)
    assert len(gradients) == len(rows)
    scale = max(each.abs().max().item() for each in rows)
    for one, other in zip(gradients, rows, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10 * scale)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "gpt_neox", "opt", "phi", "qwen3", "mistral"])
def test_rows_behind_a_prefix_are_whole_rows(family: str, size: int) -> None:
    policy = policy_of(exact(tiny(family)))
    policy.reads_trees = False
    check_equal(policy, [MANY[first : first + size] for first in range(0, 4, size)])


def test_trees_behind_a_prefix_are_whole_rows() -> None:
    policy = policy_of(exact(make_model("llama", max_position_embeddings=512)))
    read = shapes(policy)
    check_equal(policy, [TREE[:4], TREE[4:]])
    *whole, prefix, one, other = read
    assert len(whole) == 2
    assert prefix == (1, 9)
    for before, behind in zip(whole, (one, other), strict=True):
        assert before[1] - 8 > behind[1] > before[1] - 18


def test_gradients_go_through_an_adapter_and_a_view_has_none() -> None:
    model = exact(tiny("llama"))
    policy = policy_of(model)
    add_adapter(model, LoRA(rank=2))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    model.double()
    check_equal(policy, [[each] for each in MANY])
    view = AdapterView(policy, None)
    batches = [siblings(prompts=8, generations=1, begin=60, rest=1, completion=1)]
    prefix = view.share_prefix([[each] for each in batches[0]])
    assert prefix is not None
    assert not prefix.layers[0].keys.requires_grad
    torch.testing.assert_close(view.hidden(batches[0], prefix=prefix), view.hidden(batches[0]), rtol=0, atol=1e-10)
    assert (view.hidden(batches[0]) - policy.hidden(batches[0])).abs().max() > 1e-3


def test_a_prefix_is_read_once_and_what_stands_behind_it_alone() -> None:
    policy = policy_of(make_model("llama", max_position_embeddings=512))
    rows = siblings(prompts=4, generations=1, begin=90, rest=5, completion=5)
    read = shapes(policy)
    prefix = policy.share_prefix([[each] for each in rows])
    assert prefix is not None
    assert read[-1] == (1, 90)
    del read[:]
    for each in rows:
        policy.hidden([each], prefix=prefix)
    assert read == [(1, len(each) - 90) for each in rows]


@pytest.mark.parametrize("window", [4, 20])
def test_a_window_that_ends_in_the_prefix_or_behind_it(window: int) -> None:
    policy = policy_of(make_model("gemma3", max_position_embeddings=512, sliding_window=window).double().eval())
    rows = siblings(prompts=4, generations=1, begin=90, rest=8, completion=9)
    prefix = policy.share_prefix([[each] for each in rows])
    assert prefix is not None
    found, expected = policy.hidden(rows, prefix=prefix), policy.hidden(rows)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * expected.abs().max().item())
    policy.model.config.sliding_window = 400
    assert (policy.hidden(rows) - expected).abs().max() > 1e-3


def test_half_precision_reads_behind_a_prefix() -> None:
    policy = policy_of(make_model("llama", max_position_embeddings=512))
    rows = siblings(prompts=4, generations=1, begin=90, rest=5, completion=5)
    with torch.autocast("cpu", torch.bfloat16):
        prefix = policy.share_prefix([[each] for each in rows])
        assert prefix is not None
        found, expected = policy.hidden(rows, prefix=prefix), policy.hidden(rows)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05 * expected.abs().max().item())


def never(batch: object) -> None:
    """Read no trees."""


def test_a_prefix_must_spare_a_tenth_and_as_much_as_a_tree() -> None:
    rows = siblings(prompts=8, generations=1, begin=30, rest=40, completion=3)
    alone = [[each] for each in rows]
    assert worth_sharing(alone, never, pair=0.0) == rows[0].prompt[:30]
    assert worth_sharing(alone, never, pair=0.01) == []  # what the mask costs is more
    assert worth_sharing(alone[:4], never, pair=0.0) == []  # 90 tokens
    long = [[each] for each in siblings(prompts=8, generations=1, begin=30, rest=400, completion=3)]
    assert worth_sharing(long, never, pair=0.0) == []  # 210 of 3,500 tokens
    assert worth_sharing([rows], lambda batch: [[*range(8)]], pair=0.0) == []  # one tree reads it once already
    assert worth_sharing([rows, rows], lambda batch: [[0]], pair=0.0) == []  # and two of them twice
