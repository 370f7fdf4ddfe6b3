"""Good states are checkpoints: a run goes back to the newest that is there, and keeps two."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_sdft.callbacks.good_states import GoodStates
from lightning_sdft.errors import CheckpointError
from lightning_sdft.modules import SDFTModule
from lightning_sdft.policy.lora import LoRA
from lightning_sdft.teacher import EMATeacher
from tests.teacher.test_ema_teacher import student_weights, teacher_weights


def states(trainer: Any, module: Any) -> dict[str, dict[str, Any]]:
    """The weights of student and teacher, and the state of the optimizer."""
    (optimizer,) = trainer.optimizers
    moments = {f"{key}/{name}": value for key, each in optimizer.state.items() for name, value in each.items()}
    weights = {"student": {"all": student_weights(module)}, "teacher": {"all": teacher_weights(module)}}
    return deepcopy({**weights, "optimizer": moments})


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Acts(Callback):
    """Does things before steps, and keeps what the states were before and after."""

    def __init__(self, good: GoodStates, **acts: Callable[[GoodStates, Any, Any], Any]) -> None:
        self.good = good
        self.acts = acts
        self.before: dict[int, dict[str, dict[str, Any]]] = {}
        self.after: dict[int, dict[str, dict[str, Any]]] = {}

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if batch.index == 0:
            self.before[step] = states(trainer, pl_module)
            if f"at_{step}" in self.acts:
                self.acts[f"at_{step}"](self.good, trainer, pl_module)
            self.after[step] = states(trainer, pl_module)


def save(good: GoodStates, trainer: Any, module: Any) -> None:
    good.save(trainer)


def restore(good: GoodStates, trainer: Any, module: Any) -> None:
    good.restore(trainer, module)


@pytest.fixture
def fit(words_module: Any, words_data: Any, make_trainer: Any) -> Callable[..., GoodStates]:
    """Trains for six steps, with acts before some of them."""

    def fit(acts: Acts, lora: LoRA | None = None, **arguments: Any) -> GoodStates:
        callbacks = [EMATeacher(0.1), acts, *arguments.pop("callbacks", [])]
        trainer = make_trainer(callbacks=callbacks, max_epochs=2, **arguments)
        trainer.fit(words_module(SDFTModule, lora=lora), datamodule=words_data())
        return acts.good

    return fit


@pytest.mark.parametrize("lora", [None, LoRA(rank=2, modules_to_save=["norm"])])
def test_student_teacher_and_optimizer_become_what_they_were_and_training_goes_on(
    lora: LoRA | None, fit: Callable[..., GoodStates]
) -> None:
    acts = Acts(GoodStates(), at_1=save, at_2=save, at_4=restore)
    fit(acts, lora)
    for name, restored in acts.after[4].items():
        assert equal(restored, acts.before[2][name]), name
        assert not equal(acts.before[4][name], acts.before[2][name]), name
        assert not equal(acts.before[5][name], restored), name


def test_settings_of_the_optimizer_that_were_typed_stay(fit: Callable[..., GoodStates]) -> None:
    def change(good: GoodStates, trainer: Any, module: Any) -> None:
        trainer.optimizers[0].param_groups[0]["weight_decay"] = 0.25
        good.restore(trainer, module)
        assert trainer.optimizers[0].param_groups[0]["weight_decay"] == 0.25

    acts = Acts(GoodStates(), at_2=save, at_4=change)
    fit(acts)
    assert 4 in acts.after


def test_two_are_kept_beside_the_checkpoints_of_the_run(fit: Callable[..., GoodStates], tmp_path: Path) -> None:
    folder = tmp_path / "own"
    saves = ModelCheckpoint(folder, filename="best")
    good = fit(Acts(GoodStates(), at_1=save, at_2=save, at_4=save), callbacks=[saves], enable_checkpointing=True)
    assert good.paths == [str(folder / f"good-step{step:06d}.ckpt") for step in (2, 4)]
    assert {path.name for path in folder.glob("good-*")} == {"good-step000002.ckpt", "good-step000004.ckpt"}


def test_one_step_is_kept_once_and_without_checkpoints_of_the_run_there_is_a_folder(
    fit: Callable[..., GoodStates], tmp_path: Path
) -> None:
    def save_twice(good: GoodStates, trainer: Any, module: Any) -> None:
        good.save(trainer)
        good.save(trainer)

    good = fit(Acts(GoodStates(), at_1=save, at_2=save_twice))
    assert good.paths == [str(tmp_path / "checkpoints" / f"good-step{step:06d}.ckpt") for step in (1, 2)]
    assert all(Path(path).exists() for path in good.paths)


def test_if_the_newest_is_gone_the_one_before_it_counts(fit: Callable[..., GoodStates]) -> None:
    def lose_and_restore(good: GoodStates, trainer: Any, module: Any) -> None:
        Path(good.paths[-1]).unlink()
        assert good.restore(trainer, module) == good.paths[0]

    acts = Acts(GoodStates(), at_1=save, at_2=save, at_4=lose_and_restore)
    fit(acts)
    assert all(equal(restored, acts.before[1][name]) for name, restored in acts.after[4].items())


def test_if_all_are_gone_that_is_said(fit: Callable[..., GoodStates]) -> None:
    def lose_all_and_restore(good: GoodStates, trainer: Any, module: Any) -> None:
        for path in good.paths:
            Path(path).unlink()
        good.restore(trainer, module)

    with pytest.raises(CheckpointError, match=r"cannot go back: none of \['.*good-step000002\.ckpt'\] exists; restore"):
        fit(Acts(GoodStates(), at_2=save, at_4=lose_all_and_restore))


def test_a_run_that_goes_on_knows_its_good_states() -> None:
    good, other = GoodStates(), GoodStates()
    good.paths = ["a.ckpt", "b.ckpt"]
    state = good.state_dict()
    good.paths.append("c.ckpt")
    other.load_state_dict(state)
    assert other.paths == ["a.ckpt", "b.ckpt"]
