"""The subcommand ``memory``: estimates the memory of a run before anybody rents a machine for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lightning_sdft.commands.inspect import InspectTrainer
from lightning_sdft.commands.preflight import PreflightTrainer
from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.errors import DataError
from lightning_sdft.memory import Estimate, Remedy, TrainerPlan, estimate, lengths_by_budgets, lengths_by_data, remedies
from lightning_sdft.modules.causal_lm import CausalLMModule
from lightning_sdft.modules.timing import resident_memory

__all__ = ["MemoryTrainer"]

ELSEWHERE: dict[str, Any] = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
"""Arguments of a trainer that does not train; the run to estimate may be for the devices of another machine."""

UNCOUNTED = ("KLToBase", "PassAtK", "PriorTasks", "VLLMEngine")
"""Classes that hold models or answer questions themselves, which the estimate leaves out."""

GIB = 2**30

MMAP_THRESHOLD = 2**18
"""Size in bytes from which glibc is to return a block to the system as soon as it is freed.

By default glibc starts with half of this size and raises it up to 32 MiB; it keeps most of the smaller blocks.
"""


class MemoryTrainer(PreflightTrainer, InspectTrainer):
    """A trainer that can also check a run before training, look inside it, and estimate its memory."""

    asked: Mapping[str, Any]
    """Arguments of the trainer that ``fit`` would use."""

    def memory(
        self,
        model: CausalLMModule,
        datamodule: DemonstrationDataModule,
        processes: int | None = None,
        json: str | None = None,
    ) -> Estimate:
        """Estimate the memory that ``fit`` would take with the same config: no weights, no training, no GPU.

        It runs an optimizer step without computing its numbers and counts every tensor: once with all prompts and
        responses as long as their budgets, and once with the lengths in the data, if the data can be read. All figures
        are per process; there is one process per device. On a CPU, glibc keeps some freed memory, and a process takes
        more: about a sixth more, with LoRA half as much again, and with LoRA and gradient checkpointing nearly three
        times as much (SmolLM2). MALLOC_MMAP_THRESHOLD_=262144 in the environment of fit prevents that.

        Args:
            model: The module.
            datamodule: Its data.
            processes: Number of processes that train together, if not trainer.devices times trainer.num_nodes.
            json: JSON file to write the estimates to, with sizes in bytes.

        Returns:
            The estimate by the budgets.

        Raises:
            DataError: If so many processes cannot share the batch size evenly.
            PolicyError: If the number of processes cannot be found out, or if precision or strategy is unknown.
        """
        plan = TrainerPlan.of(self.asked, processes)
        console = Console()
        console.print(f"{model.model}: a step is rehearsed without numbers, which takes a while", highlight=False)
        try:
            by_data = lengths_by_data(model, datamodule, plan.processes)
            evaluated = len(by_data.evaluated)
        except (DataError, OSError) as error:
            by_data, evaluated = None, datamodule.evaluation_batch_size
            console.print(
                f"the data cannot be read, so evaluation is assumed to have full batches: {error}", highlight=False
            )
        process = None if plan.accelerator else round(resident_memory() * 2**20)
        lengths = lengths_by_budgets(model, datamodule, plan.processes, evaluated)
        result = estimate(model, plan, lengths, process)
        estimates = {"budgets": result}
        if by_data is not None:
            estimates["data"] = estimate(model, plan, by_data, process)
        found = remedies(model, datamodule, plan, evaluated, result)
        _report(console, model, plan, estimates, found)
        others = [*(self.asked.get("callbacks") or []), getattr(model, "engine", None)]
        ignored = [type(each).__name__ for each in others if type(each).__name__ in UNCOUNTED]
        if ignored:
            console.print(f"- not counted: {', '.join(ignored)}", highlight=False)
        if json is not None:
            _write(Path(json), plan, estimates, found)
        return result


def _report(
    console: Console, model: CausalLMModule, plan: TrainerPlan, estimates: dict[str, Estimate], found: list[Remedy]
) -> None:
    device = "accelerator" if plan.accelerator else "CPU"
    sharing = "" if plan.processes == 1 else f" of {plan.processes} ({plan.sharing})"
    console.print(
        f"{type(model).__name__} of {model.model}, {plan.precision}, GiB per {device}{sharing}", highlight=False
    )
    table = Table()
    table.add_column("")
    for name in estimates:
        table.add_column(f"by the {name}", justify="right")
    first = estimates["budgets"]
    for name in first.held:
        table.add_row(name, *(_size(each.held[name]) for each in estimates.values()))
    table.add_row("all the time", *(_size(each.always) for each in estimates.values()), end_section=True)
    for phase in first.phases:
        peaks = [{other.name: other.peak for other in each.phases} for each in estimates.values()]
        table.add_row(f"+ {phase.name}", *(_size(each.get(phase.name, 0)) for each in peaks))
    table.add_section()
    table.add_row("peak", *(_size(each.peak) for each in estimates.values()), style="bold")
    console.print(table)
    for name, each in estimates.items():
        parts = ", ".join(f"{_size(size)} {part}" for part, size in each.largest.parts.items() if size >= GIB / 200)
        console.print(f"- peak by the {name}: {each.largest.name} ({parts})", highlight=False)
    if first.offloaded:
        console.print(f"- in the memory of the CPU: {_size(first.offloaded)} teacher's weights", highlight=False)
    if not plan.accelerator:
        console.print(
            f"- glibc keeps some freed memory in addition; type MALLOC_MMAP_THRESHOLD_={MMAP_THRESHOLD} before the "
            "command that trains to prevent that",
            highlight=False,
        )
    for remedy in found:
        console.print(f"- {_size(remedy.peak)} by the budgets with {remedy.settings}", highlight=False)


def _size(size: int) -> str:
    return f"{size / GIB:.2f}"


def _write(path: Path, plan: TrainerPlan, estimates: dict[str, Estimate], found: list[Remedy]) -> None:
    record = {
        "plan": asdict(plan),
        **{
            f"by_{name}": {
                "held": dict(each.held),
                "phases": {phase.name: phase.parts for phase in each.phases},
                "peak": each.peak,
                "peak_phase": each.largest.name,
            }
            for name, each in estimates.items()
        },
        "remedies": [asdict(remedy) for remedy in found],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dumps(record, indent=2) + "\n", encoding="utf-8")
