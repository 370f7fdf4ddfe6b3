"""What a command has written, and the commands that come next; they run as they are printed."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_sdft.checkpoint.resume import run_folder
from lightning_sdft.progress import size_text
from lightning_sdft.trust import trusted

__all__ = [
    "after_demonstrate",
    "after_evaluation",
    "after_experiment",
    "after_export",
    "after_fit",
    "after_preflight",
    "after_signal",
    "say",
]

OWN_OPTIONS = ("questions", "seed", "output", "proposal")
"""Options of ``preflight`` that ``fit`` does not have."""

Steps = Mapping[str, str]
"""Commands by what they are for."""

SERVED = "pip install 'transformers[serving]'"
"""What serving needs in addition."""


def say(written: Iterable[Path], steps: Steps) -> None:
    """Print what was written, with sizes, and the next commands.

    Args:
        written: Files and folders; those that are not there are left out.
        steps: The commands.
    """
    found = [path for path in written if path.exists()]
    if found:
        print("written:")
    for path in found:
        print(f"  {_shown(path)} ({size_text(_size(path))})")
    if steps:
        print("next:")
    width = max(map(len, steps), default=0)
    for purpose, command in steps.items():
        print(f"  {purpose:{width}}  {command}")


def after_fit(trainer: Trainer) -> None:
    """Look at a run, test, export, and chat with what it has trained."""
    folder, checkpoint = _log_folder(trainer), _best(trainer)
    config = None if folder is None else folder / "config.yaml"
    written = [*_checkpoints(trainer), *([] if config is None else [config])]
    say(written, {**_look(folder), **_test(config, checkpoint), **_export(checkpoint)})


def after_signal(trainer: Trainer, typed: Sequence[str]) -> None:
    """Go on with a run that a signal has ended.

    Args:
        trainer: The trainer.
        typed: The arguments of the command line.
    """
    settings = _without(typed, ["ckpt_path"])
    checkpoints = _checkpoints(trainer)
    go_on = checkpoints and settings
    say(checkpoints, {"go on": _ours("fit", *settings, *_trust(), "--ckpt_path", "last")} if go_on else {})


def after_evaluation(trainer: Trainer, checkpoint: str | Path | None) -> None:
    """Look at the run that was evaluated, and export what it has trained.

    Args:
        trainer: The trainer that has evaluated.
        checkpoint: The checkpoint that was evaluated, if not the base model.
    """
    say([], {**_look(_log_folder(trainer)), **_export(None if checkpoint is None else Path(checkpoint))})


def after_preflight(typed: Sequence[str], output: str | None, proposal: str | None, stop: bool) -> None:
    """Train with the same settings, and with what is proposed; if it says stop, look at what the model says.

    Args:
        typed: The arguments of the command line.
        output: File of the report, if one was written.
        proposal: File of the proposed settings, if one was written.
        stop: Whether the verdict is to stop.
    """
    files = [Path(each) for each in (output, proposal) if each is not None]
    settings = _without(typed, OWN_OPTIONS)
    added = [*([] if proposal is None else ["--config", proposal]), *_trust()]
    if stop:
        steps = {"look inside": _ours("inspect", *settings, *_trust())}
    else:
        steps = {"estimate": _ours("memory", *settings, *added), "train": _ours("fit", *settings, *added)}
    say(files, steps if settings else {})


def after_demonstrate(files: Mapping[str, Path]) -> None:
    """Write a config for the rows; the model is asked for.

    Args:
        files: The files by kind: ``train``, ``validation`` and ``test``.
    """
    options = ["--data", _shown(files["train"])]
    for kind in ("validation", "test"):
        if files[kind].exists():
            options += [f"--{kind}", _shown(files[kind])]
    say(files.values(), {"write a config": _ours("init", *options)})


def after_export(folder: Path, adapter: bool) -> None:
    """Chat with an exported model.

    Args:
        folder: The folder that was written.
        adapter: Whether it holds only an adapter, which needs the model below it.
    """
    say([folder], {} if adapter else _chat(folder))


def after_experiment(folder: Path, config: Path | None = None) -> None:
    """Look at runs that were compared, and train with the config that was found.

    Args:
        folder: Folder of the experiment.
        config: The config, if one was found.
    """
    train = {} if config is None else {"train": _ours("fit", "--config", _shown(config))}
    say([], {**_look(folder), **train})


# Commands


def _look(folder: Path | None) -> Steps:
    return {} if folder is None else {"look": _command("tensorboard", "--logdir", _shown(folder))}


def _test(config: Path | None, checkpoint: Path | None) -> Steps:
    if config is None or checkpoint is None or not config.exists():
        return {}
    return {"test": _ours("test", "--config", _shown(config), "--ckpt_path", _shown(checkpoint), *_trust())}


def _export(checkpoint: Path | None) -> Steps:
    if checkpoint is None:
        return {}
    folder = (run_folder(checkpoint) or checkpoint.parent) / f"{checkpoint.stem}-model"
    export = _ours("export", "--checkpoint", _shown(checkpoint), "--output", _shown(folder))
    return {"export": export, **_chat(folder)}


def _chat(folder: Path) -> Steps:
    return {
        "serve": f"{_command('transformers', 'serve', _shown(folder))}  # {SERVED}",
        "chat": f"{_command('transformers', 'chat', _shown(folder))}  # in another terminal",
    }


def _ours(*arguments: str) -> str:
    return _command("lightning-sdft", *arguments)


def _command(*arguments: str) -> str:
    return shlex.join(arguments)


def _trust() -> list[str]:
    """What the command line has trusted."""
    return [each for name in trusted() for each in ("--trust", name)]


def _without(typed: Sequence[str], names: Sequence[str]) -> list[str]:
    """Arguments without the subcommand and without options of these names."""
    kept: list[str] = []
    skip = False
    for each in typed[1:]:
        name, equals, _ = each.removeprefix("--").partition("=")
        if each.startswith("--") and name in names:
            skip = not equals
        elif skip:
            skip = False
        else:
            kept.append(each)
    return kept


# Files


def _checkpoints(trainer: Trainer) -> list[Path]:
    """The checkpoints that a run has kept, the oldest first."""
    found: set[Path] = set()
    for each in trainer.checkpoint_callbacks:
        if isinstance(each, ModelCheckpoint):
            found |= {Path(path) for path in (*each.best_k_models, each.best_model_path, each.last_model_path) if path}
    there = [path for path in found if path.exists() and not path.is_symlink()]
    return sorted(there, key=lambda path: (path.stat().st_mtime_ns, path))


def _best(trainer: Trainer) -> Path | None:
    """The checkpoint with the best validation, else the newest."""
    for each in trainer.checkpoint_callbacks:
        if isinstance(each, ModelCheckpoint) and each.monitor not in (None, "step") and each.best_model_path:
            return Path(each.best_model_path)
    return next(reversed(_checkpoints(trainer)), None)


def _log_folder(trainer: Trainer) -> Path | None:
    # Not trainer.log_dir, for which all processes would have to meet.
    found = [Path(each.log_dir) for each in trainer.loggers if isinstance(each, TensorBoardLogger)]
    return found[0] if found else None


def _shown(path: Path) -> str:
    """A path as short as it can be typed here."""
    absolute = Path(os.path.abspath(path))  # links stay as they are
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(each.stat().st_size for each in files if each.is_file() and not each.is_symlink())
