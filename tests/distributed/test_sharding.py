"""Weights in parts on two processes: the same results as from whole weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.distributed import init_device_mesh, init_process_group
from torch.distributed.tensor import DTensor

from lightning_sdft.distributed.processes import process_count, process_index
from lightning_sdft.distributed.sharding import check_alike, local_part, shard_, unsharded
from lightning_sdft.errors import PolicyError
from lightning_sdft.losses import cross_entropy
from lightning_sdft.policy import Policy
from lightning_sdft.policy.quantized import quantize_
from lightning_sdft.records import Sampling, TokenSequence
from lightning_sdft.rollout import generate
from lightning_sdft.teacher import FullTeacher
from tests.launch import in_processes

SHARES = [
    [TokenSequence([2, 11, 12, 3], [13, 14, 5]), TokenSequence([2, 3], [15, 6])],
    [TokenSequence([2, 16, 3], [17])],
]
"""What each process reads: more and longer on one of them."""

PROMPTS = [[[2, 11, 12, 3], [2, 3], [2, 13, 3]], [[2, 16, 3]]]


def loss(policy: Policy, sequences: list[TokenSequence]) -> Tensor:
    targets = torch.tensor([token for sequence in sequences for token in sequence.completion])
    hidden = policy.hidden(sequences)
    return cross_entropy(hidden, policy.head, targets, torch.full((len(targets),), 1 / len(targets))).loss


def gradients_of_one_process(policy: Policy) -> dict[str, Tensor]:
    """Of the mean over the shares."""
    torch.stack([loss(policy, share) for share in SHARES]).mean().backward()  # type: ignore[no-untyped-call]
    return {name: each.grad for name, each in policy.named_parameters() if each.grad is not None}


def complete(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def check_gradients(folder: str, shape: tuple[int, ...]) -> None:
    init_process_group("gloo")
    expected = gradients_of_one_process(Policy.load(folder))
    policy = Policy.load(folder)
    shard_(policy, init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard")[-len(shape) :]))
    for _ in range(2):  # the second time after all that the first one has left behind
        policy.zero_grad()
        loss(policy, SHARES[process_index()]).backward()  # type: ignore[no-untyped-call]
    found = dict(policy.named_parameters())
    assert found.keys() == expected.keys()
    for name, parameter in found.items():
        assert isinstance(parameter, DTensor), f"{name} is whole"
        assert parameter.grad is not None, name
        torch.testing.assert_close(complete(parameter.grad), expected[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("shape", [(2,), (1, 2), (2, 1)], ids=["sharded", "hybrid", "replicated"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2"])  # of which the last two tie head and embedding
def test_gradients_are_those_of_one_process(
    family: str, shape: tuple[int, ...], family_folder: Callable[[str], Path]
) -> None:
    in_processes(2, check_gradients, str(family_folder(family)), shape)


def check_generation(folder: str) -> None:
    init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    sampling, prompts = Sampling(temperature=1.0), PROMPTS[process_index()]
    expected = generate(Policy.load(folder), prompts, 6, sampling, seeds=range(len(prompts)))
    policy = Policy.load(folder)
    shard_(policy, mesh)
    rollouts = generate(policy, prompts, 6, sampling, seeds=range(len(prompts)))
    assert [rollout.completion for rollout in rollouts] == [rollout.completion for rollout in expected]
    # In an evaluation each process has a share of its own, and none of them waits for another
    with unsharded(policy):
        for _ in range(1 + 2 * process_index()):
            generate(policy, prompts, 6, sampling, seeds=range(len(prompts)))
            policy.hidden(SHARES[process_index()])
    with torch.no_grad():  # as a teacher reads, which no backward pass cuts again
        policy.hidden(SHARES[process_index()])
    assert all(isinstance(parameter, DTensor) for parameter in policy.parameters())
    loss(policy, SHARES[process_index()]).backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_generation_of_unequal_shares(family: str, family_folder: Callable[[str], Path]) -> None:
    in_processes(2, check_generation, str(family_folder(family)))


def check_teacher(folder: str) -> None:
    init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    generator = torch.Generator().manual_seed(0)
    student = Policy.load(folder)
    teacher = FullTeacher(student)
    sharded_student = Policy.load(folder)
    sharded_teacher = FullTeacher(sharded_student)
    shard_(sharded_student, mesh)
    sharded_teacher.shard_(mesh)
    check_alike(sharded_teacher.policy, sharded_student)
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
            part = sharded_student.get_parameter(name)
            assert isinstance(part, DTensor)
            local_part(part).copy_(parameter.chunk(process_count())[process_index()])
    for _ in range(100):
        teacher.update_(student, 0.01)
        sharded_teacher.update_(sharded_student, 0.01)
    for name, parameter in teacher.named_parameters():
        part = sharded_teacher.get_parameter(name)
        assert local_part(part).numel() < parameter.numel(), f"{name} is whole"
        torch.testing.assert_close(complete(part), parameter, rtol=0, atol=1e-6)
    expected = teacher.hidden(SHARES[process_index()])
    torch.testing.assert_close(sharded_teacher.hidden(SHARES[process_index()]), expected, rtol=0, atol=1e-5)
    assert sharded_teacher.drift(sharded_student) == pytest.approx(teacher.drift(student), rel=1e-5)
    sharded_teacher.start_from(sharded_student)
    assert sharded_teacher.drift(sharded_student) == 0


def test_average_of_parts_is_the_average(family_folder: Callable[[str], Path]) -> None:
    in_processes(2, check_teacher, str(family_folder("qwen2")))


def check_layout(folder: str) -> None:
    init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    student, teacher = Policy.load(folder), Policy.load(folder)
    shard_(student, mesh)
    with pytest.raises(PolicyError, match=r"embed_tokens.weight of the teacher is laid out as"):
        check_alike(teacher, student)


def test_weights_that_are_not_cut_alike_are_refused(family_folder: Callable[[str], Path]) -> None:
    in_processes(2, check_layout, str(family_folder("llama")))


def test_model_without_known_blocks_is_refused(llama: Policy) -> None:
    llama.model._no_split_modules = None
    with pytest.raises(PolicyError, match=r"use strategy=ddp"):
        shard_(llama, SimpleNamespace())  # type: ignore[arg-type]


def test_weights_of_few_bits_are_refused(llama: Policy) -> None:
    quantize_(llama.model, "int8")
    with pytest.raises(PolicyError, match=r"in few bits \(lora.base=int8\) is not sharded .*; use strategy=ddp"):
        shard_(llama, SimpleNamespace())  # type: ignore[arg-type]


def test_whole_leaves_an_unsharded_policy_alone(llama: Policy) -> None:
    before = list(llama.parameters())
    with unsharded(llama):
        assert all(now is then for now, then in zip(llama.parameters(), before, strict=True))
