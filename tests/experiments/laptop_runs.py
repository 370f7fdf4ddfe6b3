"""Experiments of a few steps on the laptop model, by the command line, and callbacks that look into their runs."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_sdft.checkpoint import Preemption
from lightning_sdft.cli import entry_point
from lightning_sdft.data.templates import LAPTOP_TEMPLATE
from tests.command_process import CommandProcess
from tests.launch import preload

WEIGHTS_OF_BEST = {"monitor": "val/accuracy", "mode": "max", "save_weights_only": True}
BEST = {"class_path": "ModelCheckpoint", "init_args": WEIGHTS_OF_BEST}
BUDGETS = {"max_prompt_tokens": 16, "max_completion_tokens": 24}
TEACHER = {"max_teacher_prompt_tokens": 64, "teacher_template": LAPTOP_TEMPLATE, "skip_tokens": 0}
SIZES = {"train_size": 32, "validation_size": 16, "test_size": 16, "prior_size": 2, "batch_size": 8}


def part(method: str = "SFTModule", data: dict[str, Any] | None = None, **trainer: Any) -> dict[str, Any]:
    """Four steps, of which the second and the fourth are validated."""
    model = {"model": "zoo/laptop", **BUDGETS, **(TEACHER if method == "SDFTModule" else {})}
    if method == "ReinvokeModule":
        model |= {"teacher": {"model": "zoo/laptop"}, "max_teacher_prompt_tokens": 16}
    return {
        "model": {"class_path": method, "init_args": model},
        "data": {"class_path": "StringSkillsDataModule", "init_args": {"skill": "{domain}", **SIZES, **(data or {})}},
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 4,
            "val_check_interval": 2,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
            "gradient_clip_val": None,  # so that high learning rates do harm
            "callbacks": [BEST],
            **trainer,
        },
    }


class Beginning(Callback):
    """Keeps what training starts from, beside the logs."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert trainer.log_dir is not None
        content = {
            "state": pl_module.state_dict(),
            "optimizer": trainer.optimizers[0].state_dict()["state"],
            "rate": trainer.optimizers[0].param_groups[0]["lr"],
            "step": trainer.global_step,
        }
        torch.save(content, Path(trainer.log_dir) / "beginning.pt")


class Pause(Callback):
    """Waits to be killed, while there is a file, as soon as two steps are made."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 2 and self.file.exists():
            assert trainer.log_dir is not None
            self.file.write_text(trainer.log_dir)
            time.sleep(600)


class SignalTo(Callback):
    """Sends SIGTERM to a process as soon as two steps are made, and waits until it gets one itself."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 2:
            os.kill(self.pid, signal.SIGTERM)
            (own,) = (each for each in trainer.callbacks if isinstance(each, Preemption))  # type: ignore[attr-defined]
            wait_for(lambda: own._stop)


class Until(Callback):
    """Does not begin to train before another run has left a file."""

    def __init__(self, file: str, seconds: float = 120) -> None:
        self.file = Path(file)
        self.seconds = seconds

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        wait_for(self.file.exists, self.seconds)


def callback(name: str, **arguments: Any) -> dict[str, Any]:
    """A callback of this file as a part."""
    return {
        "trainer": {"callbacks+": [{"class_path": f"tests.experiments.laptop_runs.{name}", "init_args": arguments}]}
    }


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    """The console script in this process."""
    preload()
    with monkeypatch.context() as patch:
        patch.setattr("sys.argv", ["lightning-sdft", *map(str, arguments)])
        entry_point()


@contextmanager
def process(*arguments: object) -> Iterator[CommandProcess]:
    """The console script in processes of its own, of which nothing is left afterwards."""
    started = CommandProcess(*arguments)
    try:
        yield started
    finally:
        started.kill()


def wait_for(condition: Callable[[], Any], seconds: float = 400) -> None:
    """Look until it has come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def write(path: Path, content: Any) -> Path:
    """A config file."""
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def results(out: Path) -> list[dict[str, Any]]:
    """The rows of ``results.json`` without what differs from time to time."""
    rows: list[dict[str, Any]] = json.loads((out / "results.json").read_text())
    for row in rows:
        if row["error"] is None:
            assert row.pop("seconds") > 0
            assert row.pop("peak_memory") > 0
    return rows


def outcomes(out: Path) -> dict[Path, tuple[int, bytes]]:
    """When each run ended, and with what."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.rglob("outcome.json")}


def weights(state: dict[str, Any], prefix: str = "policy.model.") -> dict[str, torch.Tensor]:
    """The weights of a policy among those of a module."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether all weights that both have are equal to the last bit; tied ones may have one name."""
    names = one.keys() & other.keys()
    return len(names) > 30 and all(torch.equal(one[name], other[name]) for name in names)
