"""One run of an experiment: its configs, where they are kept, and what came out."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import Namespace
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from lightning_sdft.commands.config_files import stands_on
from lightning_sdft.errors import SettingError

__all__ = ["Config", "Outcome", "PriorBenchmarks", "Run", "nested", "plain", "read_curves", "read_parts"]

Config = dict[str, Any]
"""A config of ``fit``, or a part of one."""


@dataclass(frozen=True)
class PriorBenchmarks:
    """Public benchmarks of what a model could do before (extra ``eval``); see ``lightning-sdft prior --help``.

    Args:
        tasks: Names of tasks.
        limit: Questions of each task that are asked at most, the first ones.
        include_path: Folder of task files of your own.
        allow_code_execution: Tasks that may run what the model writes.
    """

    tasks: list[str]
    limit: int | None = None
    include_path: str | None = None
    allow_code_execution: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """What a run is: everything that its result depends on.

    Args:
        parts: Configs of ``fit``, each over those before it.
        train: Whether to train; otherwise the model is evaluated as it is.
        checkpoint: Whose weights are evaluated: the ``best`` on the validation sets, or the ``last``.
        evaluate_also: Configs of further data, a list of parts each, whose sets are evaluated as well.
        prior: Benchmarks that the trained model is asked.
        trust: Packages of one's own whose classes the configs may name.
    """

    parts: Sequence[Config]
    train: bool = True
    checkpoint: Literal["best", "last"] = "best"
    evaluate_also: Sequence[Sequence[Config]] = ()
    prior: PriorBenchmarks | None = None
    trust: Sequence[str] = ()

    def identity(self) -> str:
        """Equal for runs that come to the same; whom one trusts changes no result."""
        return json.dumps({**asdict(self), "trust": []}, sort_keys=True)

    def write(self, folder: Path) -> None:
        """Make the folder of this run.

        Raises:
            SettingError: If another run has left its result there, or checkpoints, from which this one would go on.
        """
        file = folder / "run.json"
        if file.exists() and Run.read(folder).identity() != self.identity() and _has_left(folder):
            raise SettingError(
                f"{folder} has the result or checkpoints of a run with other settings (see run.json there); give "
                "another --out, or remove that folder"
            )
        folder.mkdir(parents=True, exist_ok=True)
        _replace(file, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Run:
        """The run of a folder.

        Raises:
            SettingError: If another version of this package has written it, which knew other settings.
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
    """What came out of a run.

    Args:
        validation_accuracy: New-task accuracy on the validation split, of the weights that are evaluated.
        metrics: What the test split and the prior benchmarks say, by name.
        steps: Optimizer steps taken.
        checkpoint: File of the weights that were evaluated.
        seconds: Wall-clock time of training and evaluation, without what an interrupted predecessor took.
        peak_memory: Peak memory in MiB: of the accelerator, or of the process.
    """

    validation_accuracy: float | None
    metrics: Mapping[str, float]
    steps: int
    checkpoint: str | None
    seconds: float
    peak_memory: float

    def write(self, folder: Path) -> None:
        """Put it beside the run."""
        _replace(folder / "outcome.json", json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Outcome | None:
        """The outcome of a run that has ended well, or ``None``."""
        file = folder / "outcome.json"
        return cls(**json.loads(file.read_text())) if file.exists() else None


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Wait until no other process is at this run, be it of an experiment that was killed or of one beside this."""
    with (folder / ".lock").open("w") as file:
        flock(file, LOCK_EX)
        yield


def read_parts(parts: Sequence[str | Config], **names: str) -> list[Config]:
    """Configs from files, or as they are given.

    Args:
        parts: Paths of config files, and configs.
        names: What to put for ``{name}`` in paths and in the values of configs.

    Raises:
        SettingError: If a file is not there or is no config.

    Example:
        >>> read_parts([{"data": {"init_args": {"skill": "{domain}"}}}], domain="double")
        [{'data': {'init_args': {'skill': 'double'}}}]
    """
    given: list[Config] = []
    for part in parts:
        given += _read(Path(_named(part, names))) if isinstance(part, str) else [part]
    return [_substituted(plain(part), names) for part in given]


def plain(value: Any) -> Any:
    """A value as JSON has it: jsonargparse makes namespaces of mappings with a ``class_path``, wherever they are."""
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
    """What a run has logged to TensorBoard: name to step to value. Of a step that was repeated, the last value."""
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
    """A config file, behind those that it stands on."""
    configs = []
    for file in (*stands_on(path), path):
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
    """A text with names put in; other braces, such as those of prompt templates and file names, stay."""
    return re.sub(r"\{(\w+)\}", lambda found: names.get(found[1], found[0]), text)


def _substituted(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {name: _substituted(each, names) for name, each in value.items()}
    if isinstance(value, list):
        return [_substituted(each, names) for each in value]
    return _named(value, names) if isinstance(value, str) else value


def _replace(file: Path, text: str) -> None:
    """Write a file that is whole or not there."""
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(file)
    finally:
        with suppress(FileNotFoundError):
            unfinished.unlink()
