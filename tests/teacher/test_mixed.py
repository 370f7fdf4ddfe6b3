"""The mixture of a reference and the student, against the logits of both models as transformers computes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_sdft.errors import PolicyError
from lightning_sdft.policy import Policy
from lightning_sdft.policy.adapter_view import AdapterView
from lightning_sdft.policy.lora import LoRA, adapted_layers, add_adapter, using_adapter
from lightning_sdft.teacher import FullTeacher, MixedTeacher, SharedTeacher, Teacher
from tests.conftest import FAMILIES, move_adapter
from tests.modules.dense import log_probabilities
from tests.teacher.conftest import SEQUENCES, Parent, jump, same, weights

SHARE = 0.3
HEAD = LoRA(rank=3, target_modules=["q_proj", "lm_head"])
HEAD_IN_FULL = LoRA(rank=3, target_modules=["q_proj"], modules_to_save=["lm_head"])
HEAD_LEFT_ALONE = LoRA(rank=3, target_modules=["q_proj"], modules_to_save=["norm"])


@torch.no_grad()
def dense(model: Any) -> Tensor:
    """Log-probabilities at the positions that predict completions, of a model in eval mode."""
    return torch.cat([log_probabilities(model, each.prompt, each.completion) for each in SEQUENCES])


def mixed(reference: Tensor, student: Tensor, share: float = SHARE) -> Tensor:
    """Log-probabilities of the mixture; a softmax does not see that logits were normalised before."""
    return ((1 - share) * reference + share * student).log_softmax(-1)


def says(teacher: Teacher) -> Tensor:
    return teacher.head(teacher.hidden(SEQUENCES)).log_softmax(-1)


def full(student: Policy) -> MixedTeacher:
    """A mixture with a reference that is no longer the student's equal."""
    teacher = MixedTeacher(FullTeacher(student), student, SHARE)
    jump(student, 0.5)
    return teacher


@pytest.mark.parametrize("family", [each for each in FAMILIES if each != "gemma2"])
def test_distribution_is_that_of_the_mixed_logits(family: str, family_folder: Callable[[str], Path]) -> None:
    student = Policy.load(str(family_folder(family)))
    teacher = full(student)
    ours = says(teacher)  # while the student is in train mode, with dropout in gpt2
    assert student.model.training
    reference, trained = dense(teacher.policy.model), dense(student.eval().model)
    assert (reference - trained).abs().max() > 0.3
    torch.testing.assert_close(ours, mixed(reference, trained), rtol=1e-4, atol=1e-4)
    assert not ours.requires_grad


def test_biases_are_mixed_and_excluded_tokens_stay_excluded(llama: Policy) -> None:
    head = llama.eval().model.lm_head
    head.bias = nn.Parameter(torch.randn(len(head.weight)))
    with torch.no_grad():
        head.bias[:2] = -torch.inf
    teacher = MixedTeacher(FullTeacher(llama), llama, SHARE)
    with torch.no_grad():
        head.bias.mul_(2)
    ours = says(teacher)
    assert ours[:, :2].exp().max() == 0
    expected = mixed(dense(teacher.policy.model)[:, 2:], dense(llama.model)[:, 2:])
    torch.testing.assert_close(ours[:, 2:], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("lora", "parts"), [(HEAD, 2), (HEAD_IN_FULL, 2), (HEAD_LEFT_ALONE, 1)])
def test_reference_is_the_model_without_its_adapter(lora: LoRA, parts: int, llama: Policy) -> None:
    add_adapter(llama.model, lora)
    move_adapter(llama.model)
    parent = Parent(llama, MixedTeacher(SharedTeacher(AdapterView(llama, None)), llama, SHARE))
    with using_adapter(adapted_layers(llama.model), None):
        reference = dense(llama.model)
    ours = says(parent.teacher)
    torch.testing.assert_close(ours, mixed(reference, dense(llama.model)), rtol=1e-4, atol=1e-4)
    assert parent.teacher.hidden(SEQUENCES).shape[1] == 32 * parts
    copied = parent.teacher.head.weight.data_ptr() != AdapterView(llama, None).head.weight.data_ptr()
    assert copied == (parts == 2)
    assert all(name.startswith("policy.") for name in parent.state_dict())


def test_student_moves_the_mixture_and_not_the_reference(llama: Policy) -> None:
    parent = Parent(llama.eval(), full(llama))
    before, reference = says(parent.teacher), weights(parent.teacher)
    jump(llama, 0.5, seed=1)
    assert same(weights(parent.teacher), reference)
    assert not torch.allclose(says(parent.teacher), before, atol=1e-2)
    torch.testing.assert_close(
        says(parent.teacher), mixed(dense(parent.teacher.policy.model), dense(llama.model)), rtol=1e-4, atol=1e-4
    )
    own = [name for name in parent.state_dict() if name.startswith("teacher")]
    assert own == [f"teacher.reference.policy.{name}" for name in llama.state_dict()]
    parent.teacher.start_from(llama)
    torch.testing.assert_close(says(parent.teacher), dense(llama.model), rtol=1e-4, atol=1e-4)


def test_reference_in_float32_goes_with_a_student_in_bfloat16(llama: Policy) -> None:
    teacher = full(llama.eval().to(torch.bfloat16))
    assert {teacher.head.weight.dtype, teacher.hidden(SEQUENCES).dtype} == {torch.float32}
    expected = mixed(dense(teacher.policy.model), dense(llama.model).float())
    torch.testing.assert_close(says(teacher), expected, rtol=0.05, atol=0.05)


def test_soft_cap_is_refused(family_folder: Callable[[str], Path]) -> None:
    student = Policy.load(str(family_folder("gemma2")))
    with pytest.raises(PolicyError, match=r"those of Gemma2ForCausalLM pass through a soft cap of 2 .* CopiedTeacher"):
        MixedTeacher(FullTeacher(student), student, SHARE)
