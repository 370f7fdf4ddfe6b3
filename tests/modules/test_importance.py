"""Importance weights of rollouts whose sampler is known to differ from the student."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from lightning_sdft.data.groups import MicroBatch
from lightning_sdft.losses import TruncatedImportance
from lightning_sdft.modules import DistillationModule
from lightning_sdft.policy import Policy
from lightning_sdft.records import Rollout, Sampling
from lightning_sdft.rollout import RolloutEngine, generate, score_rollouts
from tests.modules.conftest import EXAMPLES, SHOWN, TEACHER_PROMPTS, ready
from tests.modules.dense import check, forward_kl, step, token_divergences, weigh

RATIOS = [0.5, 1.0, 1.5, 3.0, 0.8, 1.0, 2.5, 0.1]
"""Probability of the student over that of the sampler, at each position of a completion."""


@dataclass
class OffEngine(RolloutEngine):
    """The student samples, and claims to have had other log-probabilities."""

    def generate(
        self,
        policy: Policy,
        prompts: Sequence[list[int]],
        max_tokens: int,
        sampling: Sampling,
        seeds: Sequence[int],
        step: int,
    ) -> list[Rollout]:
        return [
            replace(
                rollout, log_probabilities=(torch.tensor(scores) - torch.tensor(RATIOS[: len(scores)]).log()).tolist()
            )
            for rollout in generate(policy, prompts, max_tokens, sampling, seeds)
            for scores in [rollout.log_probabilities]
        ]


def expected_weights(length: int, skip: int, per: str, cap: float) -> Tensor:
    truncated = [min(ratio, cap) for ratio in RATIOS[:length]]
    counted = truncated[skip:]
    if per == "sequence" and counted:
        return torch.full((length,), sum(counted) / len(counted))
    return torch.tensor(truncated)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.7), Sampling(top_k=20)])
@pytest.mark.parametrize("reduction", ["sequence", "token"])
@pytest.mark.parametrize(("per", "cap"), [("sequence", 2.0), ("token", 2.0), ("token", 1.2)])
def test_loss_and_gradient_are_weighed_by_truncated_ratios(
    per: Literal["sequence", "token"],
    cap: float,
    reduction: Any,
    sampling: Sampling,
    words_module: Callable[..., DistillationModule],
) -> None:
    arguments = {**SHOWN, "engine": OffEngine(), "importance": TruncatedImportance(cap, per), "skip_tokens": 1}
    module = ready(words_module(DistillationModule, sampling=sampling, reduction=reduction, **arguments))
    torch.manual_seed(0)
    loss, group = step(module, EXAMPLES, 2)
    parts = token_divergences(module, group, forward_kl, TEACHER_PROMPTS)
    weighed = [part * expected_weights(len(part), 1, per, cap) for part in parts]
    check(module.policy, loss, weigh(weighed, 1, reduction))
    unweighed = weigh(parts, 1, reduction)
    assert abs(unweighed.item() - loss.item()) > 1e-3 * unweighed.item()  # far beyond the tolerance


@pytest.mark.parametrize("per", ["sequence", "token"])
def test_loss_of_a_sampler_that_agrees_is_bit_for_bit_the_one_without_weights(
    per: Literal["sequence", "token"], words_module: Callable[..., DistillationModule]
) -> None:
    engine = {"engine": OffEngine(), "importance": TruncatedImportance(per=per)}
    losses, gradients = [], []
    for arguments in ({}, engine):
        module = ready(words_module(DistillationModule, **SHOWN, skip_tokens=1, **arguments))
        torch.manual_seed(0)
        batch = MicroBatch.of(EXAMPLES)
        module.fill(batch.group)
        hidden = module.policy.hidden(batch.student_sequences)
        scores, _ = score_rollouts(batch.rollouts, hidden, module.policy.head, module.sampling)
        parts = scores.split(batch.completion_lengths)
        scored = [
            replace(item, rollout=replace(rollout, log_probabilities=part.tolist()))
            for item, rollout, part in zip(batch.items, batch.rollouts, parts, strict=True)
        ]
        batch.group.fill(scored, batch.group.tokens)
        losses.append(module.training_step(batch, 0))
        gradients.append(torch.autograd.grad(losses[-1], list(module.policy.parameters())))
    assert losses[0].item() == losses[1].item() != 0
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_mean_ratio_and_share_of_truncated_ones_are_logged(words_module: Callable[..., DistillationModule]) -> None:
    module = ready(words_module(DistillationModule, **SHOWN, engine=OffEngine()))
    logged: dict[str, float] = {}
    module.log = lambda name, value, **_: logged.update({name: float(value)})  # type: ignore[method-assign,assignment]
    torch.manual_seed(0)
    _, group = step(module, EXAMPLES, 2)
    lengths = [len(rollout.completion) for rollout in group.rollouts]
    ratios = [ratio for length in lengths for ratio in RATIOS[:length]]
    assert logged["rollout/importance"] == pytest.approx(sum(min(ratio, 2) for ratio in ratios) / len(ratios), rel=1e-4)
    assert logged["rollout/importance_truncated"] == pytest.approx(sum(ratio > 2 for ratio in ratios) / len(ratios))


def test_student_that_samples_itself_has_no_weights(words_module: Callable[..., DistillationModule]) -> None:
    module = ready(words_module(DistillationModule, **SHOWN))
    step(module, EXAMPLES)
    assert module.engine.exact
    assert not [name for name in module.means.read(module.device) if "importance" in name]
