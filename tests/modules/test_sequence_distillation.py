from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lightning_sdft.modules import SequenceDistillationModule
from tests.modules.conftest import EXAMPLES, SHOWN, STUDENT_PROMPTS, TEACHER_PROMPTS, ready
from tests.modules.dense import check, log_probabilities, step, token_ids, weigh


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("reduction", ["token", "sequence"])
def test_loss_and_gradient_are_the_likelihood_of_what_the_teacher_wrote(
    reduction: str, words_module: Callable[..., SequenceDistillationModule]
) -> None:
    module = ready(words_module(SequenceDistillationModule, **SHOWN, reduction=reduction, skip_tokens=1))
    loss, group = step(module, EXAMPLES)
    parts = []
    for item, rollout in zip(group.items, group.rollouts, strict=True):
        prompt = token_ids(STUDENT_PROMPTS[EXAMPLES.index(item.example)])
        scores = log_probabilities(module.policy.model, prompt, rollout.completion)
        parts.append(-scores[range(len(rollout.completion)), torch.tensor(rollout.completion)])
    check(module.policy, loss, weigh(parts, 1, reduction), 1e-6)


def test_the_teacher_writes_and_sees_the_demonstration(words_module: Callable[..., Any]) -> None:
    module = ready(words_module(SequenceDistillationModule, **SHOWN))
    _, group = step(module, EXAMPLES)
    assert sorted(rollout.prompt for rollout in group.rollouts) == sorted(map(token_ids, TEACHER_PROMPTS))
    parameters = list(module.teacher.parameters())
    for rollout in group.rollouts:
        scores = log_probabilities(module.teacher.policy.model, rollout.prompt, rollout.completion)
        expected = scores[range(len(rollout.completion)), torch.tensor(rollout.completion)]
        torch.testing.assert_close(torch.tensor(rollout.log_probabilities), expected.detach(), rtol=1e-4, atol=1e-4)
    assert not any(parameter.requires_grad for parameter in parameters)


def test_where_rollouts_come_from_is_not_a_choice(words_module: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="rollout_source"):
        words_module(SequenceDistillationModule, **SHOWN, rollout_source="student")
