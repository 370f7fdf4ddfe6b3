"""What is there all the time, by the bytes that a parameter takes, and what processes share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightning_sdft.memory import Estimate, Lengths, Phase, TrainerPlan, estimate
from lightning_sdft.memory.rehearsal import rehearse
from lightning_sdft.modules import SDFTModule, SFTModule
from lightning_sdft.policy.lora import LoRA
from lightning_sdft.teacher import CopiedTeacher, compensated
from tests.memory.arithmetic import Llama

LENGTHS = Lengths([(12, 8)] * 2, [(20, 8)] * 2, [12] * 4, [12] * 2, 8, micro_batches=2)
ALONE = replace(LENGTHS, teacher=(), sampled=())


@pytest.fixture
def count(family_folder: Callable[[str], Path]) -> Llama:
    return Llama.of(family_folder("llama"))


@pytest.mark.parametrize("accelerator", [False, True])
@pytest.mark.parametrize("memory", ["float32", "compensated", "offload"])
@pytest.mark.parametrize(
    ("precision", "student", "optimizer"),
    [("64-true", 8, 16), ("32-true", 4, 8), ("bf16-mixed", 4, 8), ("16-mixed", 4, 8), ("bf16-true", 2, 4)],
)
def test_bytes_of_a_parameter(
    precision: str,
    student: int,
    optimizer: int,
    memory: Any,
    accelerator: bool,
    count: Llama,
    words_module: Callable[..., Any],
) -> None:
    module = words_module(SDFTModule, teacher=CopiedTeacher(memory))
    plan = TrainerPlan(accelerator=accelerator, precision=precision, teacher_follows=True)
    found = estimate(module, plan, LENGTHS, process=7)
    teacher = 4 * count.all  # of a compensated one 2 and 2; of an offloaded one perhaps elsewhere
    expected = {
        "process": 7,
        "student's weights": student * count.all,
        "gradients": student * count.all,
        "optimizer": pytest.approx(optimizer * count.all, abs=4 * count.tensors),  # which count the steps of each
        "teacher's weights": teacher,
    }
    elsewhere = accelerator and memory == "offload"
    if elsewhere:
        del expected["teacher's weights"]
    assert dict(found.held) == expected
    assert found.offloaded == (teacher if elsewhere else 0)


def test_adapters_are_in_float32_and_alone_in_optimizer_and_gradients(
    count: Llama, words_module: Callable[..., Any]
) -> None:
    module = words_module(SFTModule, lora=LoRA(rank=2))
    found = estimate(module, TrainerPlan(precision="bf16-true"), ALONE)
    assert dict(found.held) == {
        "student's weights": 2 * count.all,
        "adapters": 4 * count.adapter(2),
        "gradients": 4 * count.adapter(2),
        "optimizer": 8 * count.adapter(2) + 4 * 2 * 7 * count.blocks,
    }


def test_a_process_takes_half_a_gigabyte_on_an_accelerator_unless_it_is_said(words_module: Callable[..., Any]) -> None:
    module = words_module(SFTModule)
    for accelerator, given, expected in ((True, None, 2**29), (False, None, None), (True, 5, 5), (False, 5, 5)):
        assert estimate(module, TrainerPlan(accelerator), ALONE, given).held.get("process") == expected


def test_ddp_copies_gradients_into_buckets(count: Llama, words_module: Callable[..., Any]) -> None:
    alone, shared = (
        estimate(words_module(SFTModule), TrainerPlan(processes=processes, sharing=sharing), ALONE)
        for processes, sharing in ((1, "alone"), (4, "ddp"))
    )
    assert shared.held == {**alone.held, "gradients in buckets": 4 * count.all}
    assert shared.phases == alone.phases


@pytest.mark.parametrize(("replicas", "parts"), [(1, 8), (2, 4), (8, 1)])
def test_processes_of_a_replica_share_all_that_is_held(
    replicas: int, parts: int, words_module: Callable[..., Any]
) -> None:
    module = words_module(SDFTModule)
    whole = estimate(module, TrainerPlan(teacher_follows=True), LENGTHS, process=7)
    plan = TrainerPlan(processes=8, sharing="fsdp2", replicas=replicas, teacher_follows=True)
    cut = estimate(module, plan, LENGTHS, process=7)
    assert cut.held == {name: size if name == "process" else size // parts for name, size in whole.held.items()}
    assert cut.always == pytest.approx(whole.always / parts, rel=0.001, abs=16)


def test_what_is_gathered_where_weights_are_cut(count: Llama, words_module: Callable[..., Any]) -> None:
    module = words_module(SDFTModule)
    plan = TrainerPlan(processes=4, sharing="fsdp2", teacher_follows=True, evaluates=True)
    phases = {each.name: each.parts for each in estimate(module, plan, LENGTHS).phases}
    blocks = 4 * (2 * count.block + count.embedding)
    assert {name: parts["gathered weights"] for name, parts in phases.items() if "gathered weights" in parts} == {
        "rollouts": 4 * count.all,
        "teacher": blocks,
        "student": blocks,
        "loss": 2 * 4 * count.head,  # the student's and the teacher's
        "backward": blocks + 4 * 2 * count.block,  # and the gradients of both blocks
        "evaluation": 4 * count.all,
    }
    whole = {each.name: each.parts for each in rehearse(module, plan, LENGTHS).phases}
    for name in ("optimizer", "teacher's update"):
        assert phases[name] == {part: size // 4 for part, size in whole[name].items()}


def test_a_compensated_teacher_is_gathered_in_half_precision(count: Llama, words_module: Callable[..., Any]) -> None:
    """Of which two bytes a parameter are read; what rounding took stays where it is."""
    plan = TrainerPlan(processes=4, sharing="fsdp2", precision="bf16-mixed")
    found = estimate(words_module(SDFTModule, teacher=CopiedTeacher("compensated")), plan, LENGTHS)
    gathered = {each.name: each.parts.get("gathered weights") for each in found.phases}
    assert gathered["teacher"] == 2 * (2 * count.block + count.embedding)
    assert gathered["student"] == 4 * (2 * count.block + count.embedding)


def test_an_accelerator_averages_a_compensated_teacher_in_larger_pieces(
    words_module: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In those of a CPU, the estimate for 7B parameters would take minutes."""
    pieces, store = [], compensated._store
    monkeypatch.setitem(compensated.PIECE, "cpu", 16)
    monkeypatch.setattr(compensated, "_store", lambda *halves: (pieces.append(halves), store(*halves)))
    counts = []
    for accelerator in (False, True):
        estimate(
            words_module(SDFTModule, teacher=CopiedTeacher("compensated")),
            TrainerPlan(accelerator, teacher_follows=True),
            LENGTHS,
        )
        counts.append(len(pieces))
        pieces.clear()
    assert counts[0] > 10 * counts[1] > 0


def test_a_frozen_model_gathers_gradients_of_adapters_alone(count: Llama, words_module: Callable[..., Any]) -> None:
    plan = TrainerPlan(processes=4, sharing="fsdp2")
    found = estimate(words_module(SFTModule, lora=LoRA(rank=2)), plan, ALONE)
    gathered = {each.name: each.parts.get("gathered weights", 0) for each in found.phases}
    per_block = 4 * count.adapter(2) // count.blocks
    # of a block as large as the largest, the share that is trained of the whole model
    assert gathered["backward"] - gathered["student"] == pytest.approx(2 * per_block, rel=0.3)


def test_peak_is_what_is_always_there_and_the_largest_part_of_the_step() -> None:
    phases = [Phase("a", {"x": 5, "y": 1}), Phase("b", {"x": 3, "y": 4}), Phase("c", {"x": 6})]
    found = Estimate({"one": 10, "two": 20}, phases)
    assert (found.always, found.largest.name, found.largest.peak, found.peak) == (30, "b", 7, 37)
