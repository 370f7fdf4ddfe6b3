"""A short run, made in processes that have nothing of a test's fixtures, and what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.distributed.tensor import DTensor

from lightning_sdft.callbacks import KLToBase, RolloutTable
from lightning_sdft.data.splits import EvaluationSet, Splits
from lightning_sdft.distributed.strategy import FSDP2Strategy
from lightning_sdft.grading import ExactMatch
from lightning_sdft.modules import CausalLMModule, SDFTModule
from lightning_sdft.policy import prefix
from lightning_sdft.policy.layout import SPARED
from lightning_sdft.records import Example
from lightning_sdft.teacher import EMATeacher
from lightning_sdft.teacher.compensated import join
from tests.modules.conftest import WORDS_TEMPLATE, WordsDataModule, question

EPOCH = 4
STEPS = 6
CHECKPOINT_STEP = 3  # in mid-epoch


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
    steps: int = STEPS
    begin: str = ""
    """What all prompts begin with, which is then worth a prefix."""
    micro_batches: int = 2
    evaluated: bool = True
    """Whether it is evaluated before training and behind it, too; at the end of an epoch it always is."""

    def module(self) -> CausalLMModule:
        own: dict[str, Any] = {"max_prompt_tokens": 16, "max_completion_tokens": 8, "warmup_steps": 0}
        if issubclass(self.method, SDFTModule):
            own |= {"teacher_template": WORDS_TEMPLATE, "max_teacher_prompt_tokens": 32, "skip_tokens": 1}
        return self.method(self.model, **{**own, "learning_rate": 1e-3, **self.arguments})

    def data(self, processes: int, evaluated: int = 3) -> WordsDataModule:
        sizes = {"batch_size": 2 * self.micro_batches, "micro_batch_size": 2 // processes, "evaluation_batch_size": 1}
        data = WordsDataModule(**sizes)
        examples = questions([beginning(question(index), self.begin) for index in range(16)])
        graded = [EvaluationSet(examples[:evaluated], {"words": ExactMatch()})]
        data.given = Splits(examples, graded, graded)
        return data

    def trainer(self, folder: Path, processes: int, callbacks: Sequence[Callback] = ()) -> Trainer:
        strategy: Any = FSDP2Strategy(**self.options) if self.strategy == "fsdp2" else self.strategy
        return Trainer(
            accelerator=self.accelerator,
            devices=processes,
            strategy=strategy,
            precision=self.precision,
            max_steps=self.steps,
            num_sanity_val_steps=2 if self.evaluated else 0,
            accumulate_grad_batches=self.micro_batches,
            gradient_clip_val=0.5,
            callbacks=[
                *callbacks,
                KLToBase(),
                RolloutTable(every_n_steps=2),  # which changes nothing
                ModelCheckpoint(folder, filename="{step}", every_n_train_steps=CHECKPOINT_STEP, save_top_k=-1),
                ModelCheckpoint(folder / "best", monitor="val/accuracy"),  # which saves at the end of an evaluation
                *([EMATeacher(teacher_rate=0.1)] if issubclass(self.method, SDFTModule) else []),
            ],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )


def beginning(example: Example, words: str) -> Example:
    prompt = f"{words} {example.prompt[0]['content']}".strip()
    return replace(example, prompt=[{"role": "user", "content": prompt}])


def questions(examples: Sequence[Any]) -> list[Any]:
    return [replace(example, reference="w5") for example in examples]


class Curve(Callback):
    """Loss and gradient norm of each optimizer step, and the weights before the first."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.prefixes: list[bool] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.start = {name: each.clone() for name, each in weights(pl_module).items()}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.prefixes.append(pl_module.prefixes.student is not None)
        if batch.is_last:
            self.losses.append(trainer.callback_metrics["train/loss"].item())
            self.norms.append(trainer.callback_metrics["train/gradient_norm"].item())


def weights(module: CausalLMModule) -> dict[str, Tensor]:
    state = module.state_dict()
    return {name: (each.full_tensor() if isinstance(each, DTensor) else each).cpu() for name, each in state.items()}


def fit(run: Run, folder: Path, processes: int, ckpt_path: Path | None = None) -> None:
    """Train, and leave what came out in the folder."""
    seed_everything(7 if ckpt_path is None else 8)
    prefix.SPARED = 0 if run.begin else SPARED
    curve, module = Curve(), run.module()
    trainer = run.trainer(folder, processes, [curve])
    trainer.fit(module, datamodule=run.data(processes), ckpt_path=ckpt_path)
    tested = trainer.test(module, datamodule=run.data(processes), verbose=False) if run.evaluated else []
    predicted = trainer.predict(module, datamodule=run.data(processes)) if run.evaluated else []
    result = {
        "losses": curve.losses,
        "prefixes": curve.prefixes,
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
