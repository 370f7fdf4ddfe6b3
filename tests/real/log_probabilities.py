"""A sampler's log-probabilities against those of the model itself, computed without this package's losses.

Letters: N tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_sdft.policy import Policy
from lightning_sdft.records import Rollout, Sampling

__all__ = ["compared"]


def compared(policy: Policy, rollouts: Sequence[Rollout], sampling: Sampling) -> dict[str, float]:
    """Differences of log-probabilities, and mean importance ratios: right, and against the whole vocabulary."""
    pairs = [own_log_probabilities(policy, rollout, sampling) for rollout in rollouts]
    own, whole = (torch.cat(each) for each in zip(*pairs, strict=True))
    sampler = torch.tensor([each for rollout in rollouts for each in rollout.log_probabilities], dtype=torch.float64)
    inside = own > -torch.inf
    gap = (own - sampler)[inside].abs()
    figures = {"tokens": len(own), "outside": (~inside).sum(), "max_gap": gap.max(), "mean_gap": gap.mean()}
    figures |= {"ratio": (own - sampler).exp().mean(), "whole_vocabulary": (whole - sampler).exp().mean()}
    return {name: float(value) for name, value in figures.items()}


@torch.no_grad()
def own_log_probabilities(policy: Policy, rollout: Rollout, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Of a rollout's tokens by the logits of the model: as sampling truncates them, and of all tokens, both `(N,)`."""
    tokens = torch.tensor([rollout.prompt + rollout.completion])
    logits = policy.model(tokens).logits[0, len(rollout.prompt) - 1 : -1].double() / (sampling.temperature or 1.0)
    chosen = torch.tensor(rollout.completion)[:, None]
    whole = logits.log_softmax(-1).gather(-1, chosen).squeeze(-1)
    if not sampling.temperature:
        return whole, whole
    probabilities, order = logits.softmax(-1).sort(descending=True)
    kept = probabilities >= sampling.min_p * probabilities[:, :1]
    if sampling.top_k:
        kept[:, sampling.top_k :] = False
    rest = probabilities.where(kept, 0)
    rest /= rest.sum(-1, keepdim=True)
    kept &= rest.cumsum(-1) - rest < sampling.top_p
    truncated = logits.where(torch.zeros_like(kept).scatter(-1, order, kept), -torch.inf)
    return truncated.log_softmax(-1).gather(-1, chosen).squeeze(-1), whole
