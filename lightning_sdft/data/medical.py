"""Medical questions with open answers, after HuatuoGPT-o1 [2] as used in [1].

References:
    [1] Shenfeld et al., *Self-Distillation Enables Continual Learning*, 2026, https://arxiv.org/abs/2601.19897
    [2] Chen et al., *HuatuoGPT-o1, Towards Medical Complex Reasoning with LLMs*, 2024,
        https://arxiv.org/abs/2412.18925
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from lightning_sdft.data.questions import first_of_each, warn_of_overlap
from lightning_sdft.data.row_module import OnBadRow, RowDataModule
from lightning_sdft.data.splits import EvaluationSet, Splits
from lightning_sdft.data.tables import Row, take
from lightning_sdft.errors import DataError
from lightning_sdft.grading.judge import Judge, JudgedAnswer
from lightning_sdft.records import Example
from lightning_sdft.settings import Natural, Seed, check_ranges

__all__ = ["MedicalDataModule"]

TRAIN = "FreedomIntelligence/medical-o1-reasoning-SFT:en"
TEST = "FreedomIntelligence/medical-o1-verifiable-problem"

TRAIN_COLUMNS = ("Question", "Response")
TEST_COLUMNS = ("Open-ended Verifiable Question", "Ground-True Answer")


class MedicalDataModule(RowDataModule):
    """Medical questions; the demonstration is the expert's answer without its chain of thought, as in [1].

    Training rows have the columns ``Question`` and ``Response``. Evaluation uses other data, problems with a verifiable
    answer, with the columns ``Open-ended Verifiable Question`` and ``Ground-True Answer``. A judge compares the model's
    answer with it. The prompt is just the question; [1] does not state its own prompt.

    Args:
        train: File, folder or hub id of the training rows; see :func:`~lightning_sdft.data.tables.read_rows`. The
            default is the English part of the published data.
        test: The same for the problems to evaluate on; ``None`` trains without evaluation.
        test_questions: Number of problems sampled for the test; ``None`` uses all that validation does not.
        validation_questions: Number of other problems sampled for validation.
        judge: The judge that decides whether an answer is correct.
        split_seed: Seed for sampling the problems.
        on_bad_row: See :class:`RowDataModule`.
        **kwargs: See :class:`DemonstrationDataModule`.

    Raises:
        DataError: If there is something to evaluate and no judge.
    """

    def __init__(
        self,
        train: str | None = TRAIN,
        test: str | None = TEST,
        test_questions: Natural | None = 1000,
        validation_questions: Natural = 200,
        judge: Judge | None = None,
        split_seed: Seed = 0,
        on_bad_row: OnBadRow = "error",
        **kwargs: Any,
    ) -> None:
        check_ranges(MedicalDataModule, locals())
        # The shares are 0: evaluation is on other data, not on held-out training rows.
        super().__init__(train, None, test, 0.0, 0.0, split_seed, on_bad_row, **kwargs)
        if test and judge is None:
            raise DataError(
                "medical answers are free text, and a judge must say which are correct: give data.judge (class_path "
                "Judge with a chat Endpoint and prompt medical, or LocalJudge), or train without evaluation by "
                "data.test=null"
            )
        self.test_questions = test_questions
        self.validation_questions = validation_questions
        self.judge = judge

    def load(self) -> Splits:
        """Read the rows, and sample the problems to evaluate on."""
        train = self.read(self.train, "train") if self.train else []
        validation, test = self._drawn(self.read(self.test, "test")) if self.test else ([], [])
        warn_of_overlap(train, validation, "validation")
        warn_of_overlap(train, test, "test")
        return Splits(
            train,
            [self.evaluation_set(validation, "validation")] if validation else [],
            [self.evaluation_set(test, "test")] if test else [],
        )

    def example(self, row: Row, where: str, name: str, trained: bool) -> Example:
        """Make an example of a row."""
        columns = TRAIN_COLUMNS if trained else TEST_COLUMNS
        question, answer = (take(row, column, str, where) for column in columns)
        if not answer.strip():
            raise DataError(f"{where}: column {columns[1]!r} is empty; leave the row out")
        reference = {"question": question, "answer": answer}
        return Example(name, [{"role": "user", "content": question}], answer if trained else None, reference=reference)

    def evaluation_set(self, examples: Sequence[Example], split: str) -> EvaluationSet:
        """Combine problems with the judge."""
        if self.judge is None:
            raise DataError("there is no judge to grade the answers; give data.judge")
        return EvaluationSet(examples, {"medical": JudgedAnswer(self.judge)})

    def _drawn(self, problems: Sequence[Example]) -> tuple[list[Example], list[Example]]:
        """Sample the problems for validation and test; no question is in both."""
        different = first_of_each(problems, self.question)
        rest = len(different) - self.validation_questions
        tested = rest if self.test_questions is None else self.test_questions
        if rest < 0 or tested > rest:
            raise DataError(
                f"{self.test}: {len(different)} different questions are too few for {self.setting}.test_questions="
                f"{self.test_questions} and {self.setting}.validation_questions={self.validation_questions}; lower them"
            )
        order = random.Random(self.split_seed).sample(range(len(different)), tested + self.validation_questions)
        return (
            [different[index] for index in sorted(order[tested:])],
            [different[index] for index in sorted(order[:tested])],
        )
