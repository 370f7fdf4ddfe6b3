"""One run of an experiment: its configs, its folder, and its outcome."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import Namespace
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from lightning_sdft.commands.config_files import config_file, included_files
from lightning_sdft.errors import SettingError
from lightning_sdft.settings import Count, check_ranges
from lightning_sdft.storage.atomic import write_text

__all__ = [
    "ACCURACY",
    "AVERAGE",
    "PRIOR",
    "Config",
    "Outcome",
    "PriorBenchmarks",
    "Run",
    "nested",
    "plain",
    "read_curves",
    "read_parts",
]

Config = dict[str, Any]
"""A config of ``fit``, or a part of one."""

ACCURACY = "test/accuracy"
PRIOR = "test/prior/"
AVERAGE = "average"
"""Names of metrics: accuracy on the new task, the prefix of prior tasks, and their average under that prefix."""


@dataclass(frozen=True)
class PriorBenchmarks:
    """Public benchmarks of what a model could do before training (extra ``eval``); see ``lightning-sdft prior --help``.

    Args:
        tasks: Names of tasks.
        limit: Ask only the first so many questions of each task; by default all.
        include_path: Folder of task files of your own.
        allow_code_execution: Tasks that may run code that the model writes.
    """

    tasks: list[str]
    limit: Count | None = None
    include_path: str | None = None
    allow_code_execution: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_ranges(PriorBenchmarks, vars(self))


@dataclass(frozen=True)
class Run:
    """The settings of a run: everything that its result depends on.

    Args:
        parts: Configs of ``fit``; later ones override earlier ones.
        train: Whether to train; otherwise the model is evaluated as it is.
        checkpoint: Which weights are evaluated: the ``best`` on the validation sets, or the ``last``.
        evaluate_also: Further data whose sets are evaluated as well, each as a list of configs.
        prior: Benchmarks on which the trained model is evaluated.
        trust: Packages of your own whose classes the configs may name.
    """

    parts: Sequence[Config]
    train: bool = True
    checkpoint: Literal["best", "last"] = "best"
    evaluate_also: Sequence[Sequence[Config]] = ()
    prior: PriorBenchmarks | None = None
    trust: Sequence[str] = ()

    def identity(self) -> str:
        """A text that is equal for runs with the same result; ``trust`` does not change the result."""
        return json.dumps({**asdict(self), "trust": []}, sort_keys=True)

    def write(self, folder: Path) -> None:
        """Make the folder of this run.

        Raises:
            SettingError: If another run has left its outcome there, or checkpoints, from which this one would resume.
        """
        file = folder / "run.json"
        if file.exists() and Run.read(folder).identity() != self.identity() and _has_left(folder):
            raise SettingError(
                f"{folder} has the result or checkpoints of a run with other settings (see run.json there); give "
                "another --out, or remove that folder"
            )
        folder.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Run:
        """The run of a folder.

        Raises:
            SettingError: If another version of this package, with other settings, has written it.
        """
        content = json.loads((folder / "run.json").read_text())
        prior = content.pop("prior", None)
        try:
            return cls(**content, prior=None if prior is None else PriorBenchmarks(**prior))
        except TypeError as error:
            raise SettingError(
                f"{folder / 'run.json'} has settings of another version of lightning_sdft ({error}); give another "
                "folder, or remove that one"
            ) from error


@dataclass(frozen=True)
class Outcome:
    """The results of a run.

    Args:
        validation_accuracy: New-task accuracy on the validation split, of the weights that are evaluated.
        metrics: Metrics of the test split and of the prior benchmarks, by name.
        steps: Optimizer steps taken.
        checkpoint: File of the weights that were evaluated.
        seconds: Wall-clock time of training and evaluation, without that of an interrupted attempt before.
        peak_memory: Peak memory in MiB: of the accelerator, or of the process.
    """

    validation_accuracy: float | None
    metrics: Mapping[str, float]
    steps: int
    checkpoint: str | None
    seconds: float
    peak_memory: float

    def write(self, folder: Path) -> None:
        """Write the outcome to the folder of the run."""
        write_text(folder / "outcome.json", json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Outcome | None:
        """The outcome of a run that has ended well, or ``None``."""
        file = folder / "outcome.json"
        return cls(**json.loads(file.read_text())) if file.exists() else None


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Wait until no other process works on this run, be it of an experiment that was killed or of another one."""
    with (folder / ".lock").open("w") as file:
        flock(file, LOCK_EX)
        yield


def read_parts(parts: Sequence[str | Config], **names: str) -> list[Config]:
    """Read configs from files, and take others as they are given.

    Args:
        parts: Paths of config files, names of configs of the package, or configs.
        names: What replaces ``{name}`` in paths and in the values of configs.

    Raises:
        SettingError: If a file does not exist or is no config.

    Example:
        >>> read_parts([{"data": {"init_args": {"skill": "{domain}"}}}], domain="double")
        [{'data': {'init_args': {'skill': 'double'}}}]
    """
    given: list[Config] = []
    for part in parts:
        given += _read(config_file(_named(part, names))) if isinstance(part, str) else [part]
    return [_substituted(plain(part), names) for part in given]


def plain(value: Any) -> Any:
    """A value as JSON has it: jsonargparse turns every mapping with a ``class_path`` into a namespace."""
    if isinstance(value, Namespace | Mapping):
        return {name: plain(each) for name, each in (vars(value) if isinstance(value, Namespace) else value).items()}
    return [plain(each) for each in value] if isinstance(value, list) else value


def nested(setting: str, value: Any) -> Config:
    """A config with one setting.

    Example:
        >>> nested("model.init_args.learning_rate", 1e-5)
        {'model': {'init_args': {'learning_rate': 1e-05}}}
    """
    for name in reversed(setting.split(".")):
        value = {name: value}
    return dict(value)


def read_curves(folder: Path) -> dict[str, dict[int, float]]:
    """The values that a run has logged to TensorBoard, by name and step; of a repeated step, the last value."""
    curves: dict[str, dict[int, float]] = {}
    for file in sorted(folder.glob("tensorboard/events.*"), key=lambda path: path.stat().st_mtime_ns):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                if len(value.tensor.float_val) == 1:
                    curves.setdefault(value.tag, {})[event.step] = value.tensor.float_val[0]
    return curves


def _has_left(folder: Path) -> bool:
    return Outcome.read(folder) is not None or any(folder.glob("tensorboard/checkpoints/*.ckpt"))


def _read(path: Path) -> list[Config]:
    """The configs of the files that a config file includes, and then its own."""
    configs = []
    for file in (*included_files(path), path):
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingError(f"{file}: {error.strerror}; paths are relative to the current folder") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise SettingError(f"{file} is no YAML: {error}") from error
        if not isinstance(content, dict):
            raise SettingError(f"{file} is no config of `fit`: it has no settings")
        configs.append({name: value for name, value in content.items() if name != "config"})
    return configs


def _named(text: str, names: Mapping[str, str]) -> str:
    """A text with names filled in; other braces, such as those of prompt templates and file names, stay."""
    return re.sub(r"\{(\w+)\}", lambda found: names.get(found[1], found[0]), text)


def _substituted(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {name: _substituted(each, names) for name, each in value.items()}
    if isinstance(value, list):
        return [_substituted(each, names) for each in value]
    return _named(value, names) if isinstance(value, str) else value
