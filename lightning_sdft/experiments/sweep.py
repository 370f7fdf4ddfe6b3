"""Finds the best of a grid of settings, by accuracy on the validation split.

[1] Akiba et al., Optuna: A Next-generation Hyperparameter Optimization Framework, 2019, https://arxiv.org/abs/1907.10902
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightning_sdft.commands.next_steps import after_experiment
from lightning_sdft.errors import SettingError
from lightning_sdft.experiments.runs.build import build
from lightning_sdft.experiments.runs.lines import RunsLines
from lightning_sdft.experiments.runs.run import read_parts
from lightning_sdft.experiments.search import Settings, Sweep, choices
from lightning_sdft.progress import count_text
from lightning_sdft.settings import Count, Seed, check_ranges
from lightning_sdft.storage.atomic import write_text
from lightning_sdft.trust import trusted

if TYPE_CHECKING:
    import optuna

__all__ = ["sweep"]


def sweep(
    out: str,
    parts: list[str | dict[str, Any]],
    grid: dict[str, list[Any]],
    seeds: list[Seed],
    seeded: list[str] = ["seed_everything", "data.init_args.shuffle_seed"],  # noqa: B006  # as jsonargparse shows it
    sampler: Literal["grid", "random", "tpe"] = "grid",
    trials: Count | None = None,
    pruning: bool = False,
    jobs: Count = 1,
    threads: Count = 1,
) -> Settings:
    """Try the settings of a grid, each in ordinary runs of ``fit``, and write the best as a config (extra ``sweep``).

    A trial is judged by the mean over its seeds of the best validation accuracy. Give the arguments in a file with
    ``--config``; see ``configs/sweep``. ``--out`` then has ``best.yaml``, which ``fit`` takes, ``trials.json``,
    Optuna's ``study.db``, and a folder for each run. The same command continues where it stopped; several of them may
    work on the same study at once, on one machine or on a shared disk.

    Args:
        out: Folder of the results.
        parts: Configs of ``fit``, as files or inline settings; later ones override earlier ones.
        grid: Values of each setting, such as ``model.init_args.learning_rate: [5e-6, 1e-5]``. A value may also be a
            mapping of several settings, and the key any name for them: ``length: [{data.init_args.batch_size: 16,
            trainer.max_epochs: 2}]``.
        seeds: Seeds of each trial.
        seeded: Settings that are set to the seed.
        sampler: Which combinations to try: all of the ``grid``, ``random`` ones, or the most promising ones by ``tpe``.
        trials: Number of combinations to try with a sampler other than ``grid``.
        pruning: Whether to stop runs that are below the median of the others at the same optimizer step.
        jobs: Number of trials at once. With several GPUs, start one command per GPU, each with its own
            CUDA_VISIBLE_DEVICES.
        threads: CPU threads of each run.

    Returns:
        The best settings.

    Raises:
        SettingError: If the arguments do not go together, or all trials have failed.
    """
    check_ranges(sweep, locals())
    if find_spec("optuna") is None:
        raise SettingError("sweeps need Optuna: pip install 'lightning-sdft[sweep]'")
    if sampler == "grid" and trials is not None:
        raise SettingError("sampler=grid tries all combinations; leave trials out, or take another sampler")
    if sampler != "grid" and trials is None:
        raise SettingError(f"sampler={sampler} needs the number of trials")
    if not seeds:
        raise SettingError("seeds is empty; there is nothing to try")
    from lightning_sdft.experiments.trials import open_study, try_all
    from lightning_sdft.experiments.untried import Untried

    settings = (Path(out), read_parts(parts), choices(grid), seeds, seeded, pruning, threads, trusted())
    task = Sweep(*settings, lines=RunsLines())
    task.out.mkdir(parents=True, exist_ok=True)
    combinations = Untried(task.space, sampler)
    study = open_study(task, combinations)
    total = len(combinations.combinations)
    try_all(study, task, combinations, total if trials is None else min(trials, total), jobs)
    return _write(study, task)


def _write(study: optuna.Study, task: Sweep) -> Settings:
    from lightning_sdft.experiments.trials import SETTINGS, text

    trials = [trial for trial in study.trials if SETTINGS in trial.user_attrs]
    best = max((trial for trial in trials if trial.state.name == "COMPLETE"), key=lambda trial: trial.value or 0.0)
    labels = {name: str(best.params[name]) for name in task.choices}
    cli = build(task.configs(labels), task.out / "best")
    header = f"# The best of {count_text(len(trials), 'trial')}: accuracy {best.value:.4f} on the validation split.\n"
    write_text(task.out / "best.yaml", header + cli.parser.dump(cli.config, skip_none=False))
    records = [
        {
            "settings": trial.user_attrs[SETTINGS],
            "validation_accuracy": trial.value,
            "state": trial.state.name.lower(),
        }
        for trial in trials
    ]
    write_text(task.out / "trials.json", json.dumps(records, indent=1) + "\n")
    settings: Settings = best.user_attrs[SETTINGS]
    print(f"best: {text(settings)}: {best.value:.3f}\nwritten to {task.out}: best.yaml, trials.json, study.db")
    after_experiment(task.out, task.out / "best.yaml")
    return settings
