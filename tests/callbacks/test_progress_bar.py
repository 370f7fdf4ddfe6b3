from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from lightning.pytorch import Callback
from rich.console import Console
from rich.progress import Progress, TextColumn

from lightning_sdft.callbacks import PhaseProgressBar, progress_bar
from lightning_sdft.callbacks.progress_bar import PhaseColumn
from lightning_sdft.modules import CausalLMModule, SDFTModule, SFTModule
from lightning_sdft.teacher import EMATeacher


def test_column_shows_the_phase_of_unfinished_tasks_in_constant_width() -> None:
    column = PhaseColumn()
    column.phase = "rollout"
    progress = Progress(TextColumn("x"), console=Console(quiet=True))
    for count in (1, 2):
        progress.update(progress.add_task("", total=2), completed=count)
    going, done = progress.tasks
    assert column.render(going).plain == "rollout "
    assert column.render(done).plain == " " * 8


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
