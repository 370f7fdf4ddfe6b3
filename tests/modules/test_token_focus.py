from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_sdft.losses import TokenFocus
from lightning_sdft.modules import DistillationModule
from lightning_sdft.records import Sampling
from tests.modules.conftest import EXAMPLES, SHOWN, STUDENT_PROMPTS, TEACHER_PROMPTS, ready
from tests.modules.dense import check, forward_kl, log_probabilities, step, token_divergences, token_ids, weigh

SKIP = 1


def gains(module: DistillationModule, group: Any) -> list[Tensor]:
    """By how much likelier each sampled token is to the teacher that is shown the demonstration."""
    prompts = {each.id: texts for each, *texts in zip(EXAMPLES, STUDENT_PROMPTS, TEACHER_PROMPTS, strict=True)}
    found = []
    for item in group.items:
        completion = item.student.completion
        bare, shown = (
            log_probabilities(module.teacher.policy.model, token_ids(text), completion)
            for text in prompts[item.example.id]
        )
        found.append((shown - bare).gather(1, torch.tensor(completion)[:, None])[:, 0])
    return found


@pytest.mark.parametrize("by", ["divergence", "gain"])
@pytest.mark.parametrize("size", [None, 2])
def test_tokens_count_by_their_scores(
    by: Any, size: int | None, words_module: Callable[..., DistillationModule]
) -> None:
    arguments = {**SHOWN, "sampling": Sampling(), "skip_tokens": SKIP}
    module = ready(words_module(DistillationModule, **arguments, focus=TokenFocus(0.5, by)))
    torch.manual_seed(0)
    loss, group = step(module, EXAMPLES, size)
    values = token_divergences(module, group, forward_kl, TEACHER_PROMPTS)
    with torch.no_grad():
        scores = [each.clone() for each in values] if by == "divergence" else gains(module, group)
    focused = []
    for value, score in zip(values, scores, strict=True):
        counted = score[SKIP:].clamp(min=0).sqrt()
        factors = counted / counted.mean() if counted.sum() > 0 else torch.ones_like(counted)
        focused.append(torch.cat([value[:SKIP], value[SKIP:] * factors.detach()]))
    assert any((value - other).abs().max() > 1e-3 for value, other in zip(values, focused, strict=True))
    check(module.policy, loss, weigh(focused, SKIP, "sequence"), tolerance=1e-4)
