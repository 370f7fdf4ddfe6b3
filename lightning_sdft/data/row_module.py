"""What the data modules of rows share: sources, shares held out by question, and what is done about bad rows."""

from __future__ import annotations

import logging
import re
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from lightning_sdft.data.base import DemonstrationDataModule, EvaluationSet, Splits
from lightning_sdft.data.example import DataError, Example
from lightning_sdft.data.tables import Row, hold_out, read_rows

__all__ = ["OnBadRow", "RowDataModule", "hold_out_questions", "parse_rows", "question", "warn_of_overlap"]

log = logging.getLogger(__name__)

T = TypeVar("T")

OnBadRow = Literal["error", "skip"]


class RowDataModule(DemonstrationDataModule):
    """Rows become examples; a subclass says how, and how answers are graded.

    Args:
        train: File, folder or hub id of the training rows; see :func:`~lightning_sdft.data.tables.read_rows`.
        validation: The same for rows evaluated during training.
        test: The same for rows evaluated by ``test`` and ``predict``.
        validation_share: Share of the training questions held out for validation, where ``validation`` is not given.
        test_share: Share of the training questions held out for the test, where ``test`` is not given.
        split_seed: Seed of the choice of held-out questions. All rows of a question go to the same side.
        on_bad_row: What to do about a row that cannot be used: ``error`` stops and names it, ``skip`` leaves it out
            with a warning that counts such rows.
        **kwargs: See :class:`DemonstrationDataModule`.

    Raises:
        DataError: If both rows and a share are given for a split, or a share without training rows.
    """

    def __init__(
        self,
        train: str | None = None,
        validation: str | None = None,
        test: str | None = None,
        validation_share: float = 0.0,
        test_share: float = 0.0,
        split_seed: int = 0,
        on_bad_row: OnBadRow = "error",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for split, source, share in (("validation", validation, validation_share), ("test", test, test_share)):
            if source and share:
                raise DataError(f"data.{split} and data.{split}_share={share} exclude each other; give one")
            if share and not train:
                raise DataError(f"data.{split}_share={share} is a share of data.train; give data.train")
        self.train = train
        self.validation = validation
        self.test = test
        self.validation_share = validation_share
        self.test_share = test_share
        self.split_seed = split_seed
        self.on_bad_row = on_bad_row

    @abstractmethod
    def example(self, row: Row, where: str, name: str, trained: bool) -> Example:
        """The example of a row.

        Args:
            row: The row.
            where: File and row, for errors.
            name: Id of the example, made of the file's name and the row's number.
            trained: Whether the row is from the training source, some of whose rows may be held out for evaluation.

        Raises:
            DataError: If the row cannot be used; the message begins with ``where``.
        """

    @abstractmethod
    def evaluation_set(self, examples: Sequence[Example], split: str) -> EvaluationSet:
        """Examples of a split (``validation`` or ``test``) with their graders."""

    def load(self) -> Splits:
        """Read the rows, and hold out the shares by question."""
        rows = self.read(self.train, "train") if self.train else []
        train, validation, test = hold_out_questions(rows, [self.validation_share, self.test_share], self.split_seed)
        if self.validation:
            validation = self.read(self.validation, "validation")
        if self.test:
            test = self.read(self.test, "test")
        for split, examples in (("validation", validation), ("test", test)):
            warn_of_overlap(train, examples, split)
        return Splits(
            train,
            [self.evaluation_set(validation, "validation")] if self.validation or self.validation_share else [],
            [self.evaluation_set(test, "test")] if self.test or self.test_share else [],
        )

    def read(self, source: str, split: str) -> list[Example]:
        """The examples of a source."""
        stem = Path(source).stem

        def parse(row: Row, where: str, number: int) -> Example:
            try:
                return self.example(row, where, f"{stem}-{number}", trained=split == "train")
            except DataError as error:
                message = str(error)
                raise DataError(message if message.startswith(where) else f"{where}: {message}") from error

        return parse_rows(read_rows(source, split, argument=f"data.{split}"), source, parse, self.on_bad_row)


def parse_rows(rows: Sequence[Row], source: str, parse: Callable[[Row, str, int], T], on_bad_row: OnBadRow) -> list[T]:
    """Make something of each row, and leave out bad rows if that is asked for.

    Args:
        rows: The rows.
        source: Where they are from, for messages.
        parse: Makes something of a row, given also where it is (``file, row 7``) and its number, counted from 1.
        on_bad_row: See :class:`RowDataModule`.

    Raises:
        DataError: If a row is bad and bad rows are errors, or if all rows are bad.
    """
    parsed = []
    bad: list[DataError] = []
    for number, row in enumerate(rows, start=1):
        try:
            parsed.append(parse(row, f"{source}, row {number}", number))
        except DataError as error:
            if on_bad_row == "error":
                raise DataError(f"{error} (data.on_bad_row=skip leaves such rows out)") from error
            bad.append(error)
    if bad and not parsed:
        raise DataError(f"{source}: all {len(bad)} rows are bad; the first: {bad[0]}")
    if bad:
        log.warning("left out %d of %d rows (data.on_bad_row=skip); the first: %s", len(bad), len(rows), bad[0])
    return parsed


def question(example: Example) -> str:
    """What an example asks, in a form in which the same question is the same text whatever its spacing."""
    return re.sub(r"\s+", " ", example.prompt[-1]["content"]).strip()


def hold_out_questions(examples: Sequence[Example], shares: Sequence[float], seed: int) -> list[list[Example]]:
    """Like :func:`~lightning_sdft.data.tables.hold_out`, but all examples of a question go to the same part."""
    questions = list(dict.fromkeys(map(question, examples)))
    parts = [set(part) for part in hold_out(questions, shares, seed)]
    return [[example for example in examples if question(example) in part] for part in parts]


def warn_of_overlap(train: Sequence[Example], evaluated: Sequence[Example], split: str) -> None:
    """Warn if questions that are evaluated are trained on."""
    trained = set(map(question, train))
    shared = [example.id for example in evaluated if question(example) in trained]
    if shared:
        log.warning(
            "%d of %d %s questions, the first being %s, are also trained on: accuracy on them does not show what was "
            "learned; leave them out of one side",
            len(shared),
            len(evaluated),
            split,
            shared[0],
        )
