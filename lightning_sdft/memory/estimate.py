"""Estimates the memory of a run on one of its processes: what is always allocated, and what each phase of a step adds.

Under ``fsdp2`` a process holds one of `n` shards of all weights, gradients and optimizer states. While a block
computes, its weights are gathered, together with those of the next block, which are prefetched, and with embedding and
norms; in the backward pass the gradients of both blocks are whole, too. The loss gathers the heads, and generation
gathers the whole model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lightning_sdft.memory.lengths import Lengths
from lightning_sdft.memory.models import Weights
from lightning_sdft.memory.plan import TrainerPlan
from lightning_sdft.memory.rehearsal import Phase, rehearse
from lightning_sdft.modules import CausalLMModule
from lightning_sdft.teacher import CopiedTeacher

__all__ = ["Estimate", "estimate"]

CONTEXT = 2**29
"""Bytes of a process on an accelerator before its first tensor: kernels, handles and buffers, about half a gigabyte."""


@dataclass(frozen=True)
class Estimate:
    """Bytes on one process.

    Args:
        held: What is always allocated, by name.
        phases: The phases of an optimizer step, and evaluation, in order.
        offloaded: What is in the memory of the CPU instead of the accelerator's.
    """

    held: Mapping[str, int]
    phases: list[Phase]
    offloaded: int = 0

    @property
    def always(self) -> int:
        """Bytes that are always allocated."""
        return sum(self.held.values())

    @property
    def largest(self) -> Phase:
        """The phase that takes most memory."""
        return max(self.phases, key=lambda phase: phase.peak)

    @property
    def peak(self) -> int:
        """The largest number of bytes at any time."""
        return self.always + self.largest.peak


def estimate(module: CausalLMModule, plan: TrainerPlan, lengths: Lengths, process: int | None = None) -> Estimate:
    """Estimate the memory of a run from its second optimizer step on, when there are gradients and optimizer states.

    The estimate leaves out gaps between tensors, and what an operation needs only while it runs.

    Args:
        module: The module, which has not loaded its models; it is left as it was.
        plan: The trainer's settings.
        lengths: The numbers of tokens that are read and written.
        process: Bytes of a process without models; by default about half a gigabyte on an accelerator, otherwise 0.
    """
    rehearsal = rehearse(module, plan, lengths)
    weights, parts = rehearsal.weights, plan.parts
    choice = getattr(module, "teacher_choice", None)
    elsewhere = plan.accelerator and isinstance(choice, CopiedTeacher) and choice.memory == "offload"
    if process is None:
        process = CONTEXT if plan.accelerator else 0
    held = {
        "process": process,
        "student's weights": weights.student // parts,
        "adapters": weights.adapters // parts,
        "gradients": weights.trained // parts,
        "optimizer": rehearsal.states // parts,
        "teacher's weights": 0 if elsewhere else weights.teacher // parts,
        "base model's weights": weights.student // parts if _keeps_base(module, plan) else 0,
        "gradients in buckets": weights.trained if plan.sharing == "ddp" else 0,
    }
    phases = rehearsal.phases if parts == 1 else [_sharded(phase, weights, parts) for phase in rehearsal.phases]
    return Estimate({name: size for name, size in held.items() if size}, phases, weights.teacher if elsewhere else 0)


def _keeps_base(module: CausalLMModule, plan: TrainerPlan) -> bool:
    """Whether a copy of the model that training started from is kept; with LoRA it is the model without its adapter."""
    return module.lora is None and (module.retention is not None or plan.compares_with_base)


def _sharded(phase: Phase, weights: Weights, parts: int) -> Phase:
    """A phase with sharded weights."""
    if phase.name in ("optimizer", "teacher's update"):
        return Phase(phase.name, {name: size // parts for name, size in phase.parts.items()})
    whole, blocks = weights.student + weights.adapters, 2 * weights.largest + weights.embedding
    relative = weights.read / whole  # the teacher's bytes for each of the student's
    gathered = {
        "rollouts": whole,
        "evaluation": whole,
        "teacher": round(relative * blocks),
        "student": blocks,
        "loss": weights.heads,
        "retention": blocks,
        "backward": blocks + 2 * weights.largest * weights.trained // whole,
    }
    return Phase(phase.name, {**phase.parts, "gathered weights": gathered[phase.name]})
