"""Loading a policy with the weights of a checkpoint, for export and evaluation."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from lightning_sdft.checkpoint.adapters import check_adapters
from lightning_sdft.checkpoint.builders import check_builders
from lightning_sdft.checkpoint.files import load_checkpoint
from lightning_sdft.checkpoint.method import KEY, described_lora
from lightning_sdft.checkpoint.weights import fitting
from lightning_sdft.errors import CheckpointError
from lightning_sdft.policy import Policy, load_tokenizer
from lightning_sdft.policy.loading import tie_as_in
from lightning_sdft.policy.lora import STUDENT, TEACHER, adapter_state, add_adapter
from lightning_sdft.teacher.compensated import join

__all__ = ["load_policy"]


def load_policy(
    model: str | None,
    checkpoint: str | None,
    weights: Literal["student", "teacher"] = "student",
    trust_remote_code: bool = False,
) -> Policy:
    """Load a pretrained model, or a model with the weights of a checkpoint.

    Args:
        model: Model for the architecture and the tokenizer; by default the one that training started from.
        checkpoint: The checkpoint file; without one, the model keeps its pretrained weights.
        weights: Whether to load the student's or the teacher's weights from the checkpoint.
        trust_remote_code: Whether code that comes with the model may be run.

    Raises:
        CheckpointError: If neither a model nor a checkpoint is given, or if the checkpoint is damaged, was not written
            by this package, or lacks the requested weights.
    """
    if checkpoint is None:
        if model is None:
            raise CheckpointError("a model or a checkpoint is needed; give model=NAME or checkpoint=FILE")
        return Policy.load(model, trust_remote_code=trust_remote_code)
    content = load_checkpoint(checkpoint)
    check_builders(content)
    if KEY not in content:
        raise CheckpointError(f"{checkpoint!r} is not a checkpoint of lightning_sdft; give one that is")
    lora, source = described_lora(content[KEY]), model or content[KEY]["model"]
    if lora is None:
        state = _below(content["state_dict"], {STUDENT: "policy.", TEACHER: "teacher.policy."}[weights])
        if weights == TEACHER:
            for name, residual in _below(content["state_dict"], "teacher.residual.").items():
                state[name] = join(state[name], residual)
    else:
        state = adapter_state(content["state_dict"], weights)
    if not state:
        raise CheckpointError(
            f"{checkpoint!r}, of {content[KEY]['method']}, has no weights of a {weights}; ask for the other weights"
        )
    arguments = content.get("hyper_parameters", {}).get("template_arguments")
    tokenizer = load_tokenizer(source, trust_remote_code, arguments)
    policy = Policy.load(source, lora is not None, None, trust_remote_code, tokenizer)
    if lora is not None:
        add_adapter(policy.model, lora, source=source)
        check_adapters(state, policy)
        state = _below(state, "policy.")
    else:
        tie_as_in(policy.model, _below(state, "model."))
    with fitting(state, policy, checkpoint):
        policy.load_state_dict(state, strict=lora is None)
    return policy


def _below(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries whose name begins with a prefix, renamed without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
