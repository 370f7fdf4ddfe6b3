"""The memory of a run on one of its processes: what is there all the time, and what each part of a step adds to it.

Under ``fsdp2`` a process holds one part in `n` of all weights, gradients and states. While a block computes, its
weights are there as a whole, and those of the next one, which is fetched at the same time, and so are embedding and
norms; in the backward pass both blocks' gradients too. The loss reads whole heads, and generation the whole model.
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
"""What a process has on an accelerator before its first tensor: kernels, handles and buffers, about half a gigabyte."""


@dataclass(frozen=True)
class Estimate:
    """Bytes on one process.

    Args:
        held: What is there all the time, by name.
        phases: The parts of an optimizer step, and of evaluation, in order.
        offloaded: What lies in the memory of the CPU instead of the accelerator's.
    """

    held: Mapping[str, int]
    phases: list[Phase]
    offloaded: int = 0

    @property
    def always(self) -> int:
        """Bytes that are there all the time."""
        return sum(self.held.values())

    @property
    def largest(self) -> Phase:
        """The part of the step that takes most."""
        return max(self.phases, key=lambda phase: phase.peak)

    @property
    def peak(self) -> int:
        """The most that there is at a time."""
        return self.always + self.largest.peak


def estimate(module: CausalLMModule, plan: TrainerPlan, lengths: Lengths, process: int | None = None) -> Estimate:
    """Estimate the memory of a run from its second optimizer step on, when there are gradients and optimizer states.

    What lies free between tensors, and what an operation takes while it runs, is not in it.

    Args:
        module: The module, without models; it is left as it was.
        plan: What the trainer is asked for.
        lengths: How many tokens are read and written.
        process: Bytes of a process without models; on an accelerator, by default about half a gigabyte, else nothing.
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
        "gradients in buckets": weights.trained if plan.sharing == "ddp" else 0,
    }
    phases = rehearsal.phases if parts == 1 else [_sharded(phase, weights, parts) for phase in rehearsal.phases]
    return Estimate({name: size for name, size in held.items() if size}, phases, weights.teacher if elsewhere else 0)


def _sharded(phase: Phase, weights: Weights, parts: int) -> Phase:
    """A part of the step where weights are cut."""
    if phase.name in ("optimizer", "teacher's update"):
        return Phase(phase.name, {name: size // parts for name, size in phase.parts.items()})
    whole, blocks = weights.student + weights.adapters, 2 * weights.largest + weights.embedding
    relative = weights.read / whole  # of a teacher's precision to the student's
    gathered = {
        "rollouts": whole,
        "evaluation": whole,
        "teacher": round(relative * blocks),
        "student": blocks,
        "loss": weights.heads,
        "backward": blocks + 2 * weights.largest * weights.trained // whole,
    }
    return Phase(phase.name, {**phase.parts, "gathered weights": gathered[phase.name]})
