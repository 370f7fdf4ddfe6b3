"""What a sweep searches, and how it tries one combination of settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from lightning_sdft.errors import SettingError
from lightning_sdft.experiments.plan import slug
from lightning_sdft.experiments.pruning import PRUNED, PRUNING, hand_over
from lightning_sdft.experiments.runs.lines import RunsLines
from lightning_sdft.experiments.runs.pool import Failure, perform_all
from lightning_sdft.experiments.runs.run import Config, Outcome, Run, nested, plain

if TYPE_CHECKING:
    import optuna

__all__ = ["Settings", "Sweep", "choices"]

Settings = dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """A search over combinations of settings, and how one of them is tried."""

    out: Path
    parts: Sequence[Config]
    choices: Mapping[str, Mapping[str, Settings]]
    seeds: Sequence[int]
    seeded: Sequence[str]
    pruning: bool
    threads: int
    trust: Sequence[str]  # read once, because Optuna's threads do not know what is trusted
    lines: RunsLines

    @property
    def space(self) -> dict[str, list[str]]:
        """The labels of the values of each name."""
        return {name: list(values) for name, values in self.choices.items()}

    def objective(self, trial: optuna.Trial, labels: Mapping[str, str]) -> float:
        """Mean validation accuracy of a combination over the seeds."""
        import optuna

        configs = self.configs(labels)
        folders = [self._folder(labels, seed, configs) for seed in self.seeds]
        if self.pruning:
            hand_over(trial, folders)
        found: dict[Path, Outcome | Failure] = {}
        perform_all(folders, 1, self.threads, found.__setitem__, self.lines)
        for folder, outcome in found.items():
            if isinstance(outcome, Failure):
                raise RuntimeError(f"{folder}: {outcome}")
            if (folder / PRUNED).exists():
                raise optuna.TrialPruned
        accuracies = [each.validation_accuracy for each in found.values() if isinstance(each, Outcome)]
        known = [each for each in accuracies if each is not None]
        if len(known) < len(accuracies):
            raise RuntimeError(
                f"{folders[0]}: there is no val/accuracy; give the data a validation split with references"
            )
        return mean(known)

    def configs(self, labels: Mapping[str, str]) -> list[Config]:
        """Configs of a combination."""
        chosen = [nested(key, value) for name in labels for key, value in self.settings(name, labels)]
        return [*self.parts, *chosen]

    def identity(self) -> dict[str, Any]:
        """Everything that the results depend on, by the names of the arguments, as JSON."""
        identity = {"grid": self.choices, "parts": self.parts, "seeds": self.seeds, "seeded": self.seeded}
        return dict(json.loads(json.dumps({**identity, "pruning": self.pruning})))

    def settings(self, name: str, labels: Mapping[str, str]) -> list[tuple[str, Any]]:
        """The settings that a combination chooses for a name."""
        return list(self.choices[name][labels[name]].items())

    def _folder(self, labels: Mapping[str, str], seed: int, configs: Sequence[Config]) -> Path:
        name = "_".join(slug(f"{name.rpartition('.')[2]}-{label}") for name, label in labels.items())
        folder = self.out / "runs" / name / f"seed-{seed}"
        parts = [*configs, *(nested(setting, seed) for setting in self.seeded)]
        if self.pruning:
            callback = {"class_path": PRUNING, "init_args": {"folder": str(folder)}}
            parts.append({"trainer": {"callbacks+": [callback]}})
        Run(parts, trust=self.trust).write(folder)
        return folder


def choices(grid: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, Settings]]:
    """For each name of the grid, the settings that each of its values stands for, by the label of the value."""
    labelled: dict[str, dict[str, Settings]] = {}
    for name, values in grid.items():
        if not values:
            raise SettingError(f"grid.{name} has no values")
        found = [each if _is_several(each) else {name: each} for each in map(plain, values)]
        labels = [", ".join(f"{value}" for value in settings.values()) for settings in found]
        if len(set(labels)) < len(labels):
            raise SettingError(f"grid.{name} has a value twice: {'; '.join(labels)}")
        if len({slug(label) for label in labels}) < len(labels):
            raise SettingError(f"grid.{name} has values that would share a folder: {'; '.join(labels)}")
        labelled[name] = {label: dict(settings) for label, settings in zip(labels, found, strict=True)}
    if not labelled:
        raise SettingError("grid is empty; there is nothing to choose from")
    return labelled


def _is_several(value: Any) -> bool:
    """Whether a value of the grid is several settings at once, and not an object."""
    return isinstance(value, Mapping) and "class_path" not in value
