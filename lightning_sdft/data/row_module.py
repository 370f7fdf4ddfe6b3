"""What the data modules that read tables share: sources, held-out shares, and the handling of bad rows."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.data.json_files import BadRow
from lightning_sdft.data.questions import hold_out_questions, question, warn_of_overlap
from lightning_sdft.data.splits import EvaluationSet, Splits
from lightning_sdft.data.tables import Row, open_rows
from lightning_sdft.errors import DataError, placed
from lightning_sdft.records import Example, text_problem
from lightning_sdft.settings import Fraction, Seed, check_ranges

__all__ = ["OnBadRow", "Part", "RowDataModule", "located", "parse_rows"]

log = logging.getLogger(__name__)

R = TypeVar("R")
T = TypeVar("T")
E = TypeVar("E", Example, Example | None)

OnBadRow = Literal["error", "skip"]


class Part(NamedTuple):
    """A row that makes one example: a whole row of the source, or a piece of a row that holds several examples.

    Args:
        row: The row.
        place: Position within the source's row, appended to the file and row in errors, such as ``, question 3``.
        suffix: The same position, appended to the example's id, such as ``-3``.
    """

    row: Row
    place: str = ""
    suffix: str = ""


class RowDataModule(DemonstrationDataModule):
    """Base class of data modules that read tables; a subclass makes the examples of rows, and the graders.

    Args:
        train: File, folder or hub id of the training rows; see :func:`~lightning_sdft.data.tables.read_rows`.
        validation: The same for rows evaluated during training.
        test: The same for rows evaluated by ``test`` and ``predict``.
        validation_share: Share of the training questions held out for validation, if ``validation`` is not given.
        test_share: Share of the training questions held out for the test, if ``test`` is not given.
        split_seed: Seed for choosing the held-out questions. All rows with the same question go to the same split.
        on_bad_row: What to do about a row that cannot be used: ``error`` stops with an error that names it, ``skip``
            leaves it out and warns of the number of such rows.
        **kwargs: See :class:`DemonstrationDataModule`.

    Raises:
        DataError: If a split has both rows and a share, or a share is given without training rows.
    """

    def __init__(
        self,
        train: str | None = None,
        validation: str | None = None,
        test: str | None = None,
        validation_share: Fraction = 0.0,
        test_share: Fraction = 0.0,
        split_seed: Seed = 0,
        on_bad_row: OnBadRow = "error",
        **kwargs: Any,
    ) -> None:
        check_ranges(RowDataModule, locals())
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
        """Make an example of a row; ``None`` for a valid row of a kind that this module leaves out.

        Args:
            row: The row.
            where: File and row, for error messages.
            name: Id of the example, made of the file's name and the row's number.
            trained: Whether the row is from the training source. It may still be held out for evaluation.

        Raises:
            DataError: If the row cannot be used; the message begins with ``where``.
        """

    def survey(self, rows: Sequence[Row], source: str, split: str) -> None:
        """Look at all rows of a source before examples are made of them; by default nothing is done.

        Args:
            rows: The rows that can be read, at least one.
            source: Where they are from.
            split: ``train``, ``validation``, ``test``, or another name for rows to evaluate.

        Raises:
            DataError: If the source cannot be used.
        """

    def parts(self, row: Row, where: str, trained: bool) -> Sequence[Part]:
        """Divide a row of the source into rows of one example each; by default the row is one example.

        Args:
            row: The row.
            where: File and row, for error messages.
            trained: Whether the row is from the training source.

        Raises:
            DataError: If the row cannot be divided; the message begins with ``where``.
        """
        return [Part(row)]

    @abstractmethod
    def evaluation_set(self, examples: Sequence[Example], split: str) -> EvaluationSet:
        """Combine the examples of a split (``validation`` or ``test``) with their graders."""

    def question(self, example: Example) -> str:
        """The text that identifies an example's question; examples with the same question are held out together."""
        return question(example)

    def hold_out(self, examples: Sequence[Example]) -> list[list[Example]]:
        """Split training examples by question into those to train on, those for validation and those for the test."""
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
        """Read the examples of a source.

        Raises:
            DataError: If a row cannot be used and ``on_bad_row`` is ``error``, or if the source has no examples.
        """
        stem = Path(source).stem
        trained = split == "train"

        def divide(row: Row, where: str, number: int) -> list[tuple[int, Part]]:
            return [(number, part) for part in self.parts(row, where, trained)]

        def parse(part: Part, where: str, number: int) -> Example | None:
            where += part.place
            try:
                return located(self.example(part.row, where, f"{stem}-{number}{part.suffix}", trained), where)
            except DataError as error:
                raise DataError(placed(where, error)) from error

        rows = open_rows(source, split, argument=f"{self.setting}.{split}")
        if readable := [row for row in rows if not isinstance(row, BadRow)] if isinstance(rows, list) else rows:
            self.survey(readable, source, split)
        numbered = list(chain.from_iterable(parse_rows(rows, source, divide, self.on_bad_row, setting=self.setting)))
        parts, numbers = [part for _, part in numbered], [number for number, _ in numbered]
        parsed = parse_rows(parts, source, parse, self.on_bad_row, numbers, self.setting)
        examples = [example for example in parsed if example is not None]
        others = len(parsed) - len(examples)
        if not examples:
            raise DataError(f"{source}: all {others} rows are of another kind than {type(self).__name__} reads")
        if others:
            log.info("%s: left out %d of %d rows, which are of another kind", source, others, len(parts))
        return examples


def located(example: E, where: str) -> E:
    """An example that knows its file and row.

    Raises:
        DataError: If one of its texts cannot be encoded.
    """
    if example is None:
        return example
    texts = (example.id, example.prompt, example.demonstration, example.context, example.reference)
    if (problem := text_problem(texts)) is not None:
        raise DataError(f"{where}: {problem}")
    return replace(example, where=where)


def parse_rows(
    rows: Sequence[R],
    source: str,
    parse: Callable[[R, str, int], T],
    on_bad_row: OnBadRow,
    numbers: Sequence[int] | None = None,
    setting: str = "data",
) -> list[T]:
    """Apply a function to each row, and leave out the rows it refuses if ``on_bad_row`` is ``skip``.

    Args:
        rows: The rows, or the parts of rows.
        source: Where they are from, for messages.
        parse: Called with the row, its place (``file, row 7``) and its number, counted from 1; raises ``DataError``
            for a bad row.
        on_bad_row: See :class:`RowDataModule`.
        numbers: The number of each row in the source, if ``rows`` are not all of its rows.
        setting: The setting that has ``on_bad_row``, for messages.

    Raises:
        DataError: If a row is bad and ``on_bad_row`` is ``error``, or if all rows are bad.
    """
    parsed = []
    bad: list[DataError] = []
    for number, row in zip(numbers or range(1, len(rows) + 1), rows, strict=True):
        try:
            parsed.append(_parsed(parse, row, f"{source}, row {number}", number))
        except DataError as error:
            if on_bad_row == "error":
                raise DataError(f"{error} ({setting}.on_bad_row=skip leaves such rows out)") from error
            bad.append(error)
    if bad and not parsed:
        raise DataError(f"{source}: all {len(bad)} rows are bad; the first: {bad[0]}")
    if bad:
        counts = f"{len(bad)} of {len(rows)}"
        log.warning("left out %s rows (%s.on_bad_row=skip); the first: %s", counts, setting, bad[0])
    return parsed


def _parsed(parse: Callable[[R, str, int], T], row: R, where: str, number: int) -> T:
    if isinstance(row, BadRow):
        raise DataError(row.problem)
    try:
        return parse(row, where, number)
    except RecursionError as error:
        raise DataError(f"{where}: lists or objects are nested too deeply; correct the row") from error
