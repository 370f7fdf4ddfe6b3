"""Whatever ends a run, the checkpoint that it leaves resumes to the run that was never interrupted, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers.logger import Logger

from lightning_sdft.callbacks import EMATeacher, ExactResume
from lightning_sdft.checkpoint import CheckpointError, load_checkpoint
from lightning_sdft.data.base import EvaluationSet
from lightning_sdft.grading.exact_match import ExactMatch
from lightning_sdft.modules import CausalLMModule, SDFTModule, SFTModule
from tests.modules.conftest import question

STEPS = 10  # three epochs of four steps of two micro-batches are not filled


class Curves(Logger):
    """Keeps every logged number but those of time: name and step to value, later ones win."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[tuple[str, int | None], float] = {}

    name, version = "curves", 0

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        timed = ("time/", "memory/", "rollout/tokens_per_second")
        self.values |= {(name, step): value for name, value in metrics.items() if not name.startswith(timed)}

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


Fit = Callable[..., tuple[CausalLMModule, Trainer, Curves]]


@pytest.fixture
def fit(words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any, tmp_path: Path) -> Fit:
    """A run of twelve micro-batches in groups of two or so, with a validation of two batches."""

    def run(
        folder: str,
        *callbacks: Callback,
        method: type[CausalLMModule] = SDFTModule,
        ckpt_path: Path | None = None,
        save: dict[str, Any] | None = None,
        micro_batch_size: int = 2,
        **options: Any,
    ) -> tuple[CausalLMModule, Trainer, Curves]:
        module = words_module(method)
        seed_everything(7 if ckpt_path is None else 8)  # a resumed process starts from another state
        graded = [EvaluationSet([question(index) for index in range(100, 104)], {"letters": ExactMatch()})]
        data = words_data(validation=graded, evaluation_batch_size=2, micro_batch_size=micro_batch_size)
        curves = Curves()
        checkpoints = ModelCheckpoint(tmp_path / folder, "{step}", save_on_exception=True, **(save or {}))
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


def interrupt(fit: Fit, fault: Fault, **options: Any) -> Curves:
    """Run into a fault; the curves up to there."""
    curves = Curves()
    original = Logger.__init__
    with pytest.raises(FaultError):
        fit("interrupted", fault, Keep(curves), **options)
    assert Logger.__init__ is original
    return curves


class Keep(Callback):
    """Takes the curves out of a run that does not return them."""

    def __init__(self, curves: Curves) -> None:
        self.curves = curves

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        (logger,) = trainer.loggers
        assert isinstance(logger, Curves)
        logger.values = self.curves.values


def same(one: Any, other: Any) -> bool:
    """Whether two nested states are equal, bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def assert_same_run(
    whole: tuple[CausalLMModule, Trainer, Curves], resumed: tuple[CausalLMModule, Trainer, Curves], before: Curves
) -> None:
    """Weights of student and teacher, optimizer, schedule, and every logged number."""
    curves = {**before.values, **resumed[2].values}
    assert [(key, value, curves.get(key)) for key, value in whole[2].values.items() if value != curves.get(key)] == []
    assert curves.keys() == whole[2].values.keys()
    assert same(whole[0].state_dict(), resumed[0].state_dict())
    assert same(whole[1].optimizers[0].state_dict(), resumed[1].optimizers[0].state_dict())
    assert same(whole[1].lr_scheduler_configs[0].scheduler.state_dict(), schedule(resumed[1]))
    assert whole[1].global_step == resumed[1].global_step
    assert whole[1].current_epoch == resumed[1].current_epoch


def schedule(trainer: Trainer) -> dict[str, Any]:
    return trainer.lr_scheduler_configs[0].scheduler.state_dict()  # type: ignore[no-any-return]


def checkpoint_of(folder: Path) -> Path:
    return max(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)


FAULTS = [
    ("on_train_batch_start", 11, 5),  # step 6, first micro-batch
    ("on_before_backward", 11, 5),  # with the rollouts of the step sampled
    ("on_train_batch_start", 12, 5),  # second micro-batch
    ("on_before_backward", 12, 5),
    ("on_after_backward", 12, 5),
    ("on_validation_batch_start", 3, 8),  # in the middle of the second validation
    ("on_validation_batch_end", 4, 8),
    ("on_validation_epoch_end", 2, 8),
    ("on_train_epoch_end", 1, 4),
    ("on_train_epoch_start", 2, 4),
    ("on_train_batch_start", 9, 4),  # first micro-batch of an epoch
    ("on_before_backward", 10, 4),
]
"""Hook, at which call it raises, and the optimizer step that the checkpoint is of."""


@pytest.mark.parametrize("options", [{}, {"max_steps": -1}], ids=["steps", "epochs"])
@pytest.mark.parametrize(("hook", "number", "step"), FAULTS)
def test_run_that_ends_anywhere_resumes_exactly(
    hook: str, number: int, step: int, options: dict[str, Any], fit: Fit, tmp_path: Path
) -> None:
    whole = fit("whole", **options)
    before = interrupt(fit, Fault(hook, number), **options)
    checkpoint = checkpoint_of(tmp_path / "interrupted")
    assert load_checkpoint(checkpoint)["global_step"] == step
    assert_same_run(whole, fit("resumed", ckpt_path=checkpoint, **options), before)
