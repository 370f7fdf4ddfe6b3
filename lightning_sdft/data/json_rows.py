"""Your own demonstrations: any table of prompts with responses, or of conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import islice
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from lightning_sdft.data.images import check_image_column, with_images
from lightning_sdft.data.layout_reading import read_as
from lightning_sdft.data.layouts import AUTO, FIRST, Layout, find_layout
from lightning_sdft.data.questions import warn_of_overlap
from lightning_sdft.data.row_module import RowDataModule
from lightning_sdft.data.splits import EvaluationSet, Splits
from lightning_sdft.data.tables import Row, take
from lightning_sdft.errors import DataError, did_you_mean
from lightning_sdft.grading.base import Grader
from lightning_sdft.grading.exact_match import ExactMatch
from lightning_sdft.grading.references import alternatives
from lightning_sdft.records import Example, Message, text_of
from lightning_sdft.settings import Count, check_ranges

__all__ = ["JsonDataModule"]

AVERAGE = "average"
"""Name under ``prior/`` that is reserved for the mean over all prior tasks."""


class JsonDataModule(RowDataModule):
    """Rows of a file, or of a saved or hub data set; their layout is found in the first rows, and said in one line.

    Known are columns ``prompt`` and ``response`` or ``completion``; ``question`` and ``answer``; ``instruction``,
    ``input`` and ``output`` (Alpaca); ``messages`` with ``role`` and ``content``; and ``conversations`` with ``from``
    and ``value`` (ShareGPT), whose last turn is the demonstration. A column ``system`` becomes the system turn. For
    other columns, and where several would do, give their names.

    Args:
        train: File, folder or hub id of the training rows; see :func:`~lightning_sdft.data.tables.read_rows`.
        validation: The same for rows evaluated during training.
        test: The same for rows evaluated by ``test`` and ``predict``.
        prior: The same for rows that the model could answer before training. They are evaluated in validation and in
            test, and their accuracy shows what the model has kept: it is logged as ``prior/<name>``, and the mean over
            all of them as ``prior/average``. The name is the file name without suffix; for several sources give names
            yourself: ``{capitals: capitals.jsonl, sums: old/sums.jsonl}``. These rows have the same columns as the
            others, and their answers are graded the same way.
        prompt_column: Column of the prompt: a string (one user turn), or a list of messages with ``role`` and
            ``content`` that ends with a user turn, or with the response. By default (``auto``) it is found. Further
            fields of a message (``tool_calls``, ``reasoning_content``) are given to the chat template; if it does not
            read what they say, the row is a bad row.
        demonstration_column: Column of the expert's response; the one of the prompt if that is a conversation whose
            last turn is the response; ``None`` if there are no demonstrations. By default (``auto``) it is found. Rows
            that are not trained on may lack it.
        reference_column: Column of the reference that the grader compares responses with: text, a number, a date, or a
            list of alternatives (see :mod:`lightning_sdft.grading.references`). Without one, validation and test show
            the loss of the demonstrations instead of accuracies: ``val/loss``, and ``prior_loss/<name>`` of prior rows;
            likewise for a source in which no row has this column, if another one has it.
        context_column: Column of additional text that only the teacher sees. Rows that are not trained on may lack it.
        image_column: Column of a path or a list of paths of images, relative to the folder of the rows' file; they
            stand before the text of the first user turn, or where the prompt's content has ``{"type": "image"}``.
            Images may also be parts of the content themselves: ``{"type": "image", "image": PATH}``. Each is read once
            at the start, and refused if it is missing or broken; none is kept in memory. Rows may lack the column.
        system_prompt: System turn added before every prompt.
        id_column: Column of unique ids; by default an id is made of the file's name and the row's number.
        limit: Train only on the first ``limit`` rows that are not held out; ``None`` uses all.
        grader: Decides which responses are correct; ``None`` means
            :class:`~lightning_sdft.grading.exact_match.ExactMatch` if there are references. A judge and
            :class:`~lightning_sdft.grading.sari.Sari` are told the last user turn as the question.
        name: Name of the metric.
        **kwargs: See :class:`RowDataModule`.

    Raises:
        DataError: If the grader needs a reference column, or prior rows are named ``average``.
    """

    def __init__(
        self,
        train: str | None = None,
        validation: str | None = None,
        test: str | None = None,
        prior: dict[str, str] | str | None = None,
        prompt_column: str = AUTO,
        demonstration_column: str | None = AUTO,
        reference_column: str | None = None,
        context_column: str | None = None,
        image_column: str | None = None,
        system_prompt: str | None = None,
        id_column: str | None = None,
        limit: Count | None = None,
        grader: Grader | None = None,
        name: str = "json",
        **kwargs: Any,
    ) -> None:
        check_ranges(JsonDataModule, locals())
        super().__init__(train=train, validation=validation, test=test, **kwargs)
        self.prior = {Path(prior).stem: prior} if isinstance(prior, str) else dict(prior or {})
        if grader is not None and grader.needs_reference and reference_column is None:
            raise DataError(
                f"data.grader={type(grader).__name__} compares answers with references; give data.reference_column"
            )
        if AVERAGE in self.prior:
            raise DataError(
                f"data.prior: prior/{AVERAGE} is the mean over all prior rows; give {self.prior[AVERAGE]} another "
                f"name, such as data.prior={{capitals: {self.prior[AVERAGE]}}}"
            )
        self.prompt_column = prompt_column
        self.demonstration_column = demonstration_column
        self.reference_column = reference_column
        self.context_column = context_column
        self.image_column = image_column
        self._folder = Path()
        self.system_prompt = system_prompt
        self.id_column = id_column
        self.limit = limit
        self.grader = ExactMatch() if grader is None and reference_column is not None else grader
        self.metric_name = name
        self._without: list[str] = []  # what is said of evaluated sources without references
        self._has_references = False
        self._trained: Layout | None = None
        self._layout: Layout | None = None

    def load(self) -> Splits:
        """Read the rows, hold out the shares, and add the prior rows to both evaluation splits."""
        self._without = []
        splits = super().load()
        prior = {name: self.read(source, "prior") for name, source in self.prior.items()}
        for name, examples in prior.items():
            warn_of_overlap(splits.train, examples, f"prior/{name}", self.question)
        validation, test = (
            [*sets, *(self._graded(examples, name, prior=True) for name, examples in prior.items())]
            for sets in (splits.validation, splits.test)
        )
        if self._without and not any(each.graders for each in (*validation, *test)):
            raise DataError(f"{self._without[0]}; correct data.reference_column, or leave it out")
        for source in self._without:
            rank_zero_info(f"{source}. Its answers are not graded; the loss of its demonstrations is evaluated")
        return Splits(splits.train, validation, test)

    def hold_out(self, examples: Sequence[Example]) -> list[list[Example]]:
        """The first ``limit`` training examples, and the held-out ones, which do not depend on the limit."""
        train, *held_out = super().hold_out(examples)
        return [train[: self.limit], *held_out]

    def survey(self, rows: Sequence[Row], source: str, split: str) -> None:
        """Find the layout of a source: that of the training rows, if it has their columns; and whether it is graded."""
        trained = split == "train"
        path = Path(source).expanduser()
        self._folder = path.absolute().parent if path.is_file() else path.absolute()
        if self.image_column is not None and split != "prior":
            check_image_column(rows, self.image_column, source)
        self._has_references = self._look_for_references(rows, source, not trained or self._holds_out)
        known = set() if self._trained is None else set(self._trained.columns)
        if known and known <= {name for row in islice(rows, FIRST) for name in row}:
            self._layout = self._trained
            return
        taken = [each for each in (self.context_column, self.id_column, self.image_column) if each is not None]
        graded = [each for each in (self.reference_column,) if each is not None]
        columns = (self.prompt_column, self.demonstration_column)
        try:
            self._layout = find_layout(rows, *columns, taken, graded, needed=trained, setting=self.setting)
        except DataError as error:
            header = Path(source).suffix in (".csv", ".tsv")
            hint = ". The first line of a table must hold the names of its columns" if header else ""
            raise DataError(f"{source}: {error}{hint}") from error
        if not known >= set(self._layout.columns):
            rank_zero_info(f"{source}: {self._layout}")
        if trained:
            self._trained = self._layout

    @property
    def _holds_out(self) -> bool:
        """Whether training rows are held out for evaluation."""
        return self.validation_share + self.test_share > 0

    def _look_for_references(self, rows: Sequence[Row], source: str, evaluated: bool) -> bool:
        """Whether any row has a reference; if none has, the source is evaluated by its demonstrations."""
        column = self.reference_column
        if column is None or any(column in row for row in (rows if isinstance(rows, list) else islice(rows, FIRST))):
            return column is not None
        if evaluated:
            hint = did_you_mean(column, rows[0])
            self._without.append(
                f"{source}: no column {column!r}{hint}; the columns are {', '.join(map(repr, rows[0]))}"
            )
        return False

    def example(self, row: Row, where: str, name: str, trained: bool) -> Example:
        """Make an example of a row."""
        if self.id_column is not None:
            name = str(take(row, self.id_column, object, where))
        assert self._layout is not None  # survey comes first
        others = [each for each in (self.reference_column, self.context_column) if each is not None]
        prompt, demonstration = read_as(self._layout, row, where, trained, others, images=True)
        images = None if self.image_column is None else row.get(self.image_column)
        prompt = with_images(prompt, images, self._folder, where)
        context = _text(row, self.context_column, where, needed=trained)
        reference = self._reference(row, where, graded=not trained or self._holds_out)
        asks = self.grader is not None and self.grader.needs_question
        if asks and reference is not None and not isinstance(reference, Mapping):
            reference = {"question": text_of(prompt[-1]["content"]) if prompt else "", "answer": reference}
        return Example(name, self._with_system(prompt), demonstration, context, reference)

    def evaluation_set(self, examples: Sequence[Example], split: str) -> EvaluationSet:
        """Combine examples with the grader."""
        return self._graded(examples, self.metric_name, prior=False)

    def _graded(self, examples: Sequence[Example], name: str, prior: bool) -> EvaluationSet:
        graders: dict[str, Grader] = {}
        if self.grader is not None and (
            not self.grader.needs_reference or any(each.reference is not None for each in examples)
        ):
            graders[name] = deepcopy(self.grader)
        return EvaluationSet(examples, graders, prior, title=name)

    def _reference(self, row: Row, where: str, graded: bool) -> object:
        if self.reference_column is None or not self._has_references:
            return None
        if not graded:
            return row.get(self.reference_column)
        reference = take(row, self.reference_column, object, where)
        if all(each != each for each in alternatives(reference)):  # none, or only floats that are no number
            raise DataError(f"{where}: column {self.reference_column!r} is null; it is to be graded, so give a value")
        if self.grader is not None and not self.grader.needs_question:
            self.grader.check_reference(reference)
        return reference

    def _with_system(self, messages: list[Message]) -> list[Message]:
        if self.system_prompt is None:
            return messages
        if messages and messages[0]["role"] == "system":
            raise DataError("the prompt has a system turn of its own; leave out data.system_prompt, or that turn")
        return [Message(role="system", content=self.system_prompt), *messages]


def _text(row: Row, column: str | None, where: str, needed: bool) -> str | None:
    """The text of a column, or ``None`` if it is missing and not needed."""
    if column is None or (not needed and row.get(column) is None):
        return None
    return take(row, column, str, where)
