"""Whatever ends a run, the checkpoint that it leaves resumes to the run that was never interrupted, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_sdft.checkpoint import ExactResume, load_checkpoint
from lightning_sdft.errors import CheckpointError
from lightning_sdft.modules import SFTModule
from lightning_sdft.teacher import EMATeacher
from tests.checkpoint.interruption import (
    Curves,
    Fault,
    FaultError,
    Fit,
    Keep,
    Run,
    assert_same_run,
    fit,
    interrupt,
    newest,
    whole,
)

__all__ = ["fit", "whole"]

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


EPOCHS: dict[str, Any] = {"max_steps": -1}
STEPPED: dict[str, Any] = {}
OFTEN: dict[str, Any] = {"val_check_interval": 4}


@pytest.mark.parametrize(
    ("hook", "number", "step", "options"),
    [*((*fault, STEPPED) for fault in FAULTS), *((*fault, EPOCHS) for fault in FAULTS[5:9])],
)
def test_run_that_ends_anywhere_resumes_exactly(
    hook: str, number: int, step: int, options: dict[str, Any], fit: Fit, whole: Callable[..., Run], tmp_path: Path
) -> None:
    before = interrupt(fit, Fault(hook, number), **options)
    checkpoint = newest(tmp_path / "interrupted")
    assert load_checkpoint(checkpoint)["global_step"] == step
    assert_same_run(whole(**options), fit("resumed", ckpt_path=checkpoint, **options), before)


@pytest.mark.parametrize(
    ("hook", "number"),
    [("on_validation_batch_start", 4), ("on_validation_epoch_end", 3), ("on_train_batch_start", 5)],
)
def test_with_several_validations_per_epoch(
    hook: str, number: int, fit: Fit, whole: Callable[..., Run], tmp_path: Path
) -> None:
    before = interrupt(fit, Fault(hook, number), **OFTEN)
    resumed = fit("resumed", ckpt_path=newest(tmp_path / "interrupted"), **OFTEN)
    assert_same_run(whole(**OFTEN), resumed, before)


SAVES: list[tuple[dict[str, Any], str, int]] = [
    ({"every_n_train_steps": 4}, "on_validation_start", 1),  # killed when a checkpoint is there and validation is not
    ({"every_n_train_steps": 5}, "after_save", 1),  # before loggers got the losses of the step
    ({"every_n_train_steps": 3}, "on_train_batch_start", 9),
    ({"save_on_train_epoch_end": False}, "on_train_epoch_end", 2),  # written at the end of the validation
    ({"save_on_train_epoch_end": True}, "on_train_batch_start", 10),
]
"""When ModelCheckpoint saves, and where a run is killed after that."""


@pytest.mark.parametrize("options", [STEPPED, EPOCHS], ids=["steps", "epochs"])
@pytest.mark.parametrize(("save", "hook", "number"), SAVES)
def test_checkpoints_that_lightning_writes_by_itself_resume_exactly(
    save: dict[str, Any],
    hook: str,
    number: int,
    options: dict[str, Any],
    fit: Fit,
    whole: Callable[..., Run],
    tmp_path: Path,
) -> None:
    save = {**save, "save_on_exception": False}
    before = interrupt(fit, Fault(hook, number), save=save, **options)
    resumed = fit("resumed", ckpt_path=newest(tmp_path / "interrupted"), **options)
    assert_same_run(whole(**options), resumed, before)


def test_a_run_that_ended_goes_on_when_it_may_take_more_steps(
    fit: Fit, whole: Callable[..., Run], tmp_path: Path
) -> None:
    _, trainer, before = fit("interrupted", max_steps=6, warmup_steps=100)  # a schedule that does not know the end
    trainer.save_checkpoint(tmp_path / "ended.ckpt")
    resumed = fit("resumed", ckpt_path=tmp_path / "ended.ckpt", warmup_steps=100)
    assert_same_run(whole(warmup_steps=100), resumed, before)


def test_a_resumed_run_that_ends_in_its_first_step_resumes_exactly(
    fit: Fit, whole: Callable[..., Run], tmp_path: Path
) -> None:
    before = interrupt(fit, Fault("on_before_backward", 12))
    with pytest.raises(FaultError):
        fit("again", Fault("on_before_backward", 2), ckpt_path=newest(tmp_path / "interrupted"))
    checkpoint = newest(tmp_path / "again")
    assert load_checkpoint(checkpoint)["global_step"] == 5
    assert_same_run(whole(), fit("resumed", ckpt_path=checkpoint), before)


@pytest.mark.parametrize("options", [STEPPED, EPOCHS], ids=["steps", "epochs"])
def test_a_run_that_ends_behind_one_epoch_and_another_resumes_exactly(
    options: dict[str, Any], fit: Fit, whole: Callable[..., Run], tmp_path: Path
) -> None:
    before = interrupt(fit, Fault("on_train_batch_start", 9), **options)
    with pytest.raises(FaultError):
        fit(
            "again",
            Fault("on_train_batch_start", 9),
            Keep(before),
            ckpt_path=newest(tmp_path / "interrupted"),
            **options,
        )
    checkpoint = newest(tmp_path / "again")
    assert load_checkpoint(checkpoint)["global_step"] == 8
    assert_same_run(whole(**options), fit("resumed", ckpt_path=checkpoint, **options), before)


# What is not saved


class BrokenOptimizer(Callback):
    """An optimizer whose fourth step fails when the weights have changed."""

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        def fail(*_: Any) -> None:
            if trainer.global_step == 3:
                raise FaultError

        trainer.optimizers[0].register_step_post_hook(fail)


class BrokenTeacher(Callback):
    """Lets the fourth update of the teacher fail."""

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        (ema,) = (each for each in trainer.callbacks if isinstance(each, EMATeacher))  # type: ignore[attr-defined]
        ema.update = self.update

    def update(self, trainer: Trainer, module: Any) -> None:
        if trainer.global_step == 4:
            raise FaultError


@pytest.mark.parametrize("fault", [BrokenOptimizer(), BrokenTeacher()], ids=["optimizer", "teacher"])
def test_in_the_middle_of_an_optimizer_step_nothing_is_saved(fault: Callback, fit: Fit, tmp_path: Path) -> None:
    interrupt(fit, fault, save={"every_n_train_steps": 2})
    assert load_checkpoint(newest(tmp_path / "interrupted"))["global_step"] == 2


def test_what_the_disk_did_not_take_is_not_tried_again(
    fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def full(*_: Any) -> None:
        tries.append(1)
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", full)
    interrupt(fit, Keep(Curves()), CheckpointError, save={"every_n_train_steps": 2})
    assert len(tries) == 1
    assert not list((tmp_path / "interrupted").iterdir())


@pytest.mark.parametrize(("error", "saved"), [(FaultError(), False), (SIGTERMException(), True)])
def test_several_processes_save_what_all_of_them_end_with(error: BaseException, saved: bool) -> None:
    callback, checkpoints = ExactResume(), ModelCheckpoint(save_on_exception=True)
    callback._loops = {}
    for processes in (1, 2):
        trainer = SimpleNamespace(world_size=processes, checkpoint_callbacks=[checkpoints])
        callback.on_exception(trainer, torch.nn.Linear(1, 1), error)  # type: ignore[arg-type]
        assert checkpoints.save_on_exception is (saved or processes == 1)


# With other numbers of micro-batches and processes


@pytest.mark.parametrize(("before", "after"), [(2, 4), (4, 1)])
@pytest.mark.parametrize("steps_per_validation", [2, 4])
def test_goes_on_in_micro_batches_of_another_size(
    before: int, after: int, steps_per_validation: int, double: None, fit: Fit, tmp_path: Path
) -> None:
    """Equal up to rounding, which is why this is not about rollouts: they may turn on it."""

    def options(size: int) -> dict[str, Any]:
        interval = steps_per_validation * 4 // size
        return {"micro_batch_size": size, "method": SFTModule, "val_check_interval": interval}

    interrupt(fit, Fault("on_train_batch_start", 4 // before * 5 + 1), **options(before))
    checkpoint = newest(tmp_path / "interrupted")
    assert load_checkpoint(checkpoint)["global_step"] == 5
    expected, _, curves = fit("whole", **options(after))
    resumed, _, later = fit("resumed", ckpt_path=checkpoint, **options(after))
    state = resumed.state_dict()
    assert all(torch.allclose(value, state[name], atol=1e-8) for name, value in expected.state_dict().items())
    # The step before the interruption too, which is logged again.
    behind = {key: value for key, value in curves.values.items() if key[1] is not None and key[1] >= 4}
    assert later.values == pytest.approx(behind, abs=1e-5)


def test_another_number_of_processes_goes_on_with_the_generator_of_the_first(make_trainer: Any) -> None:
    torch.manual_seed(3)
    first, own = ({"cpu": torch.Generator().manual_seed(seed).get_state()} for seed in (1, 2))
    for ranks, seed in (([own], 2), ([first, own], 1)):
        callback = ExactResume()
        state = {"ranks": ranks, "accumulated": 1, "validation_due": False, "logged": {}}
        batches = {kind: dict.fromkeys(("ready", "completed"), 0) for kind in ("total", "current")}
        loops = {"fit_loop": {"epoch_loop.batch_progress": batches}}
        checkpoint = {"callbacks": {callback.state_key: state}, "loops": loops}
        callback.on_load_checkpoint(make_trainer(), None, checkpoint)  # type: ignore[arg-type]
        callback.on_train_start(make_trainer(), None)  # type: ignore[arg-type]
        assert torch.equal(torch.rand(4), torch.rand(4, generator=torch.Generator().manual_seed(seed)))


# Callbacks of one's own that save


class Save(Callback):
    """Saves in a hook, the n-th time that it is called, and ends the run."""

    def __init__(self, hook: str, number: int, path: Path) -> None:
        def save(trainer: Trainer, *_: Any, **__: Any) -> None:
            self.calls += 1
            if self.calls == number:
                trainer.save_checkpoint(path)
                raise FaultError

        self.calls = 0
        setattr(self, hook, save)


@pytest.mark.parametrize(
    ("hook", "number", "options"),
    [
        ("on_train_batch_end", 10, STEPPED),  # of step 5
        ("on_train_batch_end", 11, STEPPED),  # in the middle of the group of step 6
        ("on_train_batch_end", 8, STEPPED),  # of the last step of an epoch
        ("on_before_zero_grad", 6, STEPPED),
        ("on_validation_end", 1, STEPPED),
        ("on_train_epoch_end", 1, STEPPED),
        ("on_validation_end", 2, {"val_check_interval": 3}),  # in the middle of a group
        ("on_train_batch_start", 4, {"val_check_interval": 3}),
    ],
)
def test_whichever_callback_saves_the_run_resumes_exactly(
    hook: str, number: int, options: dict[str, Any], fit: Fit, whole: Callable[..., Run], tmp_path: Path
) -> None:
    """The callback stands before all that have a state: the teacher's and the one that resumes."""
    before = interrupt(fit, Save(hook, number, tmp_path / "own.ckpt"), save={"save_on_exception": False}, **options)
    resumed = fit("resumed", ckpt_path=tmp_path / "own.ckpt", **options)
    assert_same_run(whole(**options), resumed, before)


def test_a_checkpoint_in_the_middle_of_a_step_is_refused_by_the_hook(fit: Fit, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be saved between on_before_optimizer_step and on_train_batch_"):
        fit("interrupted", Save("on_before_optimizer_step", 3, tmp_path / "own.ckpt"))
    assert not (tmp_path / "own.ckpt").exists()
