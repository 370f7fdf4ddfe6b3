from __future__ import annotations

import weakref
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed import destroy_process_group, init_process_group
from torch.nn.parallel import DistributedDataParallel

from lightning_sdft.errors import PolicyError
from lightning_sdft.policy import Policy
from lightning_sdft.teacher import CopiedTeacher, FullTeacher, OffloadedTeacher
from tests.conftest import needs_gpu
from tests.teacher.conftest import SEQUENCES, Parent, jump, same, weights


@pytest.mark.parametrize("autocast", [False, True])
def test_reads_as_a_float32_copy_does(autocast: bool, policy: Policy) -> None:
    copied, offloaded = FullTeacher(policy), OffloadedTeacher(policy)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
            hidden, expected = offloaded.hidden(SEQUENCES), copied.hidden(SEQUENCES)
            assert torch.equal(hidden, expected)
            assert torch.equal(offloaded.head(hidden), copied.head(expected))
        jump(policy, 0.5)
        for teacher in (copied, offloaded):
            teacher.update_(policy, 0.5)


# The meta device stands in for a GPU: it is not the CPU, and torch refuses to compute with tensors of both.


class Visits:
    """Bytes of weights on a device before and after each layer reads, and on which devices it finds its inputs."""

    def __init__(self, teacher: OffloadedTeacher, device: str) -> None:
        self.teacher, self.device = teacher, device
        self.bytes: list[int] = []
        self.inputs: set[str] = set()
        for part in teacher.policy.modules():
            part.register_forward_pre_hook(self.count)
            part.register_forward_hook(self.count)

    def count(self, part: nn.Module, args: Any, *_: Any) -> None:
        self.inputs |= {each.device.type for each in args if isinstance(each, Tensor)}
        visitors = [each for each in self.teacher.parameters() if each.device.type == self.device]
        self.bytes.append(sum(each.nbytes for each in visitors))


def read(teacher: OffloadedTeacher) -> Tensor:
    model = teacher.policy.model
    model.config.pad_token_id = None  # GPT-2 would look for padding, which has no values there
    with torch.no_grad():
        return model.base_model(input_ids=torch.tensor([[1, 2, 3]])).last_hidden_state


def test_weights_visit_the_device_a_block_at_a_time(policy: Policy) -> None:
    teacher = OffloadedTeacher(policy)
    homes = [(id(parameter), parameter.data_ptr()) for parameter in teacher.parameters()]
    Parent(policy, teacher).to("meta")
    visits = Visits(teacher, "meta")
    assert read(teacher).device.type == "meta"
    block = next(part for part in teacher.policy.modules() if type(part).__name__.endswith(("DecoderLayer", "Block")))
    embedding = teacher.policy.model.get_input_embeddings()
    assert max(visits.bytes) == max(sum(each.nbytes for each in part.parameters()) for part in (block, embedding))
    assert visits.bytes[-1] == 0
    assert visits.inputs == {"meta"}
    assert [(id(parameter), parameter.data_ptr()) for parameter in teacher.parameters()] == homes
    assert len({id(parameter) for parameter in teacher.parameters()}) == len(homes)


def test_head_is_on_the_device_while_it_is_held(policy: Policy) -> None:
    teacher = OffloadedTeacher(policy)
    assert teacher.head.weight.data_ptr() != teacher.policy.head.weight.data_ptr()
    head = teacher.head
    held = weakref.ref(head.weight)
    del head
    assert held() is None
    teacher.to("meta")
    assert teacher.head.weight.device.type == "meta"
    assert teacher.policy.head.weight.device.type == "cpu"


def test_bias_of_the_head_comes_along(llama: Policy) -> None:
    llama.model.lm_head.bias = nn.Parameter(torch.rand(64))
    teacher = OffloadedTeacher(llama)
    hidden = teacher.hidden(SEQUENCES)
    assert torch.equal(teacher.head(hidden), llama.head(hidden))
    teacher.to("meta")
    assert teacher.head.bias is not None
    assert teacher.head.bias.device.type == "meta"


def test_casts_do_not_change_the_device(llama: Policy) -> None:
    teacher = OffloadedTeacher(llama).to("meta").to(torch.bfloat16).half()
    assert teacher.device.type == "meta"
    assert {parameter.dtype for parameter in teacher.parameters()} == {torch.float32}


def test_weights_go_home_from_a_pass_that_fails(llama: Policy) -> None:
    teacher = OffloadedTeacher(llama)
    homes = [id(parameter) for parameter in teacher.parameters()]

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    for part in (teacher.policy.model.model.layers[1].mlp, teacher.policy.model.get_input_embeddings()):
        with part.register_forward_pre_hook(fail), pytest.raises(RuntimeError, match="out of memory"):
            teacher.hidden(SEQUENCES)
        assert [id(parameter) for parameter in teacher.parameters()] == homes
    assert torch.equal(teacher.hidden(SEQUENCES), FullTeacher(llama).hidden(SEQUENCES))


def test_blocks_inside_of_blocks_go_with_them(llama: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    llama.model._no_split_modules = ["LlamaDecoderLayer", "LlamaMLP"]
    visitors: list[int] = []
    send = OffloadedTeacher._on_device
    monkeypatch.setattr(
        OffloadedTeacher, "_on_device", lambda self, tensor: visitors.append(id(tensor)) or send(self, tensor)
    )
    teacher = OffloadedTeacher(llama)
    homes = [id(parameter) for parameter in teacher.parameters()]
    assert torch.equal(teacher.hidden(SEQUENCES), FullTeacher(llama).hidden(SEQUENCES))
    assert [id(parameter) for parameter in teacher.parameters()] == homes
    assert visitors == homes[:-1]  # each once; the head has not been asked for


def test_model_without_known_blocks_is_refused(llama: Policy) -> None:
    llama.model._no_split_modules = None
    with pytest.raises(
        PolicyError, match=r"Llama.* does not say what its blocks are .* CopiedTeacher\(memory=float32\)"
    ):
        OffloadedTeacher(llama)


def test_ddp_takes_a_student_whose_teacher_is_elsewhere(words_module: Any, tmp_path: Any) -> None:
    module = words_module(teacher=CopiedTeacher("offload"))
    module.configure_model()
    for owner in module.teacher.modules():  # elsewhere than the student
        for name, parameter in owner.named_parameters(recurse=False):
            setattr(owner, name, nn.Parameter(parameter.to("meta"), requires_grad=False))
    init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        DistributedDataParallel(module)
        del module._ddp_params_and_buffers_to_ignore
        with pytest.raises(ValueError, match="same type of devices"):
            DistributedDataParallel(module)
    finally:
        destroy_process_group()


@needs_gpu
@pytest.mark.gpu
def test_on_a_gpu(llama: Policy) -> None:
    copied, offloaded = FullTeacher(llama), OffloadedTeacher(llama)
    Parent(llama, copied).cuda()
    Parent(llama, offloaded).cuda()
    assert {parameter.device.type for parameter in offloaded.parameters()} == {"cpu"}
    hidden = offloaded.hidden(SEQUENCES)
    assert hidden.is_cuda
    assert torch.equal(hidden, copied.hidden(SEQUENCES))
    assert torch.equal(offloaded.head(hidden), copied.head(hidden))
    resident = torch.cuda.memory_allocated()  # with the workspace of the first products
    offloaded.head(offloaded.hidden(SEQUENCES))
    assert torch.cuda.memory_allocated() == resident
    jump(llama.cpu(), 0.1)
    llama.cuda()
    for teacher in (copied, offloaded):
        teacher.update_(llama, 0.01)
    for ours, theirs in zip(weights(offloaded), weights(copied), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    assert not same(weights(offloaded), weights(llama))
