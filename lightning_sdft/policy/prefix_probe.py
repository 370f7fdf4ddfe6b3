"""Asks a model whether it reads on behind a prefix (:mod:`lightning_sdft.policy.prefix`) as it reads whole rows.

It is asked when a prefix would pay for the first time, so that other runs start without the question.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_sdft.errors import PolicyError
from lightning_sdft.policy.inference import evaluating
from lightning_sdft.policy.layout import in_rows, in_trees
from lightning_sdft.policy.prefix import Prefix
from lightning_sdft.policy.probe import NO_MEMORY, logits_agree, text_tokens
from lightning_sdft.policy.tree_probe import TreeReader
from lightning_sdft.records import TokenSequence

__all__ = ["reads_prefixes"]

PREFIX, PROMPT, COMPLETION = 6, 2, 4
"""Number of tokens of the prefix, of the longest prompt behind it, and of a completion."""


@torch.enable_grad()
def reads_prefixes(policy: TreeReader, trees: bool) -> bool:
    """Whether the model computes the same behind a prefix, in rows and, if it reads them, in trees.

    A model that keeps something else than keys and values, or ignores what it is given, does not.
    """
    device = policy.device.type
    with evaluating(policy.model), torch.autocast(device, enabled=False):
        try:
            return _agrees(policy, trees)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except PolicyError:
            return False
        except Exception as error:  # whatever a model does with a cache that it does not know
            if NO_MEMORY in str(error):
                raise
            return False


def _agrees(policy: TreeReader, trees: bool) -> bool:
    tokens = text_tokens(policy.model, policy.tokenizer, PREFIX + PROMPT + 2 * COMPLETION)
    shared, own = tokens[:PREFIX], tokens[PREFIX : PREFIX + PROMPT]
    first, second = tokens[-2 * COMPLETION : -COMPLETION], tokens[-COMPLETION:]
    sequences = [TokenSequence(shared + own, first), TokenSequence(shared + own[:1], second)]
    with torch.no_grad():
        whole = policy.head(policy.read(in_rows(sequences, policy.filler, policy.device)))
    with policy.model.get_input_embeddings().register_forward_hook(_with_gradient):
        prefix = Prefix(policy.model, shared, policy.device)
        behind = prefix.behind(sequences)
        layouts = [in_rows(behind, policy.filler, policy.device)]
        if trees:
            layouts.append(in_trees(behind, [[0, 1]], policy.filler, policy.device))
        return all(_reads(policy, prefix, policy.read(prefix.moved(each)), whole) for each in layouts)


def _reads(policy: TreeReader, prefix: Prefix, hidden: Tensor, whole: Tensor) -> bool:
    with torch.no_grad():
        if not logits_agree(policy.head(hidden), whole, policy.model.dtype):
            return False
    # In an untrained model what the prefix changes may be too small to see, but the gradient shows it.
    kept = [each for layer in prefix.layers for each in (layer.keys, layer.values)]
    found = torch.autograd.grad(hidden[-1].square().sum(), kept, allow_unused=True)
    seen = [(each != 0).any(-1).any(1)[0] for each in found if each is not None]
    return bool(seen) and bool(torch.stack(seen).any(0).all())


def _with_gradient(module: object, args: object, output: Tensor) -> Tensor:
    """Embeddings from which gradients start, also where all weights are frozen; some models scale them in place."""
    return output.detach().requires_grad_().clone()
