"""What the data modules of rows share: sources, held-out shares, and what is done about bad rows."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from lightning_sdft.data.base import DemonstrationDataModule, EvaluationSet, Splits
from lightning_sdft.data.questions import hold_out_questions, question, warn_of_overlap
from lightning_sdft.data.tables import Row, read_rows
from lightning_sdft.errors import DataError
from lightning_sdft.records import Example

__all__ = ["OnBadRow", "Part", "RowDataModule", "parse_rows"]

log = logging.getLogger(__name__)

R = TypeVar("R")
T = TypeVar("T")

OnBadRow = Literal["error", "skip"]


class Part(NamedTuple):
    """A row that makes one example: a row of the source, or what was cut out of one that holds several examples.

    Args:
        row: The row.
        place: Where it is within the row of the source, appended to file and row in errors, such as ``, question 3``.
        suffix: The same for the id, such as ``-3``.
    """

    row: Row
    place: str = ""
    suffix: str = ""


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
    def example(self, row: Row, where: str, name: str, trained: bool) -> Example | None:
        """The example of a row, or ``None`` for a good row of another kind, which is left out.

        Args:
            row: The row.
            where: File and row, for errors.
            name: Id of the example, made of the file's name and the row's number.
            trained: Whether the row is from the training source, some of whose rows may be held out for evaluation.

        Raises:
            DataError: If the row cannot be used; the message begins with ``where``.
        """

    def parts(self, row: Row, where: str, trained: bool) -> Sequence[Part]:
        """What a row of the source holds; by default it is itself what makes an example.

        Args:
            row: The row.
            where: File and row, for errors.
            trained: Whether the row is from the training source.

        Raises:
            DataError: If the row cannot be divided; the message begins with ``where``.
        """
        return [Part(row)]

    @abstractmethod
    def evaluation_set(self, examples: Sequence[Example], split: str) -> EvaluationSet:
        """Examples of a split (``validation`` or ``test``) with their graders."""

    def question(self, example: Example) -> str:
        """What an example asks: examples that ask the same are never both trained on and held out."""
        return question(example)

    def hold_out(self, examples: Sequence[Example]) -> list[list[Example]]:
        """The training examples, and those of them that are held out for validation and for the test, by question."""
        return hold_out_questions(examples, [self.validation_share, self.test_share], self.split_seed, self.question)

    def load(self) -> Splits:
        """Read the rows, and hold out the shares."""
        rows = self.read(self.train, "train") if self.train else []
        train, validation, test = self.hold_out(rows)
        if self.validation:
            validation = self.read(self.validation, "validation")
        if self.test:
            test = self.read(self.test, "test")
        for split, examples in (("validation", validation), ("test", test)):
            warn_of_overlap(train, examples, split, self.question)
        return Splits(
            train,
            [self.evaluation_set(validation, "validation")] if self.validation or self.validation_share else [],
            [self.evaluation_set(test, "test")] if self.test or self.test_share else [],
        )

    def read(self, source: str, split: str) -> list[Example]:
        """The examples of a source.

        Raises:
            DataError: If a row cannot be used and that is an error, or if the source has no examples.
        """
        stem = Path(source).stem
        trained = split == "train"

        def divide(row: Row, where: str, number: int) -> list[tuple[int, Part]]:
            return [(number, part) for part in self.parts(row, where, trained)]

        def parse(part: Part, where: str, number: int) -> Example | None:
            where += part.place
            try:
                return self.example(part.row, where, f"{stem}-{number}{part.suffix}", trained)
            except DataError as error:
                message = str(error)
                raise DataError(message if message.startswith(where) else f"{where}: {message}") from error

        rows = read_rows(source, split, argument=f"data.{split}")
        numbered = list(chain.from_iterable(parse_rows(rows, source, divide, self.on_bad_row)))
        parts = [part for _, part in numbered]
        parsed = parse_rows(parts, source, parse, self.on_bad_row, [number for number, _ in numbered])
        examples = [example for example in parsed if example is not None]
        others = len(parsed) - len(examples)
        if not examples:
            raise DataError(f"{source}: all {others} rows are of another kind than {type(self).__name__} reads")
        if others:
            log.info("%s: left out %d of %d rows, which are of another kind", source, others, len(parts))
        return examples


def parse_rows(
    rows: Sequence[R],
    source: str,
    parse: Callable[[R, str, int], T],
    on_bad_row: OnBadRow,
    numbers: Sequence[int] | None = None,
) -> list[T]:
    """Make something of each row, and leave out bad rows if that is asked for.

    Args:
        rows: The rows, or the parts of rows.
        source: Where they are from, for messages.
        parse: Makes something of a row, given also where it is (``file, row 7``) and its number, counted from 1.
        on_bad_row: See :class:`RowDataModule`.
        numbers: Number of each row, where they are not all rows of the source.

    Raises:
        DataError: If a row is bad and bad rows are errors, or if all rows are bad.
    """
    parsed = []
    bad: list[DataError] = []
    for number, row in zip(numbers or range(1, len(rows) + 1), rows, strict=True):
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
