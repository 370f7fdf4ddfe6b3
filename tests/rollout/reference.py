"""The plain engine: the ``generate`` of transformers, which ours is compared with.

It pads all prompts to the longest one, reads equal prompts repeatedly, and computes finished rows to the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lightning_sdft.policy import Policy
from lightning_sdft.policy.inference import evaluating
from lightning_sdft.records import Rollout, Sampling

__all__ = ["generate_with_transformers"]


@torch.no_grad()
def generate_with_transformers(
    policy: Policy,
    prompts: Sequence[list[int]],
    max_tokens: int,
    sampling: Sampling,
    seeds: Sequence[int] | None = None,
) -> list[Rollout]:
    """Write a completion of each prompt, as :func:`lightning_sdft.rollout.generate` does, but slower.

    Args:
        policy: Who writes.
        prompts: Token ids of each prompt.
        max_tokens: Completions are truncated at this length.
        sampling: How tokens are drawn.
        seeds: Seeds, which together seed the noise of the whole batch; by default torch's global generator goes on.
    """
    tokenizer, width = policy.tokenizer, max(map(len, prompts))
    tokens = torch.full((len(prompts), width), tokenizer.pad_id)
    for row, prompt in enumerate(prompts):
        tokens[row, width - len(prompt) :] = torch.tensor(prompt)
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    attention_mask = (torch.arange(width) >= width - lengths[:, None]).long()
    with evaluating(policy), torch.random.fork_rng(enabled=seeds is not None):
        if seeds is not None:
            torch.manual_seed(hash(tuple(seeds)))
        output = policy.model.generate(
            input_ids=tokens.to(policy.device),
            attention_mask=attention_mask.to(policy.device),
            max_new_tokens=max_tokens,
            eos_token_id=sorted(tokenizer.stop_ids) or None,
            pad_token_id=tokenizer.pad_id,
            return_dict_in_generate=True,
            output_scores=True,
            **_options(sampling),
        )
    written = output.sequences[:, width:]
    scores = torch.stack([step.float() for step in output.scores], 1).log_softmax(-1)
    chosen = scores.gather(-1, written[..., None]).squeeze(-1)
    rollouts = []
    for prompt, completion, values in zip(prompts, written.tolist(), chosen.tolist(), strict=True):
        ends = [index for index, token in enumerate(completion) if token in tokenizer.stop_ids]
        length = ends[0] + 1 if ends else len(completion)
        rollouts.append(Rollout(prompt, completion[:length], values[:length], bool(ends)))
    return rollouts


def _options(sampling: Sampling) -> dict[str, Any]:
    """Sampling as transformers names it; all of it, or the model's own defaults would apply."""
    if sampling.temperature == 0:
        return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, "repetition_penalty": 1.0}
    return {
        "do_sample": True,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repetition_penalty": 1.0,
    }
