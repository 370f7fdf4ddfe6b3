"""Writes a checkpoint as a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from lightning_sdft.checkpoint import load_policy
from lightning_sdft.commands.model_card import write_card
from lightning_sdft.commands.next_steps import after_export
from lightning_sdft.commands.push import check_push, push_folder
from lightning_sdft.errors import CheckpointError, SettingError
from lightning_sdft.policy.adapter_export import merge_adapter, save_adapter
from lightning_sdft.policy.lora import adapter_weights
from lightning_sdft.policy.written import check_written_adapter, check_written_model

__all__ = ["export", "write_model"]

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "adapter_config.json", "config.json")
"""Files that decide which weights are read from a folder."""


def export(
    output: str,
    checkpoint: str | None = None,
    model: str | None = None,
    weights: Literal["student", "teacher"] = "student",
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    adapter: bool = False,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    push: str | None = None,
    private: bool = False,
) -> None:
    """Write a checkpoint as a Hugging Face folder, which AutoModelForCausalLM.from_pretrained loads.

    A model that reads images is loaded by AutoModelForImageTextToText, and its processor is in the folder too.

    The folder is read back, and must give the logits of what was written. ``README.md`` in it is a model card, unless
    you have written one.

    Args:
        output: Folder to write.
        checkpoint: The checkpoint file; without one, the model is written as it is (this converts a ``.gguf`` file).
        model: Model with the architecture and tokenizer; by default the one that the checkpoint was trained from.
        weights: Whose weights to write.
        dtype: Precision of the weights in the files.
        adapter: Write only the adapter (LoRA), as a folder that peft.PeftModel.from_pretrained loads on top of the
            model; by default it is merged into the model's weights. Only a merged model has a generation config that
            names all ends of a response; beside an adapter it is the model's own.
        overwrite: Replace the model in a folder that is not empty; its other files stay.
        trust_remote_code: Whether code that comes with the model may be run.
        push: Repository of the Hugging Face hub, as ``owner/name``, to upload the folder to. It is made if there is
            none. The token is that of ``HF_TOKEN`` or of ``hf auth login``.
        private: Make the repository one that others cannot see.

    Raises:
        SettingError: If the folder is not empty.
        CheckpointError: If there is nothing to write, or if the file is truncated, is not a checkpoint of this package,
            or lacks the weights asked for.
        PolicyError: If what is read back computes other logits.
        HubError: If the hub does not take the folder.
    """
    check_push(push, private)
    folder = Path(output)
    taken = folder.is_dir() and any(folder.iterdir())
    if taken and not overwrite:
        raise SettingError(f"output={output} is not empty; give another folder, or --overwrite=true to replace it")
    unfinished = folder.absolute().with_name(f".{folder.absolute().name}.unfinished") if taken else folder
    write_model(str(unfinished), checkpoint, model, weights, dtype, adapter, trust_remote_code)
    if taken:
        _replace(folder, unfinished)
    what = "model" if checkpoint is None else f"{weights}'s adapter" if adapter else weights
    print(f"{what} written to {output} in {dtype}")
    if checkpoint is not None and not write_card(output, checkpoint, model, weights, dtype, adapter, push):
        print(f"{output}/README.md is your own, and stays as it is")
    if push is not None:
        print(f"pushed to {push_folder(output, push, private)}")
    after_export(folder, adapter)


def _replace(folder: Path, new: Path) -> None:
    """Replace the model in a folder by a new one, of which no old file must be a part."""
    for pattern in WEIGHTS:
        for file in folder.glob(pattern):
            file.unlink()
    for file in new.iterdir():
        file.replace(folder / file.name)
    new.rmdir()


def write_model(
    output: str,
    checkpoint: str | None = None,
    model: str | None = None,
    weights: Literal["student", "teacher"] = "student",
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    adapter: bool = False,
    trust_remote_code: bool = False,
) -> None:
    """Do what :func:`export` does, without printing anything."""
    policy = load_policy(model, checkpoint, weights, trust_remote_code)
    has_adapter = bool(adapter_weights(policy.model))
    if adapter and not has_adapter:
        raise CheckpointError(f"there is no adapter in {checkpoint or model!r}; leave out adapter=true")
    Path(output).mkdir(parents=True, exist_ok=True)
    if adapter:
        save_adapter(policy.model, output, PRECISIONS[dtype])
        policy.tokenizer.save_pretrained(output)
        check_written_adapter(policy, output, PRECISIONS[dtype], trust_remote_code)
    else:
        if has_adapter:
            merge_adapter(policy.model)
        policy.save_pretrained(output, PRECISIONS[dtype])
        check_written_model(policy, output, PRECISIONS[dtype], trust_remote_code)
    for file in Path(output).glob("*.safetensors"):  # safetensors 0.8 makes them unreadable for other users
        file.chmod(Path(output, "tokenizer_config.json").stat().st_mode)
