from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Timer

from lightning_sdft.callbacks import PhaseProgressBar
from lightning_sdft.callbacks.run_lines import RunLines
from lightning_sdft.modules import CausalLMModule, SDFTModule, SFTModule
from lightning_sdft.progress import at_clock, pace

Lines = Callable[..., list[str]]


@pytest.fixture
def run_lines(
    words_module: Any,
    words_data: Any,
    make_trainer: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Lines:
    """Trains for up to eight optimizer steps of two micro-batches each, and returns the lines."""
    monkeypatch.setattr(pace, "SHORTEST", 0.0)

    def run(method: type[CausalLMModule] = SFTModule, ckpt_path: str | None = None, **options: Any) -> list[str]:
        callbacks = [PhaseProgressBar(), *options.pop("callbacks", [])]
        trainer = make_trainer(callbacks=callbacks, enable_progress_bar=True, **{"max_steps": 8, **options})
        trainer.fit(words_module(method), datamodule=words_data(), ckpt_path=ckpt_path)
        return capsys.readouterr().out.splitlines()

    return run


def steps(lines: list[str]) -> list[str]:
    return [line.split(":")[0] for line in lines if line.startswith("step ")]


def test_a_line_for_each_step_of_a_short_run_and_none_for_micro_batches(run_lines: Lines) -> None:
    lines = run_lines()
    assert steps(lines) == [f"step {step} of 8 ({step / 8:.0%})" for step in range(1, 9)]
    assert re.fullmatch(r"step 1 of 8 \(12%\): loss [\d.]+, \d\.\d\d s a step, ends at .*\d\d:\d\d", lines[0])
    assert "ends at" not in lines[-1]


def test_of_sdft_the_divergence_and_the_rollouts_too(run_lines: Lines) -> None:
    line = run_lines(SDFTModule, max_steps=1)[0]
    assert re.fullmatch(
        r"step 1 of 1 \(100%\): loss [\d.]+, KL [\d.]+, rollouts \d tokens, \d+% cut, .* s a step", line
    )


def test_values_are_means_since_the_last_line(run_lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    class Losses(Callback):
        def __init__(self) -> None:
            self.values: list[float] = []

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if batch.is_last:
                self.values.append(trainer.callback_metrics["train/loss"].item())

    monkeypatch.setattr(pace, "SHARE", 0.5)
    lines = run_lines(callbacks=[losses := Losses()])
    assert steps(lines) == ["step 1 of 8 (12%)", "step 4 of 8 (50%)", "step 8 of 8 (100%)"]
    shown = [float(re.findall(r"loss ([\d.]+)", line)[0]) for line in lines if line.startswith("step")]
    first, second = sum(losses.values[1:4]) / 3, sum(losses.values[4:]) / 4
    assert shown == pytest.approx([losses.values[0], first, second], rel=0.01)


def test_epochs_say_how_many_steps_there_are(run_lines: Lines) -> None:
    assert steps(run_lines(max_epochs=2, max_steps=-1))[-1] == "step 8 of 8 (100%)"
    assert steps(run_lines(max_epochs=2, max_steps=6))[-1] == "step 6 of 6 (100%)"


def test_a_run_that_is_resumed_goes_on_counting(run_lines: Lines, tmp_path: Path) -> None:
    class Save(Callback):
        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            trainer.save_checkpoint(tmp_path / "five.ckpt")

    run_lines(max_steps=5, callbacks=[Save()])
    lines = steps(run_lines(ckpt_path=str(tmp_path / "five.ckpt")))
    assert lines == ["step 6 of 8 (75%)", "step 7 of 8 (88%)", "step 8 of 8 (100%)"]


def test_a_run_that_ends_by_the_clock_says_the_share_of_its_time(run_lines: Lines) -> None:
    class End(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
            trainer.should_stop = trainer.global_step >= 3

    class Nearly(Timer):
        def time_elapsed(self, *stage: Any) -> float:
            return 9 * 3600.0

    limits = {"max_steps": -1, "max_epochs": -1, "callbacks": [Nearly(timedelta(hours=10)), End()]}
    lines = run_lines(**limits)
    assert steps(lines) == ["step 1 (90%)"]
    assert f"ends at {at_clock(3600)}"[:-3] in lines[0]


def test_the_end_counts_the_validations_to_come() -> None:
    class Run:
        """Twelve steps in three epochs of eight micro-batches, a validation after each."""

        estimated_stepping_batches = 12
        val_check_batch = 8
        check_val_every_n_epoch = 1
        accumulate_grad_batches = 2
        num_val_batches = (3,)
        callbacks: tuple[Callback, ...] = ()

    def left(step: int, seconds: float = 2.0, **known: Any) -> float | None:
        lines = RunLines()
        lines._first, lines._step, lines._each = 0, step, seconds
        vars(lines).update(known)
        return lines.seconds_left(Run())  # type: ignore[arg-type]

    assert left(0) is None
    assert left(1, _sanity=100.0) == 11 * 2 + 3 * 100
    assert left(4, _sanity=100.0) == 8 * 2 + 3 * 100  # the validation after step 4 is still to come
    assert left(5, _sanity=100.0, _evaluated=90.0, _validations=1) == 7 * 2 + 2 * 90
    assert left(12, _evaluated=270.0, _validations=3) == 90


def test_validations_say_what_they_found(
    make_module: Any, make_data: Any, make_trainer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make_trainer(
        callbacks=[PhaseProgressBar()],
        enable_progress_bar=True,
        max_steps=4,
        limit_val_batches=1.0,
        num_sanity_val_steps=-1,
    )
    trainer.fit(make_module(SFTModule), datamodule=make_data())
    found = [line for line in capsys.readouterr().out.splitlines() if line.startswith("validation")]
    assert [line.split(":")[0] for line in found] == ["validation before training", "validation at step 4"]
    assert re.search(r": val/accuracy \d.\d{3}, prior/average \d.\d{3}, .* s$", found[0])
