from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_sdft.commands import before_fit
from lightning_sdft.commands.before_fit import settle_micro_batches
from lightning_sdft.commands.fit import main
from lightning_sdft.errors import PolicyError
from lightning_sdft.memory import Room
from lightning_sdft.modules import SFTModule
from tests.modules.conftest import make_trainer, words_data, words_module

__all__ = ["make_trainer", "words_data", "words_module"]

CPU = {"accelerator": "cpu", "devices": 1}


@pytest.fixture
def settled(
    words_module: Callable[..., Any],
    words_data: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Any]:
    """The micro-batch size of a model that does not count as small, with so much memory."""

    def settle(size: int | None = None, small: int = 0, memory: int = 2**40, **trainer: Any) -> Any:
        monkeypatch.setattr(before_fit, "SMALL", small)
        monkeypatch.setattr(before_fit, "room", lambda *_: Room(memory, memory))
        data = words_data(batch_size=4, micro_batch_size=size)
        settle_micro_batches(words_module(SFTModule), data, {**CPU, **trainer})
        return data.micro_batch_size

    return settle


def test_it_is_chosen_and_said(settled: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        assert settled() == 4
    assert "GiB at the peak of training, of 1024.0 GiB that are free, with micro-batches of 4 (chosen" in caplog.text


def test_what_is_typed_stays(settled: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        assert settled(size=2) == 2
    assert "with micro-batches of 2" in caplog.text
    assert "chosen" not in caplog.text
    assert settled(accumulate_grad_batches=2) is None  # then the data module says what does not go together


def test_a_small_model_is_not_estimated(settled: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        assert settled(small=2**40, memory=1) is None
    assert "GiB" not in caplog.text


def test_what_cannot_fit_is_refused(settled: Callable[..., Any]) -> None:
    with pytest.raises(PolicyError, match="is all that there is for a process"):
        settled(memory=1)


def test_an_estimate_that_fails_does_not_keep_a_run_from_starting(
    settled: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(before_fit, "fitting", fails)
    with pytest.warns(UserWarning, match="could not be estimated: RuntimeError: no such kernel"):
        assert settled() is None


def test_trainers_that_it_does_not_know_are_left_to_lightning(settled: Callable[..., Any]) -> None:
    assert settled(strategy="unheard of", devices=2) is None


def test_what_is_chosen_stands_in_the_config_that_the_run_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lightning-sdft"])
    monkeypatch.setattr(before_fit, "SMALL", 0)
    options = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--trainer.enable_progress_bar=false"]
    main(["fit", "--config", "laptop_sft", "--data.init_args.batch_size=8", *options])
    (config,) = tmp_path.rglob("config.yaml")
    assert yaml.safe_load(config.read_text())["data"]["init_args"]["micro_batch_size"] == 8
