"""Masks of trees: a node attends to its ancestors and to itself, whichever attention computes it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_mask, flex_attention
from transformers.integrations.flex_attention import WrappedFlexAttention

from lightning_sdft.policy import Policy
from lightning_sdft.policy.common_prefix import common_prefix
from lightning_sdft.policy.layout import in_rows, in_trees
from lightning_sdft.policy.prefix import Prefix
from lightning_sdft.policy.tokenizer import Tokenizer
from lightning_sdft.policy.tree_mask import additive_mask, block_mask, sees
from lightning_sdft.records import TokenSequence
from tests.conftest import make_model, make_tokenizer
from tests.policy.test_layout import siblings

# 0 - 1 - 2        and a tree of one branch, with padding
#      \- 3 - 4
#          \- 5
LAST = torch.tensor([[5, 5, 2, 5, 4, 5], [3, 3, 3, 3, 4, 5]])
ANCESTORS = [
    [[0], [0, 1], [0, 1, 2], [0, 1, 3], [0, 1, 3, 4], [0, 1, 3, 5]],
    [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [4], [5]],
]


def expected(before: int) -> Tensor:
    mask = torch.zeros(2, 6, before + 6, dtype=torch.bool)
    mask[:, :, :before] = True
    for row, nodes in enumerate(ANCESTORS):
        for node, above in enumerate(nodes):
            mask[row, node, [before + each for each in above]] = True
    return mask


@pytest.mark.parametrize("before", [0, 3])
def test_a_node_attends_to_its_ancestors_and_the_prefix(before: int) -> None:
    assert torch.equal(sees(LAST, before), expected(before))
    mask = additive_mask(LAST, before, torch.bfloat16)
    assert mask.shape == (2, 1, 6, before + 6)
    assert torch.equal(mask[:, 0] == 0, expected(before))
    assert torch.isfinite(mask).all()


@pytest.mark.parametrize("before", [0, 3])
def test_the_mask_of_blocks_is_the_same(before: int) -> None:
    mask = block_mask(LAST, before)
    assert mask.shape == (2, 1, 6, before + 6)
    whole = create_mask(mask.mask_mod, 2, None, 6, before + 6, device="cpu")
    assert torch.equal(whole[:, 0], expected(before))


def test_blocks_between_branches_are_left_out() -> None:
    """Four answers of 256 tokens to a prompt of 256: 10 pairs of blocks on the diagonal, and the prompt's columns."""
    tree = [TokenSequence([1] * 256, [2 + branch] * 257) for branch in range(4)]
    layout = in_trees(tree, [[0, 1, 2, 3]], 0, torch.device("cpu"))
    assert layout.last is not None
    blocks = block_mask(layout.last, 0)
    assert layout.last.shape == (1, 1280)
    assert blocks.sparsity() == pytest.approx(100 * (1 - (5 * 3 + 4 * 4) / 100))


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """FlexAttention by its formula; on a CPU it has no gradient in either case."""
    monkeypatch.setattr(WrappedFlexAttention, "__call__", lambda self: flex_attention)


@pytest.mark.usefixtures("uncompiled")
@torch.no_grad()
def test_flex_attention_reads_trees_as_rows() -> None:
    model = make_model("llama", max_position_embeddings=1024, num_hidden_layers=1).eval()
    policy = Policy(model, Tokenizer(make_tokenizer()))
    many = siblings(prompts=2, generations=3, begin=9, rest=70, completion=30)
    rows = policy.read(in_rows(many, policy.filler, policy.device))
    model.set_attn_implementation("flex_attention")
    masks: list[str] = []
    model.base_model.layers[0].self_attn.register_forward_pre_hook(
        lambda _, __, inputs: masks.append(type(inputs["attention_mask"]).__name__), with_kwargs=True
    )
    trees = policy.read(in_trees(many, [[*range(6)]], policy.filler, policy.device))
    prefix = Prefix(model, common_prefix([each.prompt for each in many]), policy.device)
    behind = in_trees(prefix.behind(many), [[*range(6)]], policy.filler, policy.device)
    assert len(prefix) == 9
    for found in (trees, policy.read(prefix.moved(behind))):
        torch.testing.assert_close(found, rows, rtol=0, atol=1e-5 * rows.abs().max().item())
    assert masks == ["BlockMask"] * 3
