"""Runs that end somewhere in the middle, and what is compared when they have gone on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers.logger import Logger

from lightning_sdft.checkpoint import ExactResume
from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.grading.exact_match import ExactMatch
from lightning_sdft.modules import CausalLMModule, SDFTModule
from lightning_sdft.teacher import EMATeacher
from tests.faults.runs import differences, is_timing
from tests.modules.conftest import question

STEPS = 10  # of twelve in three epochs


class Curves(Logger):
    """Keeps every logged number but those of time: name and step to value, later ones win."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[tuple[str, int | None], float] = {}

    name, version = "curves", 0

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.values |= {(name, step): value for name, value in metrics.items() if not is_timing(name)}

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        pass


class FaultError(Exception):
    """What a run is ended with."""


class Fault(Callback):
    """Raises in a hook, the n-th time that it is called."""

    def __init__(self, hook: str, number: int) -> None:
        def count(*_: Any, **__: Any) -> None:
            self.calls += 1
            if self.calls == number:
                raise FaultError(hook)

        self.calls = 0
        setattr(self, hook, count)


class DrawingValidation(Callback):
    """A validation that draws from the generator of training."""

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        torch.rand(3)


Run = tuple[CausalLMModule, Trainer, Curves]
Fit = Callable[..., Run]


@pytest.fixture
def fit(words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any, tmp_path: Path) -> Fit:
    """A run of ten steps, four in an epoch, behind which there is a validation of two batches."""

    def run(
        folder: str,
        *callbacks: Callback,
        method: type[CausalLMModule] = SDFTModule,
        ckpt_path: Path | None = None,
        save: dict[str, Any] | None = None,
        micro_batch_size: int = 2,
        warmup_steps: int = 0,
        **options: Any,
    ) -> Run:
        module = words_module(method, warmup_steps=warmup_steps)
        seed_everything(7 if ckpt_path is None else 8)  # a resumed process starts from another state
        graded = [EvaluationSet([question(index) for index in range(100, 104)], {"letters": ExactMatch()})]
        data = words_data(validation=graded, evaluation_batch_size=2, micro_batch_size=micro_batch_size)
        curves = Curves()
        kind = Killed if any(getattr(callback, "after_save", None) for callback in callbacks) else ModelCheckpoint
        checkpoints = kind(tmp_path / folder, "{step}", **{"save_on_exception": True, **(save or {})})
        moving = [EMATeacher(0.1)] if issubclass(method, SDFTModule) else []
        trainer = make_trainer(
            callbacks=[*callbacks, *moving, DrawingValidation(), checkpoints],
            accumulate_grad_batches=4 // micro_batch_size,
            enable_checkpointing=True,
            num_sanity_val_steps=0,
            limit_val_batches=1.0,
            log_every_n_steps=1,
            logger=curves,
            **{"max_epochs": 3, "max_steps": STEPS, **options},
        )
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
        return module, trainer, curves

    return run


WHOLE: dict[str, Run] = {}


@pytest.fixture
def whole(fit: Fit) -> Callable[..., Run]:
    """The uninterrupted run with some options; there is only one of each."""

    def run(**options: Any) -> Run:
        if str(options) not in WHOLE:
            WHOLE[str(options)] = fit("whole", **options)
        return WHOLE[str(options)]

    return run


def interrupt(fit: Fit, fault: Callback, error: type[BaseException] = FaultError, **options: Any) -> Curves:
    """Run into a fault; the curves up to there."""
    curves = Curves()
    with pytest.raises(error):
        fit("interrupted", fault, Keep(curves), **options)
    return curves


class Killed(ModelCheckpoint):
    """Fails as soon as it has saved."""

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        super()._save_checkpoint(trainer, filepath)
        raise FaultError


class Keep(Callback):
    """Takes the curves out of a run that does not return them."""

    def __init__(self, curves: Curves) -> None:
        self.curves = curves

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        (logger,) = trainer.loggers
        assert isinstance(logger, Curves)
        logger.values = self.curves.values


def assert_same_run(whole: Run, resumed: Run, before: Curves) -> None:
    """Student, teacher, optimizer, schedule, loops, counters, generators, and every logged number, bit for bit."""
    curves = {**before.values, **resumed[2].values}
    assert [(key, value, curves.get(key)) for key, value in whole[2].values.items() if value != curves.get(key)] == []
    assert curves.keys() == whole[2].values.keys()
    assert differences(states(whole), states(resumed)) == []


def states(run: Run) -> dict[str, Any]:
    """Everything that a run has come to."""
    module, trainer, _ = run
    callbacks = [each for each in trainer.callbacks if isinstance(each, EMATeacher | ExactResume)]  # type: ignore[attr-defined]
    loops = trainer.fit_loop.state_dict()
    del loops["epoch_loop.val_loop.batch_progress"]  # counts until an epoch begins, and nobody reads it
    found = {
        "module": module.state_dict(),
        "optimizer": trainer.optimizers[0].state_dict(),
        "schedule": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
        "loops": loops,
        "callbacks": {type(each).__name__: each.state_dict() for each in callbacks},
    }
    logged = found["callbacks"]["ExactResume"]["logged"]
    found["callbacks"]["ExactResume"]["logged"] = {name: logged[name] for name in logged if not is_timing(name)}
    return found


def newest(folder: Path) -> Path:
    return max(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
