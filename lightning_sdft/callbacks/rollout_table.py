"""Shows what the student writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_sdft.data.groups import Item
from lightning_sdft.modules.causal_lm import CausalLMModule
from lightning_sdft.settings import Count, check_ranges

__all__ = ["RolloutTable"]


class RolloutTable(Callback):
    """Shows rollouts in TensorBoard as a table (tab Text), beside the prompt and the demonstration.

    Args:
        every_n_steps: Optimizer steps between two tables.
        rows: Rollouts per table, evenly spread over those of the optimizer step, which are sorted by length.
        max_characters: Longer texts are shortened in the middle.
    """

    def __init__(self, every_n_steps: Count = 50, rows: Count = 4, max_characters: Count = 2000) -> None:
        check_ranges(RolloutTable, locals())
        self.every_n_steps = every_n_steps
        self.rows = rows
        self.max_characters = max_characters
        self._last_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting at the present step, so that no table is logged before the next optimizer step."""
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log a table after the first and every n-th optimizer step."""
        step = trainer.global_step
        items = [item for item in batch.group.items if item.rollout is not None]
        if not items or step == self._last_step or (step != 1 and step % self.every_n_steps):
            return
        self._last_step = step
        module = cast(CausalLMModule, pl_module)
        table = self.table(items, [module.tokenizer.decode(item.student.completion) for item in items])
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                logger.experiment.add_text("rollouts", table, step)

    def table(self, items: Sequence[Item], responses: Sequence[str]) -> str:
        """A Markdown table, one row per rollout shown.

        Args:
            items: Examples with their rollouts.
            responses: The rollouts as text.
        """
        lines = ["| example | prompt | demonstration | rollout | tokens | finished |", "|---|---|---|---|---|---|"]
        every = list(zip(items, responses, strict=True))
        count = min(self.rows, len(every))
        for item, response in (every[index * len(every) // count] for index in range(count)):
            example, finished = item.example, item.rollout is not None and item.rollout.finished
            texts = (example.id, example.prompt[-1]["content"], example.demonstration or "", response)
            cells = [*map(self._cell, texts), str(len(item.student.completion)), "yes" if finished else "no"]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)

    def _cell(self, text: str) -> str:
        half = self.max_characters // 2
        if len(text) > self.max_characters:
            text = f"{text[:half]} [...] {text[-half:]}"
        escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "&#124;")
        return escaped.replace("\n", "<br>")
