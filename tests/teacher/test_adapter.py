from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lightning_sdft.policy import Policy
from lightning_sdft.policy.adapter_view import AdapterView
from lightning_sdft.policy.lora import STUDENT, TEACHER, adapted_layers, adapter_weights, add_adapter
from lightning_sdft.records import GREEDY, Sampling
from lightning_sdft.rollout import generate
from lightning_sdft.teacher import AdapterTeacher, FullTeacher, SharedTeacher, Teacher
from tests.conftest import make_model, move_adapter
from tests.policy.test_lora import TARGETS, settings
from tests.policy.test_policy import SEQUENCES, own_logits

RATE = 0.01
LORA = settings("all-linear", dropout=0.3)


@pytest.fixture
def student(llama: Policy) -> Policy:
    """A policy in train mode, with an adapter that matters."""
    add_adapter(llama.model, LORA)
    move_adapter(llama.model)
    return llama


@pytest.fixture
def teacher(student: Policy) -> AdapterTeacher:
    """A teacher whose adapter is another one by now."""
    teacher = AdapterTeacher(student, LORA)
    move_adapter(student.model, TEACHER, seed=1)
    return teacher


def factors(policy: Policy, name: str) -> list[Tensor]:
    return [weight.detach().double().clone() for weight in adapter_weights(policy.model, name).values()]


def products(policy: Policy, name: str) -> Tensor:
    """All products B A of an adapter, in a row."""
    weights = adapter_weights(policy.model, name)
    pairs = [
        (weights[each.replace("lora_A", "lora_B")], weight) for each, weight in weights.items() if "lora_A" in each
    ]
    return torch.cat([(up.detach().double() @ down.detach().double()).flatten() for up, down in pairs])


def merged(policy: Policy, name: str, folder: Path) -> Policy:
    """The model of the folder with an adapter added to its weights, without PEFT."""
    plain = Policy.load(str(folder)).eval()
    weights = adapter_weights(policy.model, name)
    with torch.no_grad():
        for each, down in weights.items():
            if "lora_A" in each:
                target = plain.model.get_parameter(each.split(".lora_A")[0] + ".weight")
                target.add_(LORA.alpha / LORA.rank * weights[each.replace("lora_A", "lora_B")] @ down)
    return plain


# The average


def test_starts_from_the_students_adapter_and_not_from_zero(student: Policy) -> None:
    AdapterTeacher(student, LORA)
    ours, theirs = factors(student, TEACHER), factors(student, STUDENT)
    assert len(ours) == 28
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    assert products(student, TEACHER).norm() > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", TARGETS)
def test_average_of_a_moving_student(kind: str, dtype: torch.dtype, llama: Policy) -> None:
    add_adapter(llama.model, settings(kind))
    llama.to(dtype)
    teacher = AdapterTeacher(llama, settings(kind))
    expected = start = factors(llama, TEACHER)
    for step in range(20):
        move_adapter(llama.model, seed=step, size=0.01)
        teacher.update_(llama, RATE)
        pairs = zip(factors(llama, STUDENT), expected, strict=True)
        expected = [RATE * theirs + (1 - RATE) * ours for theirs, ours in pairs]
    for weight, average, first in zip(adapter_weights(llama.model, TEACHER).values(), expected, start, strict=True):
        assert weight.dtype == torch.float32
        torch.testing.assert_close(weight.double(), average, rtol=1e-6, atol=1e-6)
        assert (average - first).abs().max() > 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hundred_updates_close_their_share_of_the_gap(dtype: torch.dtype, student: Policy) -> None:
    student.to(dtype)
    teacher = AdapterTeacher(student, LORA)
    start = torch.cat([each.flatten() for each in factors(student, TEACHER)])
    move_adapter(student.model, size=1e-3)
    for _ in range(100):
        teacher.update_(student, RATE)
    now, there = (torch.cat([each.flatten() for each in factors(student, name)]) for name in (TEACHER, STUDENT))
    assert float((now - start).norm() / (there - start).norm()) == pytest.approx(1 - 0.99**100, abs=0.005)


def test_average_of_factors_is_that_of_products_where_one_factor_stands_still(student: Policy) -> None:
    teacher = AdapterTeacher(student, LORA)
    expected = products(student, TEACHER)
    for step in range(20):
        with torch.no_grad():
            for name, weight in adapter_weights(student.model, STUDENT).items():
                if "lora_B" in name:
                    weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(step)))
        teacher.update_(student, 0.1)
        expected = 0.1 * products(student, STUDENT) + 0.9 * expected
    torch.testing.assert_close(products(student, TEACHER), expected, rtol=1e-5, atol=1e-6)


def test_average_of_factors_differs_from_that_of_products_by_their_covariance(student: Policy) -> None:
    teacher = AdapterTeacher(student, LORA)
    weights, downs, ups = [1.0], [factors(student, STUDENT)[0]], [factors(student, STUDENT)[1]]
    for step in range(5):
        move_adapter(student.model, seed=step)
        teacher.update_(student, 0.2)
        weights = [0.8 * each for each in weights] + [0.2]
        down, up = factors(student, STUDENT)[:2]
        downs.append(down)
        ups.append(up)
    mean_down, mean_up = (sum(w * each for w, each in zip(weights, all_, strict=True)) for all_ in (downs, ups))
    covariance = sum(w * (up - mean_up) @ (down - mean_down) for w, up, down in zip(weights, ups, downs, strict=True))
    average = sum(w * up @ down for w, up, down in zip(weights, ups, downs, strict=True))
    down, up = factors(student, TEACHER)[:2]
    torch.testing.assert_close(average - up @ down, covariance, rtol=1e-4, atol=1e-6)
    assert isinstance(covariance, Tensor)
    assert covariance.norm() > 1e-2


def test_update_and_start_leave_the_student_alone(student: Policy, teacher: AdapterTeacher) -> None:
    before = factors(student, STUDENT)
    teacher.update_(student, 0.5)
    teacher.start_from(student)
    assert all(torch.equal(one, other) for one, other in zip(factors(student, STUDENT), before, strict=True))
    assert all(weight.requires_grad for weight in adapter_weights(student.model, STUDENT).values())


def test_drift_is_the_relative_distance_of_the_factors(student: Policy, teacher: AdapterTeacher) -> None:
    ours, theirs = (torch.cat([each.flatten() for each in factors(student, name)]) for name in (TEACHER, STUDENT))
    assert teacher.drift(student) == pytest.approx(((ours - theirs).norm() / theirs.norm()).item(), rel=1e-5)
    assert teacher.drift(student) > 0.1
    teacher.start_from(student)
    assert teacher.drift(student) == 0


# What it computes


@pytest.mark.parametrize("kind", TARGETS)
def test_teachers_compute_with_their_own_weights(kind: str, family: str, policy: Policy) -> None:
    lora = settings(kind, family)
    untouched = own_logits(policy.eval())
    add_adapter(policy.model, lora)
    move_adapter(policy.model)
    teacher, base = AdapterTeacher(policy, lora), SharedTeacher(AdapterView(policy, None))
    move_adapter(policy.model, TEACHER, seed=1)
    own = own_logits(policy)
    logits, base_logits = (each.head(each.hidden(SEQUENCES)) for each in (teacher, base))
    assert torch.equal(own_logits(policy), own)
    assert not any(each.requires_grad for each in (logits, base_logits))
    torch.testing.assert_close(base_logits, untouched, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        pairs = zip(*(adapter_weights(policy.model, name).values() for name in (STUDENT, TEACHER)), strict=True)
        for theirs, ours in pairs:
            theirs.copy_(ours)
    torch.testing.assert_close(logits, own_logits(policy), rtol=1e-4, atol=1e-4)
    assert min((logits - other).abs().max() for other in (own, untouched)) > 0.3


def test_rollouts_of_a_teacher_are_those_of_a_model_with_its_weights(
    student: Policy, teacher: AdapterTeacher, family_folder: Callable[[str], Path]
) -> None:
    prompts = [sequence.prompt for sequence in SEQUENCES]
    base = SharedTeacher(AdapterView(student, None))
    plain = [merged(student, TEACHER, family_folder("llama")), Policy.load(str(family_folder("llama")))]
    texts = []
    for policy, expected in zip((teacher.policy, base.policy), plain, strict=True):
        for sampling in (GREEDY, Sampling()):
            ours, theirs = (generate(each, prompts, 12, sampling, [1, 2, 3, 4]) for each in (policy, expected))
            assert [each.completion for each in ours] == [each.completion for each in theirs]
            texts.append([each.completion for each in ours])
    assert texts[0] != texts[2]
    assert all(part.training for part in student.modules())
    own = generate(student, prompts, 12, GREEDY)
    again = generate(merged(student, STUDENT, family_folder("llama")), prompts, 12, GREEDY)
    assert [each.completion for each in own] == [each.completion for each in again]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradient_of_the_student_is_the_same_with_a_teacher_in_between(checkpointing: bool, student: Policy) -> None:
    def gradients(*teachers: Teacher) -> list[Tensor]:
        torch.manual_seed(0)  # of the dropout
        hidden = student.hidden(SEQUENCES)
        for teacher in teachers:
            teacher.hidden(SEQUENCES)
        head = student.head
        for teacher in teachers:
            generate(teacher.policy, [SEQUENCES[0].prompt], 4, GREEDY)
        student.zero_grad()
        head(hidden).square().mean().backward()
        return [weight.grad.clone() for weight in student.parameters() if weight.grad is not None]

    expected = gradients()
    if checkpointing:
        student.enable_gradient_checkpointing()
    ours = gradients(AdapterTeacher(student, LORA), SharedTeacher(AdapterView(student, None)))
    move_adapter(student.model, TEACHER, seed=1)
    assert len(ours) == 28
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_what_fails_in_the_teacher_leaves_the_students_adapter_in_use(
    student: Policy, teacher: AdapterTeacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = [weight.requires_grad for weight in student.parameters()]
    with monkeypatch.context() as context:
        context.setattr(student.model.base_model, "forward", None)
        for run in (teacher.hidden, lambda _: generate(teacher.policy, [[1]], 2, GREEDY)):
            with pytest.raises(TypeError, match="callable"):
                run(SEQUENCES)
    assert {(*layer.active_adapters, layer.disable_adapters) for layer in adapted_layers(student.model)} == {
        (STUDENT, False)
    }
    assert all(part.training for part in student.modules())
    assert [weight.requires_grad for weight in student.parameters()] == trained


def test_dropout_is_off_in_the_teacher_and_on_in_the_student(student: Policy, teacher: AdapterTeacher) -> None:
    assert torch.equal(teacher.hidden(SEQUENCES), teacher.hidden(SEQUENCES))
    assert not torch.equal(student.hidden(SEQUENCES), student.hidden(SEQUENCES))


# What it is in a module


class Parent(nn.Module):
    """What a LightningModule is to a student and its teacher."""

    def __init__(self, policy: Policy, teacher: Teacher) -> None:
        super().__init__()
        self.policy = policy
        self.teacher = teacher


def test_weights_are_in_the_parent_once_and_frozen(student: Policy, teacher: AdapterTeacher) -> None:
    parent = Parent(student, teacher).train()
    names = [name for name, _ in parent.named_parameters(remove_duplicate=False)]
    assert len(names) == len(set(names)) == len({id(weight) for weight in parent.parameters()})
    assert all(name.startswith("policy.model.") for name in parent.state_dict())
    assert len([name for name in parent.state_dict() if f".{TEACHER}." in name]) == 28
    trained = {name for name, weight in parent.named_parameters() if weight.requires_grad}
    assert trained == {f"policy.model.{name}" for name in adapter_weights(student.model, STUDENT)}
    parent.teacher.requires_grad_(False).eval()
    assert all(weight.requires_grad for weight in adapter_weights(student.model, STUDENT).values())
    assert all(part.training for part in student.modules())


def test_memory_is_that_of_the_model_and_two_adapters(student: Policy, teacher: AdapterTeacher) -> None:
    own = sum(weight.numel() for weight in make_model("llama").parameters())
    adapter = sum(weight.numel() for weight in adapter_weights(student.model, STUDENT).values())
    assert sum(weight.numel() for weight in Parent(student, teacher).parameters()) == own + 2 * adapter


def test_who_can_follow(student: Policy, teacher: AdapterTeacher, family_folder: Callable[[str], Path]) -> None:
    full, other = (Policy.load(str(family_folder(family))) for family in ("llama", "gpt2"))
    assert teacher.can_follow(student)
    assert FullTeacher(full).can_follow(full)
    assert not FullTeacher(other).can_follow(full)  # another architecture
    assert not FullTeacher(full).can_follow(student)  # a whole copy behind an adapter
    assert not any(
        each.can_follow(student) for each in (SharedTeacher(AdapterView(student, None)), SharedTeacher(student))
    )
