"""Going back to a good state on two processes: all do it, and a run that was killed on the way goes on exactly."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_sdft.callbacks import TeacherWatch
from lightning_sdft.data.splits import EvaluationSet, Splits
from lightning_sdft.distributed.strategy import FSDP2Strategy
from lightning_sdft.grading.base import Grader
from lightning_sdft.modules import SDFTModule
from lightning_sdft.modules.retention import Retention
from lightning_sdft.records import Example
from lightning_sdft.teacher import EMATeacher
from tests.distributed.strategy_runs import outcome, questions, weights
from tests.launch import ProcessError, in_processes
from tests.modules.conftest import WORDS_TEMPLATE, WordsDataModule, question

WORN = 4  # the step at which all answers are wrong; step 2 is the last good one


class Falling(Grader):
    """Calls all answers right, but those of one validation wrong."""

    step = 0

    def grade(self, response: str, reference: Any) -> bool | None:
        return self.step != WORN


class Weights(Callback):
    """Tells the grader the step, and keeps the weights before each step and at the end."""

    def __init__(self, grader: Falling) -> None:
        self.grader = grader
        self.before: dict[int, dict[str, torch.Tensor]] = {}

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self.grader.step = trainer.global_step

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.before.setdefault(trainer.global_step, {name: each.clone() for name, each in weights(pl_module).items()})

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.before[trainer.global_step] = weights(pl_module)


class Killed(Callback):
    """Ends the processes as nothing but a kill does, just before a step."""

    def __init__(self, step: int | None) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def general() -> WordsDataModule:
    data = WordsDataModule()
    data.given = Splits([Example(f"general-{index}", question(index).prompt) for index in range(30, 42)])
    return data


def train(model: str, strategy: str, folder: Path, ckpt_path: Path | None = None, killed: int | None = None) -> None:
    """Six steps with a validation after every second one, and retention, so that each part of a step takes part."""
    seed_everything(7 if ckpt_path is None else 8)
    grader = Falling()
    data, examples = WordsDataModule(batch_size=4, micro_batch_size=1), [question(index) for index in range(16)]
    data.given = Splits(examples, [EvaluationSet(questions(examples[:6]), {"words": grader})])
    module = SDFTModule(
        model,
        learning_rate=1e-2,
        warmup_steps=0,
        max_prompt_tokens=16,
        max_completion_tokens=8,
        max_teacher_prompt_tokens=32,
        teacher_template=WORDS_TEMPLATE,
        skip_tokens=0,
        retention=Retention(general(), prompts=4),
    )
    look, watch = Weights(grader), TeacherWatch(action="go_back")
    saves = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=3, save_top_k=-1)
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy=FSDP2Strategy() if strategy == "fsdp2" else strategy,
        max_steps=6,
        max_epochs=-1,
        val_check_interval=4,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        callbacks=[EMATeacher(0.2), watch, look, Killed(killed), saves],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    result = {"before": look.before, "returned": watch.returned, "rate": trainer.optimizers[0].param_groups[0]["lr"]}
    torch.save(result, folder / f"result-{trainer.global_rank}.pt")


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_go_back_together_and_go_on_exactly(
    strategy: str, family_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    model, whole, killed = str(family_folder("llama")), tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    in_processes(2, train, model, strategy, whole)
    expected = outcome(whole)
    assert expected["returned"] == outcome(whole, 1)["returned"] == 1
    good, back, later = (expected["before"][step] for step in (2, WORN, WORN + 1))
    assert all(torch.equal(back[name], tensor) for name, tensor in good.items())
    assert any(not torch.equal(later[name], tensor) for name, tensor in good.items())

    with pytest.raises(ProcessError):
        in_processes(2, train, model, strategy, killed, None, WORN + 1)
    in_processes(2, train, model, strategy, killed, killed / "step=3.ckpt")  # after the good state, before it wears out
    found = outcome(killed)
    assert found["returned"] == 1
    assert found["rate"] == expected["rate"]
    for step in range(WORN, 7):
        ours, theirs = found["before"][step], expected["before"][step]
        assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
