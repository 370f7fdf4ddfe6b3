"""From a checkpoint to a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from lightning_sdft.checkpoint import load_policy

__all__ = ["export"]

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def export(
    output: str,
    checkpoint: str | None = None,
    model: str | None = None,
    weights: Literal["student", "teacher"] = "student",
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    trust_remote_code: bool = False,
) -> None:
    """Write a checkpoint as a Hugging Face folder, which AutoModelForCausalLM.from_pretrained loads.

    Args:
        output: Folder to write.
        checkpoint: The checkpoint file; without one, the model as it is (which converts a ``.gguf`` file).
        model: Model that gives architecture and tokenizer; by default the one that the checkpoint was trained from.
        weights: Whose weights to write.
        dtype: Precision of the weights in the files.
        trust_remote_code: Whether code that comes with the model may be run.

    Raises:
        CheckpointError: If there is nothing to write, or the file is torn, not a checkpoint of this package, or lacks
            the weights asked for.
    """
    policy = load_policy(model, checkpoint, weights, trust_remote_code)
    Path(output).mkdir(parents=True, exist_ok=True)
    policy.save_pretrained(output, PRECISIONS[dtype])
    print(f"{'model' if checkpoint is None else weights} written to {output} in {dtype}")
