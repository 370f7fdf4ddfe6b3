"""Shows graded validation answers, the base model's beside the trained one's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_sdft.callbacks.loggers import log_table
from lightning_sdft.callbacks.tables import Cell, shortened
from lightning_sdft.data.groups import MicroBatch
from lightning_sdft.modules.causal_lm import CausalLMModule
from lightning_sdft.records import Example, text_of
from lightning_sdft.settings import Count, check_ranges

__all__ = ["AnswerTable"]

Graded = dict[str, tuple[str, bool | None]]
"""An answer and its verdict, by the id of the example; ``None`` if it was not graded."""

COLUMNS = ("right", "prompt", "answer", "base model", "base right", "reference", "example")
"""Titles that stay whole in narrow columns: TensorBoard breaks within words."""

VERDICTS = {True: "yes", False: "no", None: "not graded"}

BEFORE = "what it could do before"
"""Group of the tables of prior tasks, which TensorBoard lists, by name, behind rollouts."""


class AnswerTable(Callback):
    """Shows answers to validation questions as tables (in TensorBoard: tab Text), wrong ones first.

    They are named ``answers/<set>`` and ``what it could do before/<set>``. Beside each stands what the base model
    answered before training, if the sanity check has asked it (``num_sanity_val_steps: -1``). Among the wrong ones
    those come first that the base model had right. Answers that another model judges are shown without verdicts, which
    would have to be paid for again.

    Args:
        questions: Questions of each set to keep, the first ones; with several processes, the first of process 0.
        rows: Rows per table.
        max_characters: Longer texts are shortened in the middle.
    """

    def __init__(self, questions: Count = 128, rows: Count = 20, max_characters: Count = 1000) -> None:
        check_ranges(AnswerTable, locals())
        self.questions = questions
        self.rows = rows
        self.max_characters = max_characters
        self.base: dict[str, Graded] = {}
        self._given: dict[str, Graded] = {}
        self._examples: dict[str, dict[str, Example]] = {}

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the answers of the last validation."""
        self._given, self._examples = {}, {}

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: MicroBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the answers to the first questions."""
        module = cast(CausalLMModule, pl_module)
        evaluated = module.graded.sets[dataloader_idx]
        given = self._given.setdefault(evaluated.name, {})
        examples = self._examples.setdefault(evaluated.name, {})
        left = self.questions - len(given)
        if left <= 0 or not trainer.is_global_zero or not module.graded.grades(dataloader_idx):  # then nothing answers
            return
        asked, rollouts = batch.examples[:left], outputs["rollouts"][:left]
        texts = [module.tokenizer.decode(rollout.completion) for rollout in rollouts]
        grader = next(iter(module.graded.of(dataloader_idx).values()))
        verdicts: Sequence[bool | None] = [None] * len(texts)
        if not grader.asks_a_model:
            answers = [module.tokenizer.answer(rollout.completion) for rollout in rollouts]
            verdicts = grader.grade_all(answers, [example.reference for example in asked])
        for example, text, verdict in zip(asked, texts, verdicts, strict=True):
            given[example.id] = (text, verdict)
            examples[example.id] = example

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what the base model has answered; later, log what the trained one has."""
        if trainer.sanity_checking:
            if trainer.ckpt_path is None:
                self.base = self._given
            return
        prior = {each.name for each in cast(CausalLMModule, pl_module).graded.sets if each.prior}
        for name, given in self._given.items():
            if given:
                title = f"{BEFORE if name in prior else 'answers'}/{name}"
                log_table(trainer, title, COLUMNS, self.table(name, given))

    def table(self, name: str, given: Graded) -> list[list[Cell]]:
        """A row per question, wrong answers first.

        Args:
            name: The evaluation set.
            given: The answers to its questions.
        """
        base = self.base.get(name, {})
        rank = {False: 0, None: 1, True: 2}
        order = sorted(given, key=lambda each: (rank[given[each][1]], base.get(each, ("", None))[1] is not True))
        rows = []
        for each in order[: self.rows]:
            example, (text, verdict) = self._examples[name][each], given[each]
            before, was = base.get(each, ("-", None))
            verdict_before = VERDICTS[was] if each in base else "-"
            reference = "" if example.reference is None else str(example.reference)
            asked = text_of(example.prompt[-1]["content"])
            texts = (VERDICTS[verdict], asked, text, before, verdict_before, reference, each)
            rows.append([Cell.of(shortened(one, self.max_characters)) for one in texts])
        return rows

    def state_dict(self) -> dict[str, Any]:
        """The base model's answers, which a resumed run can no longer ask for."""
        return {"base": self.base}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the base model's answers."""
        self.base = state_dict["base"]
