from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lightning_sdft.policy import Policy
from lightning_sdft.records import TokenSequence
from lightning_sdft.teacher import FORMS, FullTeacher, Teacher
from tests.modules.conftest import make_trainer, words_data, words_module

__all__ = ["make_trainer", "words_data", "words_module"]

SEQUENCES = [TokenSequence([2, 11, 12, 3], [13, 14, 4]), TokenSequence([2, 3], [15, 4])]


class Parent(nn.Module):
    """What a LightningModule is to a student and its teacher."""

    def __init__(self, policy: Policy, teacher: Teacher) -> None:
        super().__init__()
        self.policy = policy
        self.teacher = teacher


@pytest.fixture
def gpt2(family_folder: Callable[[str], Path]) -> Policy:
    """A policy with dropout and a tied head, in train mode."""
    return Policy.load(str(family_folder("gpt2")))


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> type[FullTeacher]:
    """Each form of copied teacher in turn."""
    return FORMS[request.param]


def weights(module: nn.Module) -> list[Tensor]:
    """Copies of the weights in float64, a teacher's as exact as it has them."""
    parameters = module.weights() if isinstance(module, FullTeacher) else module.parameters()
    return [parameter.detach().cpu().double().clone() for parameter in parameters]


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def jump(policy: Policy, share: float, seed: int = 0) -> None:
    """What an optimizer step does: move every weight by about a share of its size."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            step = share * torch.randn(parameter.shape, generator=generator) * parameter.float().abs().mean().item()
            parameter.add_(step.to(parameter))
