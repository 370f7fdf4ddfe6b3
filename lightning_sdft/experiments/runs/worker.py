"""Performs one run in this process: ``python -m lightning_sdft.experiments.runs.worker FOLDER``."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from statistics import mean
from typing import Any, cast

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_sdft.checkpoint import exit_code
from lightning_sdft.checkpoint.resume import continue_run
from lightning_sdft.commands.noise import keep_quiet
from lightning_sdft.commands.refusals import one_line, refusal
from lightning_sdft.distributed.sharding import unsharded
from lightning_sdft.evaluation.prior_tasks import PriorSuite
from lightning_sdft.experiments.runs.build import build
from lightning_sdft.experiments.runs.details import Details, VerdictKeeper, Verdicts
from lightning_sdft.experiments.runs.lines import RunShare
from lightning_sdft.experiments.runs.provenance import provenance
from lightning_sdft.experiments.runs.run import AVERAGE, PRIOR, Config, Outcome, Run, claimed, read_curves
from lightning_sdft.modules.timing import peak_memory
from lightning_sdft.storage.masking import masked_text
from lightning_sdft.trust import trusting

__all__ = ["perform"]


def perform(folder: Path) -> None:
    """Train and evaluate, resuming an interrupted attempt, unless the run has an outcome already."""
    with claimed(folder) if _is_first() else nullcontext():
        if Outcome.read(folder) is None:
            run = Run.read(folder)
            with trusting(*run.trust):
                _perform(run, folder)


def _is_first() -> bool:
    """Whether this is the first process of a run, which claims the folder for the others too."""
    ranks = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
    return not any(int(os.environ.get(rank) or 0) for rank in ranks)


def _perform(run: Run, folder: Path) -> None:
    started = time.monotonic()
    cli = build([*run.parts, _logs(folder)], folder / "configs")
    for index, parts in enumerate(run.evaluate_also):
        cli.datamodule.evaluate_also(build(parts, folder / "configs" / f"also-{index}").datamodule)
    trainer, module, data = cli.trainer, cli.model, cli.datamodule
    trainer.callbacks.append(RunShare(folder))  # type: ignore[attr-defined]
    best: ModelCheckpoint | None = None
    if run.train:
        trainer.fit(module, datamodule=data, ckpt_path=continue_run(trainer))
        best = _best(trainer) if run.checkpoint == "best" else None
    steps = trainer.global_step if run.train else 0
    checkpoint = best.best_model_path if best is not None else _end(trainer) if run.train else None
    if best is None:
        trainer.validate(module, datamodule=data, verbose=False)
    validated = trainer.callback_metrics.get("val/accuracy") if best is None else best.best_model_score
    keeper = VerdictKeeper()
    cast(Any, trainer).callbacks.append(keeper)  # only now: a run resumes with the callbacks that it had
    trainer.test(module, datamodule=data, ckpt_path=None if best is None else checkpoint, verbose=False)
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("test/")}
    with trainer.precision_plugin.val_step_context():
        asked, verdicts = _prior(run, module, metrics)
    metrics |= asked
    if trainer.is_global_zero:
        details = Details({**keeper.verdicts, **verdicts}, _curves(folder), provenance())
        details.write(folder)  # first: a run with an outcome has them
        seconds = time.monotonic() - started
        accuracy = None if validated is None else float(validated)
        Outcome(accuracy, metrics, steps, checkpoint, round(seconds, 1), round(peak_memory(), 1)).write(folder)


def _logs(folder: Path) -> Config:
    arguments = {"save_dir": str(folder), "name": "", "version": "tensorboard", "default_hp_metric": False}
    return {
        "trainer": {
            "logger": [{"class_path": "TensorBoardLogger", "init_args": arguments}],
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
    }


def _best(trainer: Any) -> ModelCheckpoint | None:
    """The callback that keeps the checkpoint with the best validation accuracy, if there is one."""
    callbacks = [each for each in trainer.checkpoint_callbacks if each.monitor == "val/accuracy"]
    return callbacks[0] if callbacks and callbacks[0].best_model_path else None


def _end(trainer: Any) -> str:
    """Save a checkpoint of the weights at the end of training, and return its path."""
    file = str(Path(trainer.loggers[0].log_dir) / "end.ckpt")
    trainer.save_checkpoint(file, weights_only=True)
    return file


def _curves(folder: Path) -> dict[str, dict[int, float]]:
    """The accuracies on the validation split, and that of the teacher."""
    wanted = re.compile(r"val/accuracy(/.+)?|prior/.+|teacher/accuracy")
    return {name: curve for name, curve in read_curves(folder).items() if wanted.fullmatch(name)}


def _prior(run: Run, module: Any, own: Mapping[str, float]) -> tuple[dict[str, float], Verdicts]:
    """The scores of the benchmarks with their average, in which the data module's prior tasks are, and the verdicts."""
    if run.prior is None:
        return {}, {}
    suite = PriorSuite(run.prior.tasks, run.prior.include_path, run.prior.allow_code_execution)
    with unsharded(module.policy):
        scores = suite.evaluate(module.policy, run.prior.limit)
    verdicts = {f"{PRIOR}{task}": each for task, each in scores.verdicts.items()}
    asked = {f"{PRIOR}{score.task}": score.score for score in scores.scores}
    averaged = [name for name in own if name.startswith(PRIOR) and name != f"{PRIOR}{AVERAGE}"]
    averaged += [f"{PRIOR}{task}" for task in scores.averaged]
    found = {**own, **asked}
    average = {f"{PRIOR}{AVERAGE}": mean(found[name] for name in averaged)} if averaged else {}
    return {**asked, **average}, verdicts


if __name__ == "__main__":
    keep_quiet()
    try:
        perform(Path(sys.argv[1]))
    except SIGTERMException as error:
        sys.exit(exit_code(error))
    except Exception as error:
        refused = refusal(error)
        if refused is None:
            raise
        print(masked_text(f"error: {one_line(str(refused))}"), file=sys.stderr)
        sys.exit(2)  # as the command line does
