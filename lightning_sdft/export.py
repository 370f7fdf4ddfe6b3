"""From a checkpoint to a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from lightning_sdft.checkpoint import KEY, CheckpointError, load_checkpoint
from lightning_sdft.policy import Policy

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
        CheckpointError: If the file is torn, not a checkpoint of this package, or lacks the weights asked for.
    """
    if checkpoint is None and model is None:
        raise CheckpointError("export needs a checkpoint or a model; give checkpoint=FILE or model=NAME")
    content = None if checkpoint is None else load_checkpoint(checkpoint)
    if content is not None and KEY not in content:
        raise CheckpointError(f"{checkpoint!r} is not a checkpoint of lightning_sdft")
    name = model or (content or {})[KEY]["model"]
    policy = Policy.load(name, pretrained=content is None, trust_remote_code=trust_remote_code)
    if content is not None:
        prefix = {"student": "policy.", "teacher": "teacher.policy."}[weights]
        state = content["state_dict"].items()
        state = {key.removeprefix(prefix): value for key, value in state if key.startswith(prefix)}
        if not state:
            raise CheckpointError(f"{checkpoint!r}, of {content[KEY]['method']}, has no weights of a {weights}")
        policy.load_state_dict(state)
    Path(output).mkdir(parents=True, exist_ok=True)
    policy.save_pretrained(output, PRECISIONS[dtype])
    print(f"{weights if content is not None else 'model'} written to {output} in {dtype}")
