"""Checkpoints: which method they are of, whether a file is whole, and how they become Hugging Face folders."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.plugins import TorchCheckpointIO
from lightning.pytorch.strategies import Strategy
from torch import Tensor

import lightning_sdft
from lightning_sdft.lora import STUDENT, TEACHER, LoRA, adapter_state, adapter_weights, add_adapter
from lightning_sdft.policy import Policy
from lightning_sdft.sharded_checkpoint import CheckpointError, check_sharded, is_sharded, read_sharded
from lightning_sdft.teacher.compensated import join

__all__ = [
    "CheckedCheckpointIO",
    "CheckpointError",
    "adapters_alone",
    "check_adapters",
    "check_checkpoint_file",
    "check_method",
    "check_whole",
    "describe_method",
    "load_checkpoint",
    "load_policy",
    "only_data",
    "use_checked_files",
]

KEY = "lightning_sdft"

MODELS = ("policy.", "teacher.policy.")
"""What names of weights of the student and of a copied teacher begin with."""


def describe_method(method: str, model: str, lora: LoRA | None = None) -> dict[str, Any]:
    """What a checkpoint says about itself: the method's class, the model training started from, our version, LoRA."""
    about = {"method": method, "model": model, "version": lightning_sdft.__version__}
    return about if lora is None else {**about, "lora": asdict(lora)}


def check_method(checkpoint: dict[str, Any], method: str, lora: LoRA | None = None) -> None:
    """Refuse to go on with a checkpoint of another method, or of another adapter.

    Raises:
        CheckpointError: If the checkpoint is of another method or adapter, or not of this package.
    """
    about = checkpoint.get(KEY, {})
    saved = about.get("method")
    if saved != method:
        raise CheckpointError(
            f"the checkpoint was written by {saved or 'something other than lightning_sdft'}, not by {method}; go on "
            f"with that method, or export the checkpoint to a Hugging Face folder and start {method} from it "
            "(model=FOLDER)"
        )
    settings = [None if each is None else replace(each, dropout=0.0) for each in (_lora(about), lora)]
    if settings[0] != settings[1]:
        raise CheckpointError(
            f"the checkpoint was written with lora={_lora(about)}, and is to be read with lora={lora}, where its "
            "weights would mean something else; set lora as it was"
        )


def _lora(about: dict[str, Any]) -> LoRA | None:
    """The adapter of a checkpoint, of what it says about itself."""
    return LoRA(**about["lora"]) if "lora" in about else None


def adapters_alone(state: dict[str, Any], policy: Policy) -> dict[str, Any]:
    """What a module with an adapter saves of its state: nothing that is in the models it started from.

    Args:
        state: The module's state.
        policy: Its policy.
    """
    adapters = {f"policy.model.{name}" for name in adapter_weights(policy.model)}
    return {name: value for name, value in state.items() if name in adapters or not name.startswith(MODELS)}


def check_adapters(state: Mapping[str, Any], policy: Policy) -> None:
    """Refuse a state that is not of the adapters that the policy has.

    Raises:
        CheckpointError: If weights are missing or left over; the message names the first.
    """
    names = {name for name in state if name.startswith(MODELS)}
    adapters = {f"policy.model.{name}" for name in adapter_weights(policy.model)}
    for problem, found in (("lacks", adapters - names), ("has left over", names - adapters)):
        if found:
            raise CheckpointError(
                f"the checkpoint {problem} {len(found)} weights, the first is {min(found)!r}; it is of another model, "
                "of other lora settings or of another teacher"
            )


def check_checkpoint_file(path: str | Path) -> None:
    """Refuse a file that was not written to its end.

    Raises:
        CheckpointError: If there is no such file, or it is torn.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"there is no checkpoint {str(path)!r}")
    if path.is_file() and not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"the checkpoint {str(path)!r} ({path.stat().st_size} bytes) is truncated or not a checkpoint; use an "
            "earlier one"
        )


@contextmanager
def only_data(path: object) -> Iterator[None]:
    """Say which checkpoint it was that is read inside and holds more than data.

    Raises:
        CheckpointError: If torch refuses to read it.
    """
    try:
        yield
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise CheckpointError(
            f"the checkpoint {str(path)!r} holds more than data{f' ({named[1]})' if named else ''}, and to read that "
            "would run code of whoever made the file; nothing was run. Use a checkpoint that lightning_sdft has "
            "written, or take the weights out of this one where it may do no harm"
        ) from None


@contextmanager
def _reading(path: object) -> Iterator[None]:
    """Say which checkpoint it was that is read inside and is none, or holds more than data."""
    try:
        with only_data(path):
            yield
    except (EOFError, OSError, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"the checkpoint {str(path)!r} cannot be read ({error}); it is broken or not a checkpoint, use another one"
        ) from error


def use_checked_files(strategy: Strategy) -> None:
    """Let a strategy write checkpoint files whole and read them as data."""
    if type(strategy.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = CheckedCheckpointIO()


def check_whole(path: str | Path) -> None:
    """Refuse a checkpoint that is not what was written: a truncated file, a changed bit, a missing shard.

    A file is read to its end and compared with the checksums in it (a third of a second per gigabyte, beside the disk);
    once, as long as it does not change. Of a folder of parts, their sizes are compared with what its index says.

    Raises:
        CheckpointError: If there is no such checkpoint, or it is not whole.
    """
    path = Path(path)
    check_checkpoint_file(path)
    if is_sharded(path):
        check_sharded(path)
    elif (problem := _changed_record(path, _version(path))) is not None:
        raise CheckpointError(f"the checkpoint {str(path)!r} is not whole: {problem}; use an earlier one")


@lru_cache
def _changed_record(path: Path, version: tuple[int, int]) -> str | None:
    """What does not have its checksum, in a version of a file."""
    try:
        with zipfile.ZipFile(path) as file:
            name = file.testzip()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        return str(error)
    return None if name is None else f"{name} has changed since it was written"


class CheckedCheckpointIO(TorchCheckpointIO):
    """Lightning's reading and writing of checkpoint files, but a file is whole or it is not there.

    A local file is written beside its place, without a copy of the checkpoint in memory, and takes its place when it is
    on the disk. One that is not whole is refused by its name.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write the checkpoint.

        Raises:
            CheckpointError: If the disk does not take it; what was there before is as it was.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Lightning takes whatever has hpc_ckpt_ in its name for a checkpoint.
        unfinished = path.with_name(f".{path.name.removeprefix('hpc_')}.unfinished")
        try:
            with unfinished.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
            _sync_folder(path.parent)
        except (OSError, RuntimeError) as error:  # torch's writer raises the latter for what the system refuses
            raise CheckpointError(
                f"the checkpoint {str(path)!r} could not be written ({error}); make room or choose another folder. "
                "Checkpoints that were there before are good"
            ) from error
        finally:
            unfinished.unlink(missing_ok=True)

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Check the file, where it is a local one, and read it as data; of a folder of parts, weights alone.

        Raises:
            CheckpointError: If there is no such file, or it is torn or holds more than data.
        """
        if "://" not in str(path):
            if is_sharded(path):
                return read_sharded(path)
            check_whole(path)
        with _reading(path):
            return super().load_checkpoint(path, *args, **{**kwargs, "weights_only": True})


def _sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint as data, running no code from it; of a folder of parts, all but the optimizer states.

    Raises:
        CheckpointError: If there is no such file, or it is torn or holds more than data.
    """
    if is_sharded(path):
        return read_sharded(path)
    while True:
        check_checkpoint_file(path)
        version = _version(path)
        with _reading(path):
            checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        # It is opened twice, for names and for numbers, and a run that is still going on may have put another between.
        if _version(path) == version:
            return checkpoint


def _version(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_ino, status.st_mtime_ns


def load_policy(
    model: str | None,
    checkpoint: str | None,
    weights: Literal["student", "teacher"] = "student",
    trust_remote_code: bool = False,
) -> Policy:
    """A pretrained model, or one with the weights of a checkpoint.

    Args:
        model: Model that gives architecture and tokenizer; by default the one that the checkpoint was trained from.
        checkpoint: The checkpoint file; without one, the model has its own weights.
        weights: Whose weights to take from the checkpoint.
        trust_remote_code: Whether code that comes with the model may be run.

    Raises:
        CheckpointError: If neither is given, or if the file is torn, not a checkpoint of this package, or lacks the
            weights asked for.
    """
    if checkpoint is None:
        if model is None:
            raise CheckpointError("a model or a checkpoint is needed; give model=NAME or checkpoint=FILE")
        return Policy.load(model, trust_remote_code=trust_remote_code)
    content = load_checkpoint(checkpoint)
    if KEY not in content:
        raise CheckpointError(f"{checkpoint!r} is not a checkpoint of lightning_sdft")
    lora, source = _lora(content[KEY]), model or content[KEY]["model"]
    if lora is None:
        state = _below(content["state_dict"], {STUDENT: "policy.", TEACHER: "teacher.policy."}[weights])
        if weights == TEACHER:
            for name, residual in _below(content["state_dict"], "teacher.residual.").items():
                state[name] = join(state[name], residual)
    else:
        state = adapter_state(content["state_dict"], weights)
    if not state:
        raise CheckpointError(f"{checkpoint!r}, of {content[KEY]['method']}, has no weights of a {weights}")
    policy = Policy.load(source, pretrained=lora is not None, trust_remote_code=trust_remote_code)
    if lora is not None:
        add_adapter(policy.model, lora, source=source)
        check_adapters(state, policy)
        state = _below(state, "policy.")
    policy.load_state_dict(state, strict=lora is None)
    return policy


def _below(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries whose name begins with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
