"""Shows what the student writes, where the teacher disagrees, and what the teacher would have said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_sdft.callbacks.loggers import log_table
from lightning_sdft.callbacks.tables import Cell, shaded, shortened
from lightning_sdft.data.groups import Item
from lightning_sdft.inspection import TokenLook, token_looks
from lightning_sdft.inspection.visible import visible
from lightning_sdft.modules.distillation import DistillationModule
from lightning_sdft.records import GREEDY, text_of
from lightning_sdft.rollout import respond
from lightning_sdft.settings import Count, check_ranges
from lightning_sdft.teacher import OffloadedTeacher

__all__ = ["RolloutTable"]

COLUMNS = (
    "prompt",
    "student",
    "teacher would say",
    "demonstration",
    "KL",
    "where they differ most",
    "tokens",
    "example",
)
"""Titles that stay whole in narrow columns: TensorBoard breaks within words."""

NOTE = "KL(teacher || student), nats a token: *from 0.1*, **from 0.5**."

WORST = 3
"""Most tokens of a rollout whose disagreement is spelled out."""

NOTABLE = 0.1
"""KL in nats from which a token is one of them."""


class RolloutTable(Callback):
    """Shows rollouts as a table (in TensorBoard: tab Text), with the KL of teacher and student at each token.

    Beside them are what the teacher would have said, greedily, and the tokens at which the two differ most. An
    offloaded teacher is not asked, because each token would send it to the device as a whole.

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
        """Log a table after the first and every n-th optimizer step. All processes compare, and the first one logs."""
        step = trainer.global_step
        items = [item for item in batch.group.items if item.rollout is not None and item.teacher is not None]
        if not items or step == self._last_step or (step != 1 and step % self.every_n_steps):
            return
        self._last_step = step
        count = min(self.rows, len(items))
        items = [items[index * len(items) // count] for index in range(count)]
        with trainer.precision_plugin.val_step_context():
            rows = self.table(cast(DistillationModule, pl_module), items)
        log_table(trainer, "rollouts", COLUMNS, rows, NOTE)

    def table(self, module: DistillationModule, items: Sequence[Item]) -> list[list[Cell]]:
        """One row per rollout.

        Args:
            module: The module with student and teacher.
            items: Examples with their rollouts.
        """
        looks = token_looks(module, [item.student for item in items], [cast(Any, item.teacher) for item in items], 1)
        taught = self._taught(module, items)
        return [self._row(*each) for each in zip(items, looks, taught, strict=True)]

    def _taught(self, module: DistillationModule, items: Sequence[Item]) -> list[str]:
        """What the teacher would have said."""
        if isinstance(module.teacher, OffloadedTeacher):
            return [""] * len(items)
        prompts = [item.teacher.prompt for item in items if item.teacher is not None]
        answers = respond(module.teacher.policy, prompts, module.max_completion_tokens, GREEDY, [0] * len(prompts))
        return [module.tokenizer.decode(each.completion) for each in answers]

    def _row(self, item: Item, tokens: Sequence[TokenLook], taught: str) -> list[Cell]:
        example, cut = item.example, item.rollout is not None and not item.rollout.finished
        trained = [token for token in tokens if token.trained]
        mean = sum(token.kl for token in trained) / len(trained) if trained else float("nan")
        return [
            self._cell(text_of(example.prompt[-1]["content"])),
            shaded(tokens, self.max_characters),
            self._cell(taught),
            self._cell(example.demonstration or ""),
            Cell.of(f"{mean:.3f}"),
            Cell.of("\n".join(map(_difference, _worst(tokens)))),
            Cell.of(f"{len(tokens)}, cut" if cut else str(len(tokens))),
            self._cell(example.id),
        ]

    def _cell(self, text: str) -> Cell:
        return Cell.of(shortened(text, self.max_characters))


def _worst(tokens: Sequence[TokenLook]) -> list[TokenLook]:
    return sorted((token for token in tokens if token.kl >= NOTABLE), key=lambda token: -token.kl)[:WORST]


def _difference(token: TokenLook) -> str:
    """What the student wrote, and what the teacher finds likeliest there."""
    (teacher,) = token.teacher
    ours, theirs = (visible(each, newline="\u21b5") for each in (token.text, teacher.text))
    return f"'{ours}', teacher '{theirs}' {teacher.probability:.2f}: KL {token.kl:.2f}"
