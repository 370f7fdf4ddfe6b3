"""Demonstrations of one's own: any table with a column of prompts and a column of responses."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from lightning_sdft.data.base import DemonstrationDataModule, EvaluationSet, Splits
from lightning_sdft.data.row_module import OnBadRow, hold_out_questions, parse_rows, warn_of_overlap
from lightning_sdft.data.tables import Row, conversation, read_rows, take
from lightning_sdft.errors import DataError
from lightning_sdft.grading.base import Grader
from lightning_sdft.grading.exact_match import ExactMatch
from lightning_sdft.records import Example, Message

__all__ = ["JsonDataModule"]


class JsonDataModule(DemonstrationDataModule):
    """Rows of a JSON, JSON Lines or parquet file, a saved or a hub data set, whose columns are told by arguments.

    Args:
        train_file: File, folder or hub id of the training rows; see :func:`~lightning_sdft.data.tables.read_rows`.
        prompt_column: Column of the prompt: a string (one user turn), or a list of messages with ``role`` and
            ``content``, of which the last is a user turn.
        demonstration_column: Column of the expert's response; ``None`` if there are no demonstrations. Rows of
            evaluation files may lack it.
        reference_column: Column that the grader compares responses with. Evaluation needs one.
        context_column: Column of further text that only the teacher may see.
        system_prompt: System turn put before every prompt.
        id_column: Column of unique names; by default an id is made of the file's name and the row's number.
        validation_file: Like ``train_file``, for the rows evaluated during training.
        test_file: Like ``train_file``, for the rows evaluated by ``test`` and ``predict``.
        validation_share: Share of the training rows held out for validation, where there is no ``validation_file``.
        test_share: Share of the training rows held out for the test, where there is no ``test_file``.
        split_seed: Seed of the choice of held-out rows. All rows of a question go to the same side.
        on_bad_row: See :class:`RowDataModule`.
        limit: Train on the first so many rows that are not held out; ``None`` takes all.
        grader: What counts as correct; ``None`` is :class:`~lightning_sdft.grading.exact_match.ExactMatch`.
        name: Name of the metric.
        **kwargs: See :class:`DemonstrationDataModule`.

    Raises:
        DataError: If evaluation is asked for without a reference column, if both a file and a share are given for a
            split, or if the limit is not positive.
    """

    def __init__(
        self,
        train_file: str,
        prompt_column: str = "prompt",
        demonstration_column: str | None = "response",
        reference_column: str | None = None,
        context_column: str | None = None,
        system_prompt: str | None = None,
        id_column: str | None = None,
        validation_file: str | None = None,
        test_file: str | None = None,
        validation_share: float = 0.0,
        test_share: float = 0.0,
        split_seed: int = 0,
        on_bad_row: OnBadRow = "error",
        limit: int | None = None,
        grader: Grader | None = None,
        name: str = "json",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for split, file, share in (("validation", validation_file, validation_share), ("test", test_file, test_share)):
            if file and share:
                raise DataError(f"data.{split}_file and data.{split}_share={share} exclude each other; give one")
            if (file or share) and reference_column is None:
                raise DataError(
                    f"data.{split}_{'file' if file else 'share'} asks for evaluation, but there is nothing to compare "
                    "responses with; give data.reference_column, or leave the split out"
                )
        if limit is not None and limit < 1:
            raise DataError(f"data.limit={limit} leaves nothing to train on; give a positive number, or null for all")
        self.train_file = train_file
        self.prompt_column = prompt_column
        self.demonstration_column = demonstration_column
        self.reference_column = reference_column
        self.context_column = context_column
        self.system_prompt = system_prompt
        self.id_column = id_column
        self.validation_file = validation_file
        self.test_file = test_file
        self.validation_share = validation_share
        self.test_share = test_share
        self.split_seed = split_seed
        self.on_bad_row = on_bad_row
        self.limit = limit
        self.grader = grader or ExactMatch()
        self.metric_name = name

    def load(self) -> Splits:
        """Read the files and hold out the shares."""
        rows = self._examples(self.train_file, "train", graded=self.validation_share + self.test_share > 0)
        train, validation, test = hold_out_questions(rows, [self.validation_share, self.test_share], self.split_seed)
        if self.validation_file:
            validation = self._examples(self.validation_file, "validation", graded=True)
        if self.test_file:
            test = self._examples(self.test_file, "test", graded=True)
        train = train[: self.limit]
        for split, evaluated in (("validation", validation), ("test", test)):
            warn_of_overlap(train, evaluated, split)
        return Splits(
            train,
            self._sets(validation, wanted=bool(self.validation_file or self.validation_share)),
            self._sets(test, wanted=bool(self.test_file or self.test_share)),
        )

    def _sets(self, examples: Sequence[Example], wanted: bool) -> list[EvaluationSet]:
        return [EvaluationSet(examples, {self.metric_name: deepcopy(self.grader)})] if wanted else []

    def _examples(self, source: str, split: str, graded: bool) -> list[Example]:
        rows = read_rows(source, split, argument=f"data.{split}_file")

        def parse(row: Row, where: str, number: int) -> Example:
            return self._example(row, source, number, split == "train", graded)

        return parse_rows(rows, source, parse, self.on_bad_row)

    def _example(self, row: Row, source: str, number: int, trained: bool, graded: bool) -> Example:
        where = f"{source}, row {number}"
        name = f"{Path(source).stem}-{number}"
        if self.id_column is not None:
            name = str(take(row, self.id_column, object, where))
        demonstration = None
        if self.demonstration_column is not None and (trained or row.get(self.demonstration_column) is not None):
            demonstration = take(row, self.demonstration_column, str, where)
            if not demonstration.strip():
                raise DataError(f"{where}: column {self.demonstration_column!r} is empty; leave the row out")
        reference = None if self.reference_column is None else row.get(self.reference_column)
        if graded and reference is None and self.reference_column is not None:
            take(row, self.reference_column, object, where)
            raise DataError(f"{where}: column {self.reference_column!r} is null; it is to be graded, so give a value")
        context = None if self.context_column is None else take(row, self.context_column, str, where)
        try:
            return Example(name, self._prompt(row, where), demonstration, context, reference)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error

    def _prompt(self, row: Row, where: str) -> list[Message]:
        messages = conversation(row, self.prompt_column, where)
        if self.system_prompt is None:
            return messages
        if messages and messages[0]["role"] == "system":
            raise DataError("the prompt has a system turn of its own; leave out data.system_prompt, or that turn")
        return [Message(role="system", content=self.system_prompt), *messages]
