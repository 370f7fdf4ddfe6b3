"""Asks a model, after it is loaded, whether it reads trees (:mod:`lightning_sdft.policy.layout`) as it reads rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from lightning_sdft.losses.head import Head
from lightning_sdft.policy.inference import evaluating
from lightning_sdft.policy.layout import Layout, in_rows, in_trees
from lightning_sdft.policy.probe import NO_MEMORY, logits_agree, text_tokens
from lightning_sdft.policy.tokenizer import Tokenizer
from lightning_sdft.policy.tree_mask import sees
from lightning_sdft.records import TokenSequence

__all__ = ["reads_trees"]

FIRST = 12
"""Number of tokens of the first completion in the tree, which put the next one far from the prompt."""


class TreeReader(Protocol):
    """What is asked of a :class:`lightning_sdft.policy.Policy`."""

    model: Any
    tokenizer: Tokenizer
    filler: int

    @property
    def head(self) -> Head:
        """The output head."""

    @property
    def device(self) -> torch.device:
        """The device of the weights."""

    def read(self, layout: Layout) -> Tensor:
        """Hidden states `(N, D)` at the positions that predict completion tokens."""


@torch.enable_grad()
def reads_trees(policy: TreeReader) -> bool:
    """Whether the model computes the same for sequences in a tree as for each in a row.

    A model that fails on a tree, or has a mask or positions of its own (ALiBi, a recurrent state), does not.
    """
    tokens = text_tokens(policy.model, policy.tokenizer, FIRST + 12)
    first, second, third = tokens[6 : 6 + FIRST], tokens[-6:-2], tokens[-2:]
    prompt, other = tokens[:4], [*tokens[:2], *tokens[4:6]]
    siblings = [TokenSequence(prompt, first), TokenSequence(prompt, second), TokenSequence(other, third)]
    with evaluating(policy.model):
        try:
            return _agrees(policy, [*siblings, TokenSequence(other, second)])
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever a model does with a mask that it does not know
            if NO_MEMORY in str(error):
                raise
            return False


def _agrees(policy: TreeReader, sequences: Sequence[TokenSequence]) -> bool:
    device = policy.device
    trees = in_trees(sequences, [[0, 1, 2], [3]], policy.filler, device)
    with torch.no_grad():
        rows = policy.read(in_rows(sequences, policy.filler, device))
    embedded: list[Tensor] = []

    def hook(module: object, args: object, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1].clone()  # some models scale it in place

    with policy.model.get_input_embeddings().register_forward_hook(hook):
        hidden = policy.read(trees)
    with torch.no_grad():
        if not logits_agree(policy.head(hidden), policy.head(rows), policy.model.dtype):
            return False
    # In an untrained model a leak may be too small to see in the hidden states, but the gradient shows it.
    last = len(sequences[0].completion) + len(sequences[1].completion) - 1
    row, column = (int(place[last]) for place in trees.predicting)
    (dependence,) = torch.autograd.grad(hidden[last].square().sum(), embedded[0])
    depends = (dependence != 0).any(-1)
    assert trees.last is not None
    expected = torch.zeros_like(depends)
    expected[row] = sees(trees.last)[row, column]
    return torch.allclose(depends.float(), expected.float())  # true where a rehearsal computes no numbers
