"""Finding the checkpoint to resume from: the newest intact one that this run or its predecessors have written."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_sdft.checkpoint import check_whole, load_checkpoint
from lightning_sdft.errors import CheckpointError

__all__ = ["checkpoints", "continue_run", "last_checkpoint", "newest_whole", "run_folder", "write_beside"]


def checkpoints(trainer: Trainer) -> list[Path]:
    """All checkpoints written by runs with this trainer's settings, under any version of its logger."""
    folders: set[Path] = set()
    for callback in trainer.checkpoint_callbacks:
        given = getattr(callback, "dirpath", None)
        folders |= _default_folders(trainer) if given is None else {Path(given)}
    found = [path for folder in folders if folder.is_dir() for path in folder.iterdir() if _is_checkpoint(path)]
    if SLURMEnvironment.detect():
        found += Path(trainer.default_root_dir).glob("hpc_ckpt_*.ckpt")
    return found


def newest_whole(paths: Iterable[Path], to_train: bool = False) -> Path | None:
    """The newest checkpoint that is intact; a warning names the damaged ones that are skipped.

    Args:
        paths: The checkpoints.
        to_train: Whether training is to resume from it; then checkpoints with only weights (``save_weights_only``) are
            skipped too.
    """
    for path in sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path), reverse=True):
        try:
            check_whole(path)
            if not (to_train and _has_weights_alone(path)):
                return path
        except CheckpointError as error:
            rank_zero_warn(f"passed over: {error}")
    return None


def last_checkpoint(trainer: Trainer) -> Path:
    """The newest intact checkpoint, for evaluation.

    Raises:
        CheckpointError: If there is none.
    """
    path = newest_whole(checkpoints(trainer))
    if path is None:
        raise CheckpointError(
            "ckpt_path=last, but runs with this logger and these folders left no whole checkpoint; give the path of one"
        )
    return path


def continue_run(trainer: Trainer) -> Path | None:
    """Find the checkpoint to resume from, and let the logger continue in the version that it belongs to.

    Returns:
        The newest intact checkpoint, or ``None`` if there is none, so that the same command starts and resumes a run.
        Checkpoints with only weights do not count.
    """
    path = newest_whole(checkpoints(trainer), to_train=True)
    if path is None:
        rank_zero_info("There is no checkpoint to go on from: training starts anew.")
        return None
    rank_zero_info(f"Training goes on from {path}.")
    logger = trainer.loggers[0] if trainer.loggers else None
    version = _version_of(path, logger)
    if isinstance(logger, TensorBoardLogger) and version is not None:
        logger._version = int(number) if (number := version.removeprefix("version_")).isdigit() else version
    return path


def run_folder(checkpoint: str | Path) -> Path | None:
    """The folder of the run that a checkpoint belongs to: the one with its config, if there is one."""
    parents = Path(checkpoint).absolute().parents
    return next((each for each in parents[:2] if (each / "config.yaml").is_file()), None)


def write_beside(trainer: Trainer, checkpoint: str | Path) -> None:
    """Let an evaluation write into the folder of the run whose checkpoint it evaluates, not into a run of its own."""
    folder = run_folder(checkpoint)
    if folder is not None:
        for index, each in enumerate(trainer.loggers):
            if isinstance(each, TensorBoardLogger):
                beside = type(each)(folder.parent, name="", version=folder.name, default_hp_metric=False)
                trainer.loggers[index] = beside


def _has_weights_alone(path: Path) -> bool:
    """Whether a checkpoint was written with ``save_weights_only``; sharded checkpoints never are."""
    try:
        content = {} if path.is_dir() else load_checkpoint(path)
    except CheckpointError:
        return False  # reading it later raises an error that names it
    return "state_dict" in content and "optimizer_states" not in content


def _version_of(path: Path, logger: Logger | None) -> str | None:
    """The logger's version that a checkpoint belongs to; for SLURM's checkpoints, the version last written to."""
    if not isinstance(logger, TensorBoardLogger):
        return None
    root = Path(logger.root_dir)
    if root == path.parents[2]:
        return path.parents[1].name
    if path.name.startswith("hpc_ckpt_") and root.is_dir():
        return max(root.iterdir(), key=lambda folder: folder.stat().st_mtime_ns).name
    return None


def _default_folders(trainer: Trainer) -> set[Path]:
    """The folders where ModelCheckpoint writes if it has no ``dirpath``."""
    if not trainer.loggers:
        return {Path(trainer.default_root_dir) / "checkpoints"}
    logger = trainer.loggers[0]
    root = Path(logger.save_dir or trainer.default_root_dir) / str(logger.name)
    version = getattr(logger, "_version", None)  # the property `version` would create one
    if version is None:
        return set(root.glob("*/checkpoints"))
    return {root / (version if isinstance(version, str) else f"version_{version}") / "checkpoints"}


def _is_checkpoint(path: Path) -> bool:
    """Whether a path is a finished checkpoint: not a temporary file, and not a link to another one (``last.ckpt``)."""
    return path.suffix == ModelCheckpoint.FILE_EXTENSION and not path.name.startswith(".") and not path.is_symlink()
