"""What the modules must agree with: each sequence alone, without padding, through the whole model, with autograd."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_sdft.data.groups import Group, MicroBatch
from lightning_sdft.modules import CausalLMModule, DistillationModule
from lightning_sdft.policy import Policy
from lightning_sdft.records import Example
from tests.conftest import VOCABULARY
from tests.modules.conftest import EXAMPLES, STUDENT_PROMPTS


def token_ids(text: str) -> list[int]:
    """Token ids of words; what is not in the vocabulary becomes the padding token."""
    return [VOCABULARY.index(word) if word in VOCABULARY else 0 for word in text.split()]


def log_probabilities(model: Any, prompt: list[int], completion: list[int], temperature: float = 1.0) -> Tensor:
    """Of the next token at the positions that predict the completion, `(N, V)`."""
    tokens = torch.tensor([prompt + completion])
    logits = model(input_ids=tokens, use_cache=False).logits[0, len(prompt) - 1 : -1]
    return (logits / temperature).log_softmax(-1)


def check(policy: Policy, loss: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Compare a loss and its gradient in every weight of the policy with the expected ones."""
    torch.testing.assert_close(loss, expected, rtol=tolerance, atol=tolerance)
    parameters = list(policy.parameters())
    ours, theirs = (torch.autograd.grad(each, parameters) for each in (loss, expected))
    scale = max(float(gradient.abs().max()) for gradient in theirs)
    assert scale > 1e-3
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=10 * tolerance, atol=10 * tolerance * scale)


def mean(values: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()


def forward_kl(student: Tensor, teacher: Tensor) -> Tensor:
    return (teacher.exp() * (teacher - student)).sum(-1)


def reverse_kl(student: Tensor, teacher: Tensor) -> Tensor:
    return (student.exp() * (student - teacher)).sum(-1)


def jensen_shannon(student: Tensor, teacher: Tensor) -> Tensor:
    mixture = (0.7 * student.exp() + 0.3 * teacher.exp()).log()
    return 0.3 * forward_kl(mixture, teacher) + 0.7 * reverse_kl(student, mixture)


def step(module: CausalLMModule, examples: Sequence[Example], size: int | None = None) -> tuple[Tensor, Group]:
    """The loss of an optimizer step in micro-batches of a size, and its group."""
    batches = MicroBatch.cut(examples, size or len(examples))
    return mean(module.training_step(batch, 0) for batch in batches), batches[0].group


def token_divergences(
    module: DistillationModule, group: Group, divergence: Any, teacher_prompts: list[str]
) -> list[Tensor]:
    """Of each completion token of the sampled rollouts, a tensor per sequence."""
    parts = []
    temperature = module.hparams["loss_temperature"] or module.sampling.temperature or 1.0
    own = module.hparams["teacher_temperature"] or temperature
    prompts = {each.id: texts for each, *texts in zip(EXAMPLES, STUDENT_PROMPTS, teacher_prompts, strict=True)}
    for item in group.items:
        completion = item.student.completion
        prompt, teacher_prompt = map(token_ids, prompts[item.example.id])
        student = log_probabilities(module.policy.model, prompt, completion, temperature)
        with torch.no_grad():
            teacher = log_probabilities(module.teacher.policy.model, teacher_prompt, completion, own)
        parts.append(divergence(student, teacher))
    return parts


def weigh(parts: list[Tensor], skip: int, reduction: str) -> Tensor:
    """Mean over the tokens behind the first ``skip``: of all sequences, or of each and then over sequences."""
    if reduction == "token":
        return torch.cat([part[skip:] for part in parts]).mean()
    return mean(part[skip:].mean() if len(part) > skip else 0 * part.sum() for part in parts)
