"""Finds settings with which a run would take less memory, and how much it would take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.errors import PolicyError
from lightning_sdft.memory.estimate import Estimate, estimate
from lightning_sdft.memory.lengths import lengths_by_budgets
from lightning_sdft.memory.plan import TrainerPlan
from lightning_sdft.modules import CausalLMModule
from lightning_sdft.policy.lora import LoRA
from lightning_sdft.progress import Work
from lightning_sdft.teacher import CopiedTeacher

__all__ = ["Remedy", "remedies"]

DEVICES = 8
"""Number of devices of a common machine, over which the weights could be sharded."""

QUIET = 10.0
"""Seconds until it is said how far the search is."""


@dataclass(frozen=True)
class Remedy:
    """A change of settings.

    Args:
        settings: The settings as the command line takes them.
        peak: Peak memory of the run with them, in bytes per process.
    """

    settings: str
    peak: int


def remedies(
    module: CausalLMModule, datamodule: DemonstrationDataModule, plan: TrainerPlan, evaluated: int, now: Estimate
) -> list[Remedy]:
    """Changes of settings with which the run would take less memory, those that help most first.

    Each is tried by itself. Only an adapter and another precision change what is learned.

    Args:
        module: The module, which has not loaded its models; it is left as it was.
        datamodule: Its data.
        plan: The trainer's settings.
        evaluated: Number of prompts in an evaluation batch.
        now: The estimate by the budgets with the present settings.
    """
    found, tried = [], list(_changes(module, datamodule, plan, evaluated))
    with Work("memory", len(tried), "changes tried", quiet=QUIET) as work:
        for settings, changes, other in tried:
            with _changed(module, changes), _changed(datamodule, changes):
                count = min(evaluated, changes.get("evaluation_batch_size", evaluated))
                lengths = lengths_by_budgets(module, datamodule, other.processes, count)
                with suppress(PolicyError):  # a model that cannot be so, as one without linear layers to quantize
                    peak = estimate(module, other, lengths, now.held.get("process")).peak
                    if peak < now.peak:
                        found.append(Remedy(settings, peak))
            work.advance()
    return sorted(found, key=lambda remedy: remedy.peak)


def _changes(
    module: CausalLMModule, datamodule: DemonstrationDataModule, plan: TrainerPlan, evaluated: int
) -> Iterator[tuple[str, dict[str, Any], TrainerPlan]]:
    """Yield settings, the attributes of module and data module that they set, and the plan with them."""
    group = datamodule.group_size(plan.processes)
    if (datamodule.micro_batch_size or group) > 1:
        yield "data.micro_batch_size=1", {"micro_batch_size": 1}, plan
    if not module.gradient_checkpointing:
        yield "model.gradient_checkpointing=true", {"gradient_checkpointing": True}, plan
    if evaluated > 1:
        few = max(evaluated // 4, 1)
        yield f"data.evaluation_batch_size={few}", {"evaluation_batch_size": few}, plan
    teacher: Any = getattr(module, "teacher_choice", None)
    copied = isinstance(teacher, CopiedTeacher)
    quantizable = find_spec("bitsandbytes") is not None and plan.parts == 1
    if module.lora is None and not (copied and teacher.model) and find_spec("peft") is not None:
        of_adapter = {"teacher_choice": CopiedTeacher()} if copied else {}
        yield f"model.lora.rank={LoRA().rank}", {"lora": LoRA(), **of_adapter}, plan
        if quantizable:
            settings = f"model.lora.rank={LoRA().rank} model.lora.base=nf4"
            yield settings, {"lora": LoRA(base="nf4"), **of_adapter}, plan
    elif module.lora is not None and module.lora.base == "full" and quantizable:
        yield "model.lora.base=nf4", {"lora": replace(module.lora, base="nf4")}, plan
    offloadable = copied and module.lora is None and getattr(module, "rollout_source", "") != "teacher"
    if offloadable and plan.accelerator and plan.parts == 1:
        settings = "model.teacher=CopiedTeacher model.teacher.memory=offload"
        yield settings, {"teacher_choice": replace(teacher, memory="offload")}, plan
    if plan.accelerator and plan.precision in ("32-true", "bf16-mixed"):
        yield "trainer.precision=bf16-true", {}, replace(plan, precision="bf16-true")
    if plan.accelerator and plan.parts < DEVICES and datamodule.batch_size % DEVICES == 0:
        micro = min(datamodule.micro_batch_size or group, datamodule.batch_size // DEVICES)
        if datamodule.batch_size // DEVICES % micro == 0:
            settings = f"trainer.strategy=fsdp2 trainer.devices={DEVICES} data.micro_batch_size={micro}"
            yield settings, {"micro_batch_size": micro}, replace(plan, processes=DEVICES, sharing="fsdp2")


@contextmanager
def _changed(owner: object, changes: dict[str, Any]) -> Iterator[None]:
    """Set those of the attributes that an object has, and restore them afterwards."""
    before = {name: getattr(owner, name) for name in changes if hasattr(owner, name)}
    for name in before:
        setattr(owner, name, changes[name])
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)
