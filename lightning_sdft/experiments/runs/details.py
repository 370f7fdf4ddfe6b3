"""What a run keeps beside its outcome: the verdict on each answer, its curves, and where it was performed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_sdft.data.groups import MicroBatch
from lightning_sdft.distributed.processes import of_each_process
from lightning_sdft.experiments.runs.run import ACCURACY, PRIOR
from lightning_sdft.modules.causal_lm import CausalLMModule
from lightning_sdft.storage.atomic import write_text

__all__ = ["Details", "VerdictKeeper", "Verdicts"]

Verdicts = Mapping[str, Mapping[str, bool | None]]
"""Whether each question was answered right, by the metric and the question's id; ``None`` if nothing says so."""

FILE = "details.json"


@dataclass(frozen=True)
class Details:
    """The details of a run.

    Args:
        verdicts: The verdicts of the test split, by the name of the accuracy that they are counted in.
        curves: Accuracies on the validation split by metric and optimizer step.
        provenance: Versions, commit and hardware.
    """

    verdicts: Verdicts = field(default_factory=dict)
    curves: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write the details to the folder of the run."""
        write_text(folder / FILE, json.dumps(asdict(self), separators=(",", ":")) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Details:
        """The details of a run; empty ones if an earlier version of this package, which kept none, performed it."""
        file = folder / FILE
        if not file.exists():
            return cls()
        content = json.loads(file.read_text(encoding="utf-8"))
        curves = {name: {int(step): value for step, value in each.items()} for name, each in content["curves"].items()}
        return cls(content["verdicts"], curves, content["provenance"])


class VerdictKeeper(Callback):
    """Keeps the verdicts of ``test`` on each answer: of each set, those of the grader that gives the set its name.

    Where answers have scores, what is reported is not the share of right ones, and all verdicts are ``None``.
    """

    def __init__(self) -> None:
        self.verdicts: dict[str, dict[str, bool | None]] = {}

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: MicroBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the verdicts on a batch."""
        evaluated = cast(CausalLMModule, pl_module).graded.sets[dataloader_idx]
        given = outputs.get("verdicts") or []  # none if nothing is graded
        for example, verdicts in zip(MicroBatch.of(batch).examples[: len(given)], given, strict=True):
            name = f"{PRIOR if evaluated.prior else f'{ACCURACY}/'}{evaluated.name}"
            verdict = None if evaluated.graders[evaluated.name].has_scores else verdicts[evaluated.name]
            self.verdicts.setdefault(name, {})[example.id] = verdict

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather the verdicts of all processes, in the order of the questions' ids."""
        merged: dict[str, dict[str, bool | None]] = {}
        for found in of_each_process(self.verdicts):
            for name, each in found.items():
                merged.setdefault(name, {}).update(each)
        self.verdicts = {name: dict(sorted(each.items())) for name, each in merged.items()}
