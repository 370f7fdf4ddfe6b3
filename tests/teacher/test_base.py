from __future__ import annotations

import torch

from lightning_sdft.policy import Policy
from lightning_sdft.teacher import SharedTeacher
from tests.teacher.conftest import SEQUENCES, Parent, jump, same, weights


def test_live_teacher_owns_nothing(gpt2: Policy) -> None:
    parent = Parent(gpt2, SharedTeacher(gpt2))
    assert list(parent.teacher.parameters()) == []
    assert parent.teacher.state_dict() == {}
    names = [name for name, _ in parent.named_parameters()]
    assert len(names) == len(list(gpt2.parameters()))
    assert all(name.startswith("policy.") for name in names)
    assert all(name.startswith("policy.") for name in parent.state_dict())


def test_live_teacher_is_the_student_without_dropout_or_gradient(gpt2: Policy) -> None:
    parent = Parent(gpt2, SharedTeacher(gpt2))
    parent.train()
    hidden = parent.teacher.hidden(SEQUENCES)
    assert not hidden.requires_grad
    assert torch.equal(hidden, parent.teacher.hidden(SEQUENCES))  # dropout is off in the teacher
    assert all(part.training for part in gpt2.modules())
    assert not torch.equal(gpt2.hidden(SEQUENCES), gpt2.hidden(SEQUENCES))  # and on in the student
    assert all(parameter.requires_grad for parameter in gpt2.parameters())
    assert gpt2.hidden(SEQUENCES).requires_grad
    assert parent.teacher.head.weight is gpt2.head.weight


def test_live_teacher_in_eval_mode_leaves_the_student_training(gpt2: Policy) -> None:
    teacher = SharedTeacher(gpt2)
    teacher.eval().requires_grad_(False)
    assert all(part.training for part in gpt2.modules())
    assert all(parameter.requires_grad for parameter in gpt2.parameters())


def test_live_teacher_follows_by_itself(gpt2: Policy) -> None:
    teacher = SharedTeacher(gpt2)
    before = teacher.hidden(SEQUENCES)
    jump(gpt2, 0.5)
    assert not torch.equal(teacher.hidden(SEQUENCES), before)
    now = weights(gpt2)
    teacher.update_(gpt2, 0.5)
    teacher.start_from(gpt2)
    assert teacher.drift(gpt2) == 0
    assert same(weights(gpt2), now)
