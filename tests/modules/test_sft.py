from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_sdft.data.groups import MicroBatch
from lightning_sdft.modules import SFTModule
from lightning_sdft.records import Example
from tests.conftest import END
from tests.modules.dense import check, log_probabilities, mean, step, token_ids

EXAMPLES = [
    Example("short", [{"role": "user", "content": "w1 w2"}], "w20"),
    Example("long", [{"role": "user", "content": "w3"}], "w21 w22 w23 w24 w26"),
    Example("system", [{"role": "system", "content": "w4"}, {"role": "user", "content": "w6 w7 w8"}], "w28 w29"),
    Example("same prompt", [{"role": "user", "content": "w3"}], "w30 w30 w31"),
]

SEQUENCES = [
    ("<user> w1 w2 <end> <assistant>", "w20 <end>"),
    ("<user> w3 <end> <assistant>", "w21 w22 w23 w24 w26 <end>"),
    ("<system> w4 <end> <user> w6 w7 w8 <end> <assistant>", "w28 w29 <end>"),
    ("<user> w3 <end> <assistant>", "w30 w30 w31 <end>"),
]


def target_log_probabilities(module: SFTModule) -> list[Tensor]:
    """Of each demonstration token and the token that ends it, a tensor per sequence."""
    parts = []
    for prompt, completion in SEQUENCES:
        targets = torch.tensor(token_ids(completion))
        scores = log_probabilities(module.policy.model, token_ids(prompt), token_ids(completion))
        parts.append(scores[range(len(targets)), targets])
    return parts


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("reduction", ["token", "sequence"])
def test_loss_and_gradient_equal_cross_entropy_of_the_whole_logits(
    reduction: Any, words_module: Callable[..., SFTModule]
) -> None:
    module = words_module(SFTModule, reduction=reduction)
    module.configure_model()
    parts = target_log_probabilities(module)
    expected = -torch.cat(parts).mean() if reduction == "token" else -mean(part.mean() for part in parts)
    assert expected > 2
    check(module.policy, step(module, EXAMPLES)[0], expected, 1e-6)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("reduction", ["token", "sequence"])
def test_micro_batches_of_ragged_demonstrations_add_up_to_their_group(
    reduction: Any, words_module: Callable[..., SFTModule]
) -> None:
    module = words_module(SFTModule, reduction=reduction)
    module.configure_model()
    parts = target_log_probabilities(module)
    expected = -torch.cat(parts).mean() if reduction == "token" else -mean(part.mean() for part in parts)
    loss, _ = step(module, EXAMPLES, 2)
    check(module.policy, loss, expected, 1e-6)


def test_completions_are_the_demonstrations_with_one_end_token(words_module: Callable[..., SFTModule]) -> None:
    sequences = words_module(SFTModule).demonstrations(EXAMPLES)
    assert [sequence.prompt for sequence in sequences] == [token_ids(prompt) for prompt, _ in SEQUENCES]
    assert [sequence.completion for sequence in sequences] == [token_ids(completion) for _, completion in SEQUENCES]
    assert all(sequence.completion.count(END) == 1 for sequence in sequences)


def test_every_demonstration_token_counts_and_the_end_token_too(words_module: Callable[..., SFTModule]) -> None:
    module = words_module(SFTModule)
    batch = MicroBatch.of(EXAMPLES)
    module.fill(batch.group)
    weights = module.weights(batch)
    torch.testing.assert_close(weights, torch.full((15,), 1 / 15))
