"""Builds the models of a module without numbers, in its own architecture and precision, and downloads nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.utils import logging

from lightning_sdft.modules import CausalLMModule, DistillationModule
from lightning_sdft.policy import Policy
from lightning_sdft.policy.lora import adapter_weights
from lightning_sdft.policy.quantized import QuantizedLinear
from lightning_sdft.teacher import CopiedTeacher, LiveTeacher

__all__ = ["Weights", "loaded"]


@dataclass(frozen=True)
class Weights:
    """Bytes of the weights of whole models.

    Args:
        student: The student's weights, without adapters.
        adapters: The adapters in the student, including the teacher's.
        trained: Those of the student and the adapters that get a gradient.
        teacher: Weights that only the teacher has.
        read: Weights that the teacher computes with, whether its own or the student's.
        largest: The student's largest block.
        embedding: The student's weights outside of its blocks.
        heads: The heads that the loss reads.
    """

    student: int
    adapters: int
    trained: int
    teacher: int
    read: int
    largest: int
    embedding: int
    heads: int

    @classmethod
    def of(cls, module: CausalLMModule) -> Weights:
        """The weights of a module that has loaded its models."""
        layers = [each for each in module.policy.modules() if isinstance(each, QuantizedLinear)]
        scales = [buffer for layer in layers for buffer in layer.buffers()]
        student = [*module.policy.parameters(), *scales]
        adapters = _bytes(adapter_weights(module.policy.model).values())
        blocks = [_bytes(block.parameters()) for block in module.policy.blocks()]
        teacher: list[nn.Parameter] = []
        read: list[nn.Parameter] = []
        heads = [module.policy.head.weight]
        if isinstance(module, DistillationModule):
            teacher = [each for each in module.teacher.parameters() if not any(each is other for other in student)]
            read = list(module.teacher.policy.parameters())  # without a compensated teacher's rounding errors
            heads.append(module.teacher.policy.head.weight)
        return cls(
            _bytes(student) - adapters,
            adapters,
            _bytes(each for each in student if each.requires_grad),
            _bytes(teacher),
            _bytes(read),
            max(blocks, default=0),
            _bytes(student) - sum(blocks),
            _bytes(heads),
        )


@contextmanager
def loaded(module: CausalLMModule) -> Iterator[None]:
    """Give a module its models, with random weights, and remove them afterwards.

    Args:
        module: A module that has not loaded its models; loaded ones would have numbers.
    """
    changes: dict[str, Any] = {"pretrained": False, "attention": _like(module.attention)}
    choice: Any = getattr(module, "teacher_choice", None)
    teacher_model = choice.model if isinstance(choice, CopiedTeacher) else None
    if teacher_model is not None:  # its weights would be read
        changes["teacher_choice"] = LiveTeacher()
    before = {name: getattr(module, name) for name in changes}
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        for name, value in changes.items():
            setattr(module, name, value)
        module.load_models()
        if teacher_model is not None:
            options = (False, module.attention, module.trust_remote_code)
            module.teacher = choice.copy_of(Policy.load(teacher_model, *options, tokenizer=module.tokenizer))
        yield
    finally:
        logging.set_verbosity(verbosity)
        for name, value in before.items():
            setattr(module, name, value)
        for name in ("policy", "teacher"):
            if hasattr(module, name):
                delattr(module, name)


def _like(attention: str | None) -> str | None:
    """An attention implementation that runs anywhere, and keeps as much in memory as the one asked for."""
    return "sdpa" if attention is not None and attention.startswith(("flash", "flex")) else attention


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(each.nbytes for each in tensors)
