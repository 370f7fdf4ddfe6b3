"""Whole runs on two processes: what they log and leave behind is what one process does with the same batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch.distributed.tensor import DTensor

from lightning_sdft.distributed.strategy import FSDP2Strategy, check_strategy
from lightning_sdft.errors import PolicyError
from lightning_sdft.modules import CausalLMModule, DFTModule, DistillationModule, SDFTModule, SDPOModule, SFTModule
from lightning_sdft.policy import Thinking
from lightning_sdft.policy.lora import LoRA
from lightning_sdft.teacher import CopiedTeacher, TrustRegionTeacher
from tests.conftest import needs_gpu
from tests.distributed.strategy_runs import EPOCH, Curve, Run, assert_same, fit, outcome
from tests.launch import in_processes
from tests.modules.conftest import WORDS_TEMPLATE

WITH_HEAD = LoRA(rank=2, alpha=8, target_modules=["q_proj", "down_proj", "embed_tokens", "lm_head"])
LORA = LoRA(rank=2, alpha=8)
MIXED = {
    "teacher": TrustRegionTeacher(0.3),
    "privileged_context": "demonstration",
    "teacher_template": WORDS_TEMPLATE,
    "max_teacher_prompt_tokens": 32,
}

TOLD = {
    "teacher_template": ["{prompt}", " w50 {attempt} w51"],
    "max_teacher_prompt_tokens": 32,
    "reduction": "token",
    "generations": 2,
}

THINKING = Thinking(max_tokens=3, loss_on="answer", opening="<assistant>", closing="w58")  # the template opens it
BOTH = ("ddp", "fsdp2")


@pytest.mark.parametrize(
    ("strategies", "method", "family", "arguments"),
    [  # with ddp those in which a model, a teacher or an adapter is of a kind that no other run with ddp has
        (BOTH, SFTModule, "gemma2", {}),  # whose head is the embedding
        (["fsdp2"], DFTModule, "llama", {}),
        # test_strategy_checkpoints.py has it with ddp, and one rollout of each prompt
        (["fsdp2"], SDFTModule, "llama", {"generations": 2, "learning_rate": 1e-4}),
        (BOTH, SDFTModule, "gemma2", {"reduction": "token", "teacher": CopiedTeacher("compensated")}),
        (BOTH, SDFTModule, "llama", {"lora": LORA, "learning_rate": 1e-2}),
        (["fsdp2"], SDFTModule, "gemma2", {"lora": LORA, "learning_rate": 1e-2}),
        (BOTH, SDFTModule, "llama", {"lora": WITH_HEAD, "learning_rate": 1e-2}),
        (BOTH, DistillationModule, "llama", MIXED),
        (["fsdp2"], DistillationModule, "llama", {**MIXED, "lora": WITH_HEAD, "learning_rate": 1e-2}),
        (BOTH, SDPOModule, "llama", TOLD),
        (["fsdp2"], SDFTModule, "llama", {"thinking": THINKING, "reduction": "token"}),
    ],
    ids=[
        *("sft-tied", "dft", "sdft", "sdft-tied-compensated", "lora", "lora-tied", "lora-head", "mixed", "mixed-lora"),
        *("sdpo", "thinking"),
    ],
)
def test_two_processes_train_as_one(
    strategies: Sequence[str],
    method: type[CausalLMModule],
    family: str,
    arguments: dict[str, Any],
    family_folder: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    folders = {strategy: tmp_path / strategy for strategy in ("auto", *strategies)}
    for strategy, folder in folders.items():
        folder.mkdir()
        count = 1 if strategy == "auto" else 2
        run = Run(str(family_folder(family)), method, strategy, {}, arguments, steps=EPOCH)
        in_processes(count, fit, run, folder, count)
    expected = outcome(folders["auto"])
    for strategy in strategies:
        found = outcome(folders[strategy])
        assert_same(found, expected)
        assert found["tested"] == expected["tested"]
        assert found["validated"] == pytest.approx(expected["validated"], rel=1e-4)
        both = found["predicted"] + outcome(folders[strategy], 1)["predicted"]
        assert sorted(both) == expected["predicted"]
    assert outcome(folders["auto"])["whole"] * 0.4 < outcome(folders["fsdp2"])["local"] < 0.6 * expected["whole"]


def test_two_processes_with_a_prefix_train_as_one(family_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Gradients that gathered in the prefix come before the processes add up theirs."""
    found = {}
    for count, strategy in ((1, "auto"), (2, "ddp"), (2, "fsdp2")):
        (folder := tmp_path / strategy).mkdir()
        arguments = {"learning_rate": 1e-4}
        settings = {"begin": "w6 w7 w8 w9 w10 w11", "micro_batches": 4, "steps": 2, "evaluated": False}
        run = Run(str(family_folder("llama")), SDFTModule, strategy, {}, arguments, **settings)
        in_processes(count, fit, run, folder, count)
        found[strategy] = outcome(folder)
    assert_same(found["ddp"], found["auto"])
    assert_same(found["fsdp2"], found["auto"])
    assert found["auto"]["prefixes"] == [True, True, True, False] * 2
    assert found["ddp"]["prefixes"] == [True, True, False, False] * 2
    assert found["fsdp2"]["prefixes"] == [False] * 8


def test_two_processes_train_adapters_over_the_same_bits(family_folder: Callable[[str], Path], tmp_path: Path) -> None:
    arguments = {"lora": replace(LORA, base="nf4"), "learning_rate": 1e-2}
    results = []
    for strategy, count in (("auto", 1), ("ddp", 2)):
        (tmp_path / strategy).mkdir()
        run = Run(str(family_folder("llama")), SDFTModule, strategy, {}, arguments)
        in_processes(count, fit, run, tmp_path / strategy, count)
        results.append(outcome(tmp_path / strategy))
    assert_same(*reversed(results))
    assert results[1]["tested"] == results[0]["tested"]


@needs_gpu
@pytest.mark.gpu
def test_a_gpu_trains_as_a_cpu(family_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Under each strategy, of one process."""
    alone = Run(str(family_folder("llama")), SDFTModule)
    there = [replace(alone, accelerator="gpu", strategy=strategy) for strategy in ("auto", "ddp", "fsdp2")]
    results = []
    for index, run in enumerate((alone, *there)):
        folder = tmp_path / str(index)
        folder.mkdir()
        in_processes(1, fit, run, folder, 1)
        results.append(outcome(folder))
    for found in results[1:]:
        assert_same(found, results[0])
        assert found["tested"] == results[0]["tested"]
        assert found["predicted"] == results[0]["predicted"]


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_other_precisions(precision: str, family_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Losses of given answers are compared; where weights are bfloat16, what is drawn depends on the number of rows."""
    options = {"gradient_checkpointing": True}
    drawn = Run(str(family_folder("llama")), SDFTModule, "fsdp2", {}, options, precision, steps=4, evaluated=False)
    given = replace(drawn, arguments={**options, "rollout_source": "demonstration"})
    results = []
    compared = [given, drawn] if precision == "bf16-mixed" else [given]
    runs = [each for run in compared for each in ((replace(run, strategy="auto"), 1), (run, 2))]
    for index, (run, count) in enumerate(runs if drawn in compared else [*runs, (drawn, 2)]):
        folder = tmp_path / str(index)
        folder.mkdir()
        in_processes(count, fit, run, folder, count)
        results.append(outcome(folder))
    for expected, found in zip(results[::2], results[1::2], strict=False):
        assert found["losses"][0] == pytest.approx(expected["losses"][0], rel=1e-2)
        assert found["norms"][0] == pytest.approx(expected["norms"][0], rel=2e-2)
    first, *others = [{name: each.dtype for name, each in result["weights"].items()} for result in results]
    assert all(dtypes == first for dtypes in others)
    assert all(0 < loss < 20 for loss in results[-1]["losses"])


# Other strategies


@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy])
def test_strategy_under_which_a_step_would_be_wrong_is_refused(strategy: type[Any]) -> None:
    instance = strategy.__new__(strategy)
    with pytest.raises(PolicyError, match=f"{strategy.__name__} is not supported.*trainer.strategy=fsdp2"):
        check_strategy(instance)


def test_known_by_name_on_the_command_line_and_in_python() -> None:
    trainer = Trainer(accelerator="cpu", devices=2, strategy="fsdp2", logger=False)
    assert isinstance(trainer.strategy, FSDP2Strategy)


def groups(run: Run, folder: Path) -> None:
    seed_everything(7)
    curve = Curve()
    data, module = run.data(2, evaluated=5), run.module()
    data.batch_size, data.micro_batch_size = 4, None
    trainer = run.trainer(folder, 4, [curve])
    trainer.accumulate_grad_batches = 1
    trainer.fit(module, datamodule=data)
    size = sum(each.to_local().numel() for each in module.parameters() if isinstance(each, DTensor))
    torch.save({"losses": curve.losses, "local": size}, folder / f"result-{trainer.global_rank}.pt")


def test_groups_of_processes_that_hold_the_same(family_folder: Callable[[str], Path], tmp_path: Path) -> None:
    run = Run(str(family_folder("llama")), SFTModule, "fsdp2", {"replicas": 2}, evaluated=False)
    in_processes(4, groups, run, tmp_path)
    alone = tmp_path / "alone"
    alone.mkdir()
    in_processes(1, fit, replace(run, strategy="auto", options={}), alone, 1)
    expected = outcome(alone)
    assert outcome(tmp_path)["losses"] == pytest.approx(expected["losses"], rel=1e-5)
    size = sum(tensor.numel() for tensor in expected["weights"].values())
    assert 0.4 * size < outcome(tmp_path, 3)["local"] < 0.6 * size


def test_groups_of_unequal_sizes_are_refused(family_folder: Callable[[str], Path], tmp_path: Path) -> None:
    run = Run(str(family_folder("llama")), SFTModule, "fsdp2", {"replicas": 3})
    with pytest.raises(Exception, match="4 processes cannot form replicas=3 groups"):
        in_processes(4, groups, run, tmp_path)
