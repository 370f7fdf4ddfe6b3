"""Whole runs on two processes: what they log and leave behind is what one process does with the same batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor
from torch.distributed.tensor import DTensor

from lightning_sdft.callbacks import KLToBase
from lightning_sdft.checkpoint import load_checkpoint, load_policy
from lightning_sdft.data.base import EvaluationSet, Splits
from lightning_sdft.distributed.sharded_checkpoint import is_sharded
from lightning_sdft.distributed.strategy import FSDP2Strategy, check_strategy
from lightning_sdft.errors import CheckpointError, PolicyError
from lightning_sdft.grading import ExactMatch
from lightning_sdft.modules import CausalLMModule, DFTModule, SDFTModule, SFTModule
from lightning_sdft.policy.lora import LoRA
from lightning_sdft.teacher import CopiedTeacher, EMATeacher
from lightning_sdft.teacher.compensated import join
from tests.conftest import needs_gpu
from tests.launch import in_processes
from tests.modules.conftest import WORDS_TEMPLATE, WordsDataModule, question

STEPS = 6
CHECKPOINT_STEP = 3  # in mid-epoch, which has 4


@dataclass
class Run:
    """A run to make in processes that have nothing of the test's fixtures."""

    model: str
    method: type[CausalLMModule]
    strategy: str = "auto"
    options: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    precision: Any = "32-true"
    accelerator: str = "cpu"

    def module(self) -> CausalLMModule:
        own: dict[str, Any] = {"max_prompt_tokens": 16, "max_completion_tokens": 8, "warmup_steps": 0}
        if issubclass(self.method, SDFTModule):
            own |= {"teacher_template": WORDS_TEMPLATE, "max_teacher_prompt_tokens": 32, "skip_tokens": 1}
        return self.method(self.model, **{**own, "learning_rate": 1e-3, **self.arguments})

    def data(self, processes: int) -> WordsDataModule:
        data = WordsDataModule(batch_size=4, micro_batch_size=2 // processes, evaluation_batch_size=1)
        examples = [question(index) for index in range(16)]
        graded = [EvaluationSet(questions(examples[:5]), {"words": ExactMatch()})]
        data.given = Splits(examples, graded, graded)
        return data

    def trainer(self, folder: Path, processes: int, callbacks: Sequence[Callback] = ()) -> Trainer:
        strategy: Any = FSDP2Strategy(**self.options) if self.strategy == "fsdp2" else self.strategy
        return Trainer(
            accelerator=self.accelerator,
            devices=processes,
            strategy=strategy,
            precision=self.precision,
            max_steps=STEPS,
            accumulate_grad_batches=2,
            gradient_clip_val=0.5,
            callbacks=[
                *callbacks,
                KLToBase(),
                ModelCheckpoint(folder, filename="{step}", every_n_train_steps=CHECKPOINT_STEP, save_top_k=-1),
                ModelCheckpoint(folder / "best", monitor="val/accuracy"),  # which saves at the end of an evaluation
                *([EMATeacher(teacher_rate=0.1)] if issubclass(self.method, SDFTModule) else []),
            ],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )


def questions(examples: Sequence[Any]) -> list[Any]:
    return [replace(example, reference="w5") for example in examples]


class Curve(Callback):
    """Loss and gradient norm of each optimizer step, and the weights before the first."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.norms: list[float] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.start = {name: each.clone() for name, each in weights(pl_module).items()}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch.is_last:
            self.losses.append(trainer.callback_metrics["train/loss"].item())
            self.norms.append(trainer.callback_metrics["train/gradient_norm"].item())


def weights(module: CausalLMModule) -> dict[str, Tensor]:
    state = module.state_dict()
    return {name: (each.full_tensor() if isinstance(each, DTensor) else each).cpu() for name, each in state.items()}


def fit(run: Run, folder: Path, processes: int, ckpt_path: Path | None = None) -> None:
    """Train, and leave what came out in the folder."""
    seed_everything(7 if ckpt_path is None else 8)
    curve, module = Curve(), run.module()
    trainer = run.trainer(folder, processes, [curve])
    trainer.fit(module, datamodule=run.data(processes), ckpt_path=ckpt_path)
    tested = trainer.test(module, datamodule=run.data(processes), verbose=False)
    predicted = trainer.predict(module, datamodule=run.data(processes))
    result = {
        "losses": curve.losses,
        "norms": curve.norms,
        "weights": weights(module),
        "start": curve.start,
        "tested": tested,
        "validated": {
            name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("val/")
        },
        "predicted": sorted(record["id"] + record["response"] for batch in predicted or [] for record in batch),
        "whole": sum(each.numel() for each in module.parameters()),
        "local": sum(each.to_local().numel() for each in module.parameters() if isinstance(each, DTensor)),
    }
    torch.save(result, folder / f"result-{trainer.global_rank}.pt")


def outcome(folder: Path, rank: int = 0) -> dict[str, Any]:
    result: dict[str, Any] = torch.load(folder / f"result-{rank}.pt", weights_only=True)
    return result


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """But for rounding, which Adam makes large where a gradient is next to nothing."""
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-5)
    assert found["norms"] == pytest.approx(expected["norms"], rel=1e-4)
    assert found["weights"].keys() == expected["weights"].keys()
    for kind in ("policy.", "teacher."):
        here, there = (flat(result["weights"], kind) for result in (found, expected))
        moved = (there - flat(expected["start"], kind)).norm()
        assert (here - there).norm() <= 0.05 * moved


def flat(weights: dict[str, Tensor], kind: str) -> Tensor:
    """All weights of student or teacher, of a compensated one in float32; nothing where there is none."""
    halves = {name.replace("residual.", "policy."): each for name, each in weights.items() if "residual." in name}
    joined = {
        name: join(each, halves[name]) if name in halves else each
        for name, each in weights.items()
        if name.startswith(kind) and "residual." not in name
    }
    return torch.cat([torch.zeros(0), *(each.flatten() for each in joined.values())])


WITH_HEAD = LoRA(rank=2, alpha=8, target_modules=["q_proj", "down_proj", "embed_tokens", "lm_head"])
LORA = LoRA(rank=2, alpha=8)


@pytest.mark.parametrize(
    ("method", "family", "arguments"),
    [
        (SFTModule, "gemma2", {}),  # whose head is the embedding
        (DFTModule, "llama", {}),
        (SDFTModule, "llama", {}),
        (SDFTModule, "gemma2", {"reduction": "token", "teacher": CopiedTeacher("compensated")}),
        (SDFTModule, "llama", {"lora": LORA, "learning_rate": 1e-2}),
        (SDFTModule, "gemma2", {"lora": LORA, "learning_rate": 1e-2}),
        (SDFTModule, "llama", {"lora": WITH_HEAD, "learning_rate": 1e-2}),
    ],
    ids=["sft-tied", "dft", "sdft", "sdft-tied-compensated", "lora", "lora-tied", "lora-head"],
)
def test_two_processes_train_as_one(
    method: type[CausalLMModule],
    family: str,
    arguments: dict[str, Any],
    family_folder: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    folders = {strategy: tmp_path / strategy for strategy in ("auto", "ddp", "fsdp2")}
    for strategy, folder in folders.items():
        folder.mkdir()
        count = 1 if strategy == "auto" else 2
        in_processes(count, fit, Run(str(family_folder(family)), method, strategy, {}, arguments), folder, count)
    expected = outcome(folders["auto"])
    for strategy in ("ddp", "fsdp2"):
        found = outcome(folders[strategy])
        assert_same(found, expected)
        assert found["tested"] == expected["tested"]
        assert found["validated"] == pytest.approx(expected["validated"], rel=1e-4)
        both = found["predicted"] + outcome(folders[strategy], 1)["predicted"]
        assert sorted(both) == expected["predicted"]
    assert outcome(folders["auto"])["whole"] * 0.4 < outcome(folders["fsdp2"])["local"] < 0.6 * expected["whole"]


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
    drawn = Run(str(family_folder("llama")), SDFTModule, "fsdp2", {}, options, precision)
    given = replace(drawn, arguments={**options, "rollout_source": "demonstration"})
    results = []
    alone = [replace(run, strategy="auto") for run in (given, drawn)]
    for index, (run, count) in enumerate(((alone[0], 1), (given, 2), (alone[1], 1), (drawn, 2))):
        folder = tmp_path / str(index)
        folder.mkdir()
        in_processes(count, fit, run, folder, count)
        results.append(outcome(folder))
    comparable = [results[:2], results[2:]] if precision == "bf16-mixed" else [results[:2]]
    for expected, found in comparable:
        assert found["losses"][0] == pytest.approx(expected["losses"][0], rel=1e-2)
        assert found["norms"][0] == pytest.approx(expected["norms"][0], rel=2e-2)
    first, *others = [{name: each.dtype for name, each in result["weights"].items()} for result in results]
    assert all(dtypes == first for dtypes in others)
    assert all(0 < loss < 20 for loss in results[-1]["losses"])


# Checkpoints


@pytest.fixture
def uninterrupted(family_folder: Callable[[str], Path], tmp_path: Path) -> tuple[Run, Path]:
    """An SDFT run on two processes and the folder of its checkpoints, which are folders."""
    run, folder = Run(str(family_folder("gemma2")), SDFTModule, "fsdp2"), tmp_path / "whole"
    folder.mkdir()
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
    in_processes(2, fit, run, resumed, 2, checkpoint)
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
    run = Run(str(family_folder("gemma2")), SDFTModule, "fsdp2", options)
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
    run = Run(str(family_folder("llama")), SDFTModule)
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
    checkpoint = folder / f"step={STEPS}.ckpt"
    part = next(checkpoint.glob("__1_*"))
    part.rename(part.with_suffix(".gone"))
    with pytest.raises(CheckpointError, match=rf"part {part.name} of the checkpoint .*step={STEPS}.* is missing"):
        load_policy(None, str(checkpoint))
    with pytest.raises(Exception, match=f"CheckpointError: the part {part.name}"):
        in_processes(2, fit, run, tmp_path, 2, checkpoint)


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
    data, module = run.data(2), run.module()
    data.batch_size, data.micro_batch_size = 4, None
    trainer = run.trainer(folder, 4, [curve])
    trainer.accumulate_grad_batches = 1
    trainer.fit(module, datamodule=data)
    size = sum(each.to_local().numel() for each in module.parameters() if isinstance(each, DTensor))
    torch.save({"losses": curve.losses, "local": size}, folder / f"result-{trainer.global_rank}.pt")


def test_groups_of_processes_that_hold_the_same(family_folder: Callable[[str], Path], tmp_path: Path) -> None:
    run = Run(str(family_folder("llama")), SFTModule, "fsdp2", {"replicas": 2})
    in_processes(4, groups, run, tmp_path)
    alone = tmp_path / "alone"
    alone.mkdir()
    in_processes(1, fit, Run(run.model, SFTModule), alone, 1)
    expected = outcome(alone)
    assert outcome(tmp_path)["losses"] == pytest.approx(expected["losses"], rel=1e-5)
    size = sum(tensor.numel() for tensor in expected["weights"].values())
    assert 0.4 * size < outcome(tmp_path, 3)["local"] < 0.6 * size


def test_groups_of_unequal_sizes_are_refused(family_folder: Callable[[str], Path], tmp_path: Path) -> None:
    run = Run(str(family_folder("llama")), SFTModule, "fsdp2", {"replicas": 3})
    with pytest.raises(Exception, match="4 processes cannot form replicas=3 groups"):
        in_processes(4, groups, run, tmp_path)
