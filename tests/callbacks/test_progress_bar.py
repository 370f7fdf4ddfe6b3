from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.progress import Progress, TextColumn

from lightning_sdft.callbacks import PhaseProgressBar, progress_bar
from lightning_sdft.callbacks.progress_bar import PhaseColumn
from lightning_sdft.modules import CausalLMModule, SDFTModule, SFTModule
from lightning_sdft.teacher import EMATeacher


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_bar, "is_terminal", lambda: True)


def test_column_shows_the_phase_of_unfinished_tasks_in_constant_width() -> None:
    column = PhaseColumn()
    column.phase = "rollout"
    progress = Progress(TextColumn("x"), console=Console(quiet=True))
    for count in (1, 2):
        progress.update(progress.add_task("", total=2), completed=count)
    going, done = progress.tasks
    assert column.render(going).plain == "rollout "
    assert column.render(done).plain == " " * 8


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(
    ("method", "phases"),
    [
        (SFTModule, ["student", "backward"] * 2),
        (SDFTModule, ["rollout", "teacher", "student", "backward", "teacher", "student", "backward"]),
    ],
)
def test_phases_of_a_step_are_shown_as_they_begin(
    method: type[CausalLMModule],
    phases: list[str],
    words_module: Callable[..., CausalLMModule],
    words_data: Any,
    make_trainer: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(progress_bar, "SECONDS_BETWEEN_REFRESHES", -1)
    shown: list[str] = []

    class Bar(PhaseProgressBar):
        def refresh(self, hard: bool = False) -> None:
            super().refresh(hard)
            if self._column.phase:
                shown.append(self._column.phase)

    bar, module = Bar(), words_module(method)
    callbacks = [bar, *([EMATeacher()] if method is SDFTModule else [])]
    trainer = make_trainer(callbacks=callbacks, enable_progress_bar=True, max_steps=2)
    trainer.fit(module, datamodule=words_data())
    assert [phase for phase, previous in zip(shown, ["", *shown], strict=False) if phase != previous] == phases * 2
    assert module.clock.listener is None
    assert "Epoch" in capsys.readouterr().out


@pytest.mark.usefixtures("terminal")
def test_bars_of_evaluations_that_are_over_are_forgotten(make_module: Any, make_data: Any, make_trainer: Any) -> None:
    bar, kept, shown = PhaseProgressBar(), [], []

    class Count(Callback):
        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            assert bar.progress is not None
            kept.append([task.description for task in bar.progress.tasks])
            bar.progress.get_renderable()
            shown.append(set(bar._column._renderable_cache))

    options = {"max_steps": 12, "limit_val_batches": 1, "num_sanity_val_steps": 1, "enable_progress_bar": True}
    trainer = make_trainer(callbacks=[bar, Count()], **options)
    trainer.fit(make_module(SFTModule), datamodule=make_data())
    sanity, *later = map(len, kept)
    assert sanity == 1  # the bar that is still shown
    assert later == [1, 1, 1]
    assert all(len(each) == 1 for each in shown)
    assert all("Epoch" in descriptions[0] for descriptions in kept[1:])
    trainer.validate(trainer.lightning_module, datamodule=make_data(), verbose=False)


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(("limits", "epochs"), [({"max_steps": 2}, {"Epoch 0"}), ({"max_epochs": 1}, {"Epoch 0/0"})])
def test_the_bar_says_when_the_run_ends_and_no_epoch_that_there_is_not(
    limits: dict[str, int], epochs: set[str], make_module: Any, make_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    class Bar(PhaseProgressBar):
        seen: ClassVar[list[dict[str, Any]]] = []

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
            super().on_train_batch_end(trainer, pl_module, *rest)
            assert self.progress is not None
            names = {each.description.strip() for each in self.progress.tasks}
            self.seen.append({"names": names, **self.get_metrics(trainer, pl_module)})

    logger = TensorBoardLogger(tmp_path, default_hp_metric=False)
    options = {"enable_progress_bar": True, "logger": logger, "max_steps": -1, **limits}
    make_trainer(callbacks=[bar := Bar()], **options).fit(make_module(SFTModule), datamodule=make_data())
    assert all(each["names"] == epochs for each in bar.seen)
    assert "v_num" not in bar.seen[-1]
    assert ":" in bar.seen[1]["ends at"]


def test_lines_instead_of_a_bar_where_none_can_move(
    make_module: Any, make_data: Any, make_trainer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make_trainer(callbacks=[bar := PhaseProgressBar()], enable_progress_bar=True, max_steps=2)
    trainer.fit(make_module(SFTModule), datamodule=make_data())
    assert bar.progress is None
    out = capsys.readouterr().out
    assert "step 1 of 2 (50%): loss " in out
    assert "Epoch" not in out
    bar.disable()
    assert not bar.is_enabled
    trainer.validate(trainer.lightning_module, datamodule=make_data(), verbose=False)
    assert capsys.readouterr().out == ""
    bar.enable()
    trainer.limit_test_batches = 1.0
    trainer.test(trainer.lightning_module, datamodule=make_data(), verbose=False)
    assert "test: 1 of 8 batches (12%), ends at" in capsys.readouterr().out
