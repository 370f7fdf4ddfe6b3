"""Real runs of the command line that are killed and go on: how they are started, killed and compared."""

from __future__ import annotations

import math
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import torch
import yaml
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch import distributed
from torch.distributed.checkpoint import TensorStorageMetadata

from lightning_sdft.checkpoint import load_checkpoint
from lightning_sdft.checkpoint.resume import newest_whole
from lightning_sdft.data.templates import LAPTOP_TEMPLATE
from lightning_sdft.distributed.sharded_checkpoint import check_sharded, is_sharded
from tests.command_process import CommandProcess
from tests.faults.phase import read

STEPS = 24
EVERY = 3
"""Optimizer steps between two checkpoints."""

MODEL: dict[str, Any] = {
    "model": "zoo/laptop",
    "learning_rate": 3e-4,
    "warmup_steps": 4,
    "max_prompt_tokens": 16,
    "max_completion_tokens": 24,
    "max_teacher_prompt_tokens": 64,
    "teacher_template": LAPTOP_TEMPLATE,
    "skip_tokens": 0,
}
SIZES = {"train_size": 64, "validation_size": 4, "test_size": 4, "prior_size": 2, "batch_size": 8}


def config(
    folder: Path, processes: int = 1, strategy: str = "ddp", method: str = "SDFTModule", **trainer: Any
) -> dict[str, Any]:
    """The laptop model, in micro-batches of two, three optimizer steps from checkpoint to checkpoint."""
    model = MODEL
    if method != "SDFTModule":  # means over sequences, so that it does not matter which process has the longer ones
        model = {name: MODEL[name] for name in list(MODEL)[:5]} | {"reduction": "sequence"}
    teacher = [{"class_path": "EMATeacher", "init_args": {"teacher_rate": 0.05}}] if method == "SDFTModule" else []
    return {
        "seed_everything": 5,
        "model": {"class_path": method, "init_args": model},
        "data": {
            "class_path": "StringSkillsDataModule",
            "init_args": {"skill": "swap-ends", "style": "sentence", "micro_batch_size": 2, **SIZES},
        },
        "trainer": {
            "accelerator": "cpu",
            "devices": processes,
            "strategy": strategy if processes > 1 else "auto",
            "max_steps": STEPS,
            "accumulate_grad_batches": 4 // processes,
            "gradient_clip_val": 1.0,
            "log_every_n_steps": 1,
            "num_sanity_val_steps": 0,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "logger": {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "runs", "name": "run"}},
            "callbacks": [
                *teacher,
                {"class_path": "LastCheckpoints", "init_args": {"every_n_train_steps": EVERY}},
                {"class_path": "HyperparameterSummary"},
                {"class_path": "tests.faults.phase.PhaseFile", "init_args": {"file": str(folder / "phase")}},
            ],
            **trainer,
        },
    }


def prepare(folder: Path, **options: Any) -> Path:
    """A folder with the config of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config(folder.absolute(), **options)))
    return folder


@contextmanager
def running(folder: Path, *arguments: str, environment: dict[str, str] | None = None) -> Iterator[CommandProcess]:
    """``lightning-sdft fit --ckpt_path last``, of which nothing is left afterwards."""
    (folder / "phase").unlink(missing_ok=True)
    command = ["fit", "--config", "config.yaml", "--ckpt_path", "last", "--trust", "tests"]  # where PhaseFile is
    process = CommandProcess(*command, *arguments, folder=folder, log=folder / "log.txt", environment=environment)
    try:
        yield process
    finally:
        process.kill()


@contextmanager
def two_running(folder: Path) -> Iterator[list[CommandProcess]]:
    """The same in two processes, as torchrun starts them, of which neither imports anything anew."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"TORCHELASTIC_RUN_ID": "tests", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [{"RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")]
    with ExitStack() as stack:
        yield [stack.enter_context(running(folder, environment=shared | own)) for own in ranks]


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> bool:
    """Look every millisecond; whether it has come true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.001)
    return False


def finish(folder: Path, *arguments: str, seconds: float = 600) -> int:
    """Let a run go on to its end; its exit code."""
    with running(folder, *arguments) as process:
        return process.wait(seconds)


def finish_two(folder: Path, seconds: float = 600) -> int:
    """The same of two processes; the higher exit code."""
    with two_running(folder) as processes:
        return max(process.wait(seconds) for process in processes)


def writing(folder: Path, since: int) -> bool:
    """Whether a checkpoint is being written; what was killed before a time in nanoseconds may have left another."""
    found = folder.glob("runs/run/*/checkpoints/.*.unfinished")
    with suppress(FileNotFoundError):
        return any(path.stat().st_mtime_ns > since for path in found)
    return False


def moment(folder: Path, random: Random, seconds: float) -> Callable[[], bool]:
    """A random moment: some time of a run that takes so many seconds, or the n-th time that it does something."""
    kind = random.choice(["time", "time", "rollout", "backward", "student", "checkpoint", "checkpoint"])
    if kind == "time":
        end = time.monotonic() + random.uniform(0, seconds)
        return lambda: time.monotonic() > end
    step = random.randrange(STEPS)
    if kind == "checkpoint":
        started = time.time_ns()
        return lambda: read(folder / "phase")[0] >= step and writing(folder, started)
    return lambda: read(folder / "phase")[0] >= step and read(folder / "phase")[1] == kind


def kill_at_random(folder: Path, random: Random, seconds: float) -> str | None:
    """Start or continue a run and kill it; where that was, or ``None`` if it ended before."""
    started = time.time_ns()
    with running(folder) as process:
        condition = moment(folder, random, seconds)
        delay = random.choice([0, 0, 0.002, 0.02])
        wait_for(lambda: condition() or process.poll() is not None)
        time.sleep(delay)
        if process.poll() is not None:
            assert process.poll() == 0, (folder / "log.txt").read_text()[-3000:]
            return None
        process.kill()
    step, phase = read(folder / "phase")
    if writing(folder, started):
        phase = "checkpoint"
    return "start" if phase == "start" else f"{phase} {step + 1}"


# What must be equal


def last_checkpoint(folder: Path) -> Path:
    found = newest_whole(path for path in folder.glob("runs/run/*/checkpoints/*.ckpt") if not path.is_symlink())
    assert found is not None, (folder / "log.txt").read_text()[-3000:]
    return found


def result(folder: Path) -> dict[str, Any]:
    """Student, teacher, optimizer, schedule, loops, counters, generators and curves of a run that ended."""
    path = last_checkpoint(folder)
    checkpoint = load_checkpoint(path)
    if is_sharded(path):
        checkpoint["optimizer_states"] = optimizer_states(path)
    callbacks = checkpoint.pop("callbacks")
    kept = {name: state for name, state in callbacks.items() if not name.startswith("LastCheckpoints")}
    resume = kept["ExactResume"]
    resume["logged"] = {name: value for name, value in resume["logged"].items() if not is_timing(name)}
    return {**checkpoint, "callbacks": kept, "curves": curves(folder)}


def optimizer_states(folder: Path) -> dict[str, torch.Tensor]:
    """Of a checkpoint that is a folder of parts, whole."""
    stored = check_sharded(folder).state_dict_metadata.items()
    states = {
        name: torch.empty(tensor.size, dtype=tensor.properties.dtype)
        for name, tensor in stored
        if isinstance(tensor, TensorStorageMetadata) and name.startswith("optimizer_")
    }
    assert states
    distributed.checkpoint.load(states, checkpoint_id=folder, no_dist=True)
    return states


def is_timing(name: str) -> bool:
    return name.removeprefix("~details/").startswith(("time/", "speed/", "memory/", "rollout/tokens_per_second"))


def curves(folder: Path) -> dict[tuple[str, int], bytes]:
    """Every number in TensorBoard but those of time, in the bits of float32: tag and step to the value logged last."""
    values: dict[tuple[str, int], bytes] = {}
    for file in sorted(folder.glob("runs/run/*/events*"), key=lambda path: path.stat().st_mtime_ns):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                if value.HasField("tensor") and len(value.tensor.float_val) == 1 and not is_timing(value.tag):
                    (number,) = value.tensor.float_val
                    if not math.isnan(number):  # holds the place of a metric in the table of hyper-parameters
                        values[value.tag, event.step] = struct.pack("f", number)
    return values


def differences(one: Any, other: Any, name: str = "") -> list[str]:
    """Names of what is not equal, bit for bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [*one, *(key for key in other if key not in one)]
        return [
            each
            for key in keys
            for each in (
                differences(one[key], other[key], f"{name}/{key}")
                if key in one and key in other
                else [f"{name}/{key} (in one of the two)"]
            )
        ]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [each for index, (a, b) in pairs for each in differences(a, b, f"{name}/{index}")]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        equal = one.dtype == other.dtype and one.shape == other.shape
        return [] if equal and _bits(one) == _bits(other) else [name]
    return [] if one == other else [name]


def _bits(tensor: torch.Tensor) -> bytes:
    return tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
