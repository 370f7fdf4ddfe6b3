from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_sdft.losses import ForwardKL, Head, JensenShannon, ReverseKL, cross_entropy, distillation_loss, fused
from lightning_sdft.memory import logits as logits_module
from lightning_sdft.memory.logits import logits_memory
from tests.memory.conftest import allocated

N, D, V = 200, 64, 1000


@pytest.fixture(params=[(64 * V, 2 * V), (10**9, 40 * V), (16 * V, 16 * V)], ids=["chunks", "whole", "one strip"])
def sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks and strips that suit a small head."""
    for module in (fused, logits_module):
        monkeypatch.setattr(module, "CHUNK_ELEMENTS", dict.fromkeys(("cpu", "accelerator"), request.param[0]))
        monkeypatch.setattr(module, "STRIP_ELEMENTS", dict.fromkeys(("cpu", "accelerator"), request.param[1]))


def taken(student: torch.dtype, teacher: torch.dtype | None, divergence: Any, autocast: bool, shared: bool) -> int:
    """What the allocator gives for the loss, without what stays."""
    head = Head(torch.nn.Parameter(torch.randn(V, D, dtype=student)))
    hidden = torch.randn(N, D, dtype=student, requires_grad=True)
    weights, targets = torch.ones(N), torch.zeros(N, dtype=torch.long)
    with allocated() as usage, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        if teacher is None:
            result = cross_entropy(hidden, head, targets, weights)
        else:
            other = head if shared else Head(torch.randn(V, D, dtype=teacher))
            result = distillation_loss(hidden, head, torch.randn(N, D, dtype=teacher), other, weights, divergence)
    assert result.loss.isfinite()
    made = 0 if teacher is None else N * D * teacher.itemsize + (0 if shared else V * D * teacher.itemsize)
    stays = N * D * student.itemsize + V * D * 4
    return usage.peak - stays - made


@pytest.mark.usefixtures("sizes")
@pytest.mark.parametrize("autocast", [False, True], ids=["", "autocast"])
@pytest.mark.parametrize("student", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("teacher", "divergence", "shared"),
    [
        (None, None, False),
        (torch.float32, ForwardKL(), False),
        (torch.float32, ReverseKL(), False),
        (torch.float32, JensenShannon(), False),
        (torch.bfloat16, ForwardKL(), False),
        (None, ForwardKL(), True),
    ],
)
def test_loss_takes_what_the_allocator_gives(
    student: torch.dtype, teacher: torch.dtype | None, divergence: Any, shared: bool, autocast: bool
) -> None:
    teacher = student if shared else teacher
    real = taken(student, teacher, divergence, autocast, shared)
    heads = [student] if teacher is None or shared else [student, teacher]
    models = 1 if teacher is None else 2
    estimated = logits_memory(N, D, V, heads, models, torch.bfloat16 if autocast else None)
    assert 0.85 < estimated / real < 1.15


def test_an_accelerator_has_larger_chunks_and_narrow_factors() -> None:
    on_cpu, elsewhere = (
        logits_memory(8192, 3584, 152064, [torch.float32] * 2, 2, None, each) for each in (False, True)
    )
    # 160 and 432 tokens of two models in float32; strips of one token with 6 copies, and of 55.
    assert on_cpu == 2 * 160 * 152064 * 4 + 2 * 160 * 3584 * 4 + 6 * 152064 * 4
    assert elsewhere == 2 * 432 * 152064 * 4 + 2 * 432 * 3584 * 4 + 6 * 55 * 152064 * 4
    narrow = logits_memory(8192, 3584, 152064, [torch.bfloat16, torch.float32], 2, None, True)
    assert narrow == elsewhere
    autocast = logits_memory(8192, 3584, 152064, [torch.float32] * 2, 2, torch.bfloat16, True)
    assert autocast == elsewhere + 2 * 152064 * 3584 * 2
