"""Checkpoints of runs on several processes, and what goes on from them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lightning_sdft.checkpoint import load_checkpoint, load_policy
from lightning_sdft.distributed.sharded_checkpoint import is_sharded
from lightning_sdft.errors import CheckpointError
from lightning_sdft.modules import SDFTModule
from tests.distributed.strategy_runs import CHECKPOINT_STEP, STEPS, Run, fit, outcome
from tests.launch import in_processes


@pytest.fixture(scope="module")
def uninterrupted(family_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """An SDFT run on two processes and the folder of its checkpoints, which are folders."""
    run, folder = Run(str(family_folder("gemma2")), SDFTModule, "fsdp2"), tmp_path_factory.mktemp("whole")
    in_processes(2, fit, run, folder, 2)
    return run, folder


def test_sharded_checkpoint_goes_on_exactly_and_can_be_exported(
    uninterrupted: tuple[Run, Path], tmp_path: Path
) -> None:
    run, folder = uninterrupted
    expected, checkpoint = outcome(folder), folder / f"step={CHECKPOINT_STEP}.ckpt"
    assert is_sharded(checkpoint)
    assert not list(folder.glob(".*"))
    resumed = tmp_path / "resumed"
    resumed.mkdir()
    in_processes(2, fit, replace(run, evaluated=False), resumed, 2, checkpoint)
    found = outcome(resumed)
    assert found["losses"] == expected["losses"][CHECKPOINT_STEP:]
    assert all(torch.equal(found["weights"][name], tensor) for name, tensor in expected["weights"].items())

    last = folder / f"step={STEPS}.ckpt"
    state = load_checkpoint(last)["state_dict"]
    assert all(torch.equal(state[name], tensor) for name, tensor in expected["weights"].items())
    for kind, prefix in (("student", "policy."), ("teacher", "teacher.policy.")):
        policy = load_policy(None, str(last), kind)  # type: ignore[arg-type]
        assert all(torch.equal(each, state[prefix + name]) for name, each in policy.state_dict().items())


def test_checkpoint_in_one_file(family_folder: Callable[[str], Path], tmp_path: Path) -> None:
    options = {"save_distributed_checkpoint": False}
    run = Run(str(family_folder("gemma2")), SDFTModule, "fsdp2", options, evaluated=False)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    for folder in (whole, resumed):
        folder.mkdir()
    in_processes(2, fit, run, whole, 2)
    checkpoint = whole / f"step={CHECKPOINT_STEP}.ckpt"
    assert checkpoint.is_file()
    in_processes(2, fit, run, resumed, 2, checkpoint)
    expected, found = outcome(whole), outcome(resumed)
    assert found["losses"] == expected["losses"][CHECKPOINT_STEP:]
    assert all(torch.equal(found["weights"][name], tensor) for name, tensor in expected["weights"].items())


@pytest.mark.parametrize(
    ("before", "after"), [(("auto", 1), ("fsdp2", 2)), (("fsdp2", 2), ("fsdp2", 1)), (("ddp", 2), ("auto", 1))]
)
def test_goes_on_with_another_number_of_processes(
    before: tuple[str, int], after: tuple[str, int], family_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """With the same examples and rollouts, so that losses are equal up to rounding."""
    run = Run(str(family_folder("llama")), SDFTModule, evaluated=False)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    for folder, (strategy, count), checkpoint in (
        (whole, before, None),
        (resumed, after, whole / f"step={CHECKPOINT_STEP}.ckpt"),
    ):
        folder.mkdir()
        in_processes(count, fit, replace(run, strategy=strategy), folder, count, checkpoint)
    assert outcome(resumed)["losses"] == pytest.approx(outcome(whole)["losses"][CHECKPOINT_STEP:], rel=1e-5)


def test_single_process_reads_a_sharded_checkpoint(uninterrupted: tuple[Run, Path], tmp_path: Path) -> None:
    run, folder = uninterrupted
    alone = Run(run.model, run.method)
    module = alone.module()
    trainer = alone.trainer(tmp_path, 1)
    tested = trainer.test(module, datamodule=alone.data(1), ckpt_path=folder / f"step={STEPS}.ckpt", verbose=False)
    assert tested == outcome(folder)["tested"]


def test_missing_part_is_named(uninterrupted: tuple[Run, Path], tmp_path: Path) -> None:
    run, folder = uninterrupted
    checkpoint = tmp_path / f"step={STEPS}.ckpt"
    shutil.copytree(folder / checkpoint.name, checkpoint)
    part = next(checkpoint.glob("__1_*"))
    part.rename(part.with_suffix(".gone"))
    with pytest.raises(CheckpointError, match=rf"part {part.name} of the checkpoint .*step={STEPS}.* is missing"):
        load_policy(None, str(checkpoint))
    with pytest.raises(Exception, match=f"CheckpointError: the part {part.name}"):
        in_processes(2, fit, run, tmp_path, 2, checkpoint)
